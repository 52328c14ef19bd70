"""What a client says of a hosted environment: read, checked, merged with a template, shown.

Paths are below /workspace, the directory that the agent works in. Values of `env`, the bodies of
setup commands and the contents of files are taken in and never shown again.
"""

import base64
import binascii
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from perdure.core.agent import EnvironmentSpec
from perdure.doors.openai.agents.capabilities import Capability, Kind, read_capabilities
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
Size = Literal["small", "medium", "large"]

WORKSPACE: Final = "/workspace"
_GIB: Final = 1024**3
_SIZES: Final[Mapping[Size, tuple[int, int]]] = {  # bytes of memory, processes
    "small": (1 * _GIB, 128),
    "medium": (2 * _GIB, 256),
    "large": (8 * _GIB, 1024),
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PACKAGES: Final = {
    "python": re.compile(r"[A-Za-z0-9][A-Za-z0-9._\[\],<>=!~+ -]*\Z"),
    "npm": re.compile(r"[A-Za-z0-9@][A-Za-z0-9._@/^~<>=-]*\Z"),
    "system": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*\Z"),
}
KINDS: Final[Sequence[Kind]] = ("plugin", "skill")
_DOMAIN: Final = re.compile(r"(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?\Z")


class GivenFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file to be there before the agent starts: by the id of an upload, or as it came (`blob` is
    the digest of its content in the store). `path` is relative to the workspace.
    """

    path: str
    file_id: str = ""
    blob: str = ""
    size_bytes: int = 0


class SetupCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command to run once, before the first turn, in `cwd` relative to the workspace."""

    command: str
    cwd: str = "."


class Hosting(msgspec.Struct, frozen=True, omit_defaults=True):
    """A hosted environment as it was asked for. `data` is what came with files and is not stored
    yet, by path.
    """

    container_size: Size = "medium"
    access: Literal["enabled", "disabled", "restricted"] = "disabled"
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    env: dict[str, str] = {}
    files: tuple[GivenFile, ...] = ()
    python: tuple[str, ...] = ()
    npm: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    setup_commands: tuple[SetupCommand, ...] = ()
    capability_directories: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()

    def spec(self, kind: str) -> EnvironmentSpec:
        """Return what the engine is to open, as an environment of `kind`."""
        memory, processes = _SIZES[self.container_size]
        return EnvironmentSpec(
            kind=kind, memory_bytes=memory, processes=processes, network=self.network()
        )

    def network(self) -> tuple[str, ...]:
        """Return where commands may connect to, in the words of `EnvironmentSpec.network`."""
        if self.access == "disabled":
            return ()
        if self.access == "enabled":
            return ("*",)
        if self.blocked_domains:
            return ("*", *(f"!{domain}" for domain in self.blocked_domains))
        return self.allowed_domains

    def shown(self) -> Json:
        """Return what may be read of it, but for its files."""
        return {
            "capability_directories": list(self.capability_directories),
            "desktop": {"enabled": False},
            "network": {"access": self.access, "allowed_domains": list(self.allowed_domains)},
            "packages": {
                "npm": list(self.npm),
                "python": list(self.python),
                "system": list(self.system),
            },
            **self.shown_capabilities(),
        }

    def shown_capabilities(self) -> Json:
        """Return the plugins and skills, without their archives."""
        return {
            f"{kind}s": [each.shown() for each in self.capabilities if each.kind == kind]
            for kind in KINDS
        }


def read_hosting(given: Mapping[str, Any], base: Hosting | None = None) -> tuple[Hosting, Json]:
    """Return what a client asks for, over a template `base`, and the contents of its inline files
    by path, and the archives of plugins and skills by folder. Raises `Wording` (400, 404) for what
    is wrong or not available here.
    """
    base = base or Hosting()
    desktop = given.get("desktop")
    if isinstance(desktop, dict) and desktop.get("enabled"):
        raise Wording(400, "A desktop is not available on this server.", param="desktop")
    access, allowed, blocked = _network(given.get("network"), base)
    files, contents = _files(given.get("files"), base)
    capabilities, archives = _capabilities(given, base)
    python, npm, system = _packages(given.get("packages"), base)
    found = Hosting(
        container_size=_size(given.get("container_size"), base),
        access=access,
        allowed_domains=allowed,
        blocked_domains=blocked,
        env=_env(given.get("env"), base),
        files=files,
        python=python,
        npm=npm,
        system=system,
        capabilities=capabilities,
        setup_commands=_commands(given.get("setup_commands"), base),
        capability_directories=_strings(
            given.get("capability_directories"), "capability_directories"
        )
        or base.capability_directories,
    )
    for name, packages in (("python", found.python), ("npm", found.npm)):
        if packages and found.access == "disabled":
            said = "Packages come over the network: give network.access enabled or restricted."
            raise Wording(400, said, param=f"packages.{name}")
    return found, contents | archives


def relative(path: object, param: str = "path") -> str:
    """Return a path below the workspace, relative to it. Raises `Wording` (400)."""
    if not isinstance(path, str) or not path or "\0" in path:
        raise Wording(400, f"{param} is a path below {WORKSPACE}.", param=param)
    inside = posixpath.normpath(path)
    if inside.startswith("/"):
        inside = posixpath.relpath(inside, WORKSPACE)
    if inside == ".." or inside.startswith("../"):
        raise Wording(400, f"{path} does not lie below {WORKSPACE}.", param=param)
    return inside


def absolute(path: str) -> str:
    """Return a path as the agent sees it."""
    return posixpath.join(WORKSPACE, path)


def read_file(given: object, where: str = "files") -> tuple[GivenFile, bytes | None]:
    """Return a file that a client names or sends, and its content if it is here.

    Raises `Wording` (400).
    """
    if not isinstance(given, dict):
        raise Wording(400, f"{where} holds an object for each file.", param=where)
    path = relative(given.get("path"), f"{where}.path")
    if path == ".":
        raise Wording(400, "A file needs a name.", param=f"{where}.path")
    match given.get("type"):
        case "inline":
            data = given.get("data")
            try:
                content = base64.b64decode(data if isinstance(data, str) else "?", validate=True)
            except (binascii.Error, ValueError) as error:
                raise Wording(400, "data is not base64.", param=f"{where}.data") from error
            return GivenFile(path, size_bytes=len(content)), content
        case "file_id":
            file_id = given.get("file_id")
            if not isinstance(file_id, str) or not file_id:
                raise Wording(400, "A file needs a file_id.", param=f"{where}.file_id")
            return GivenFile(path, file_id=file_id), None
        case kind:
            raise Wording(400, f"There are no files of type {kind!r}.", param=f"{where}.type")


def _files(given: object, base: Hosting) -> tuple[tuple[GivenFile, ...], Json]:
    if given is None:
        return base.files, {}
    if not isinstance(given, list):
        raise Wording(400, "files is a list.", param="files")
    found: dict[str, GivenFile] = {}
    contents: Json = {}
    for number, each in enumerate(given):
        file, content = read_file(each, f"files[{number}]")
        found[file.path] = file
        if content is not None:
            contents[file.path] = content
    return tuple(found.values()), contents


def _capabilities(given: Mapping[str, Any], base: Hosting) -> tuple[tuple[Capability, ...], Json]:
    found, archives = list(base.capabilities), dict[str, Any]()
    for kind in KINDS:
        if given.get(f"{kind}s") is None:
            continue
        found = [each for each in found if each.kind != kind]
        for each, archive in read_capabilities(given[f"{kind}s"], kind):
            found.append(each)
            archives[each.folder] = archive
    return tuple(found), archives


def _size(given: object, base: Hosting) -> Size:
    if given is None:
        return base.container_size
    found = next((size for size in _SIZES if size == given), None)
    if found is None:
        raise Wording(400, "container_size is small, medium or large.", param="container_size")
    return found


def _network(given: object, base: Hosting) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    if given is None:
        return base.access, base.allowed_domains, base.blocked_domains
    if not isinstance(given, dict) or given.get("access") not in (
        "enabled", "disabled", "restricted",
    ):  # fmt: skip
        said = "network.access is enabled, disabled or restricted."
        raise Wording(400, said, param="network.access")
    access = given["access"]
    allowed = _domains(given.get("allowed_domains"), "network.allowed_domains")
    blocked = _domains(given.get("blocked_domains"), "network.blocked_domains")
    if blocked and (access != "restricted" or allowed):
        said = "blocked_domains goes with access restricted, and without allowed_domains."
        raise Wording(400, said, param="network.blocked_domains")
    if any(domain.startswith("*") for domain in blocked):
        said = "blocked_domains holds no wildcards."
        raise Wording(400, said, param="network.blocked_domains")
    return access, allowed, blocked


def _domains(given: object, param: str) -> tuple[str, ...]:
    found = _strings(given, param)
    for domain in found:
        if not _DOMAIN.match(domain):
            raise Wording(400, f"{domain!r} is no domain.", param=param)
    return tuple(domain.lower() for domain in found)


def _env(given: object, base: Hosting) -> dict[str, str]:
    if given is None:
        return base.env
    if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
        raise Wording(400, "env maps names to strings.", param="env")
    for name, value in given.items():
        if not _NAME.match(name) or "\0" in value:
            raise Wording(400, f"{name!r} cannot be a variable.", param="env")
    return {**base.env, **given}


def _packages(given: object, base: Hosting) -> Sequence[tuple[str, ...]]:
    """Return the packages of Python, of npm and of the system."""
    if given is None:
        return base.python, base.npm, base.system
    if not isinstance(given, dict):
        raise Wording(400, "packages is an object.", param="packages")
    found: list[tuple[str, ...]] = []
    for kind, form in _PACKAGES.items():
        names = _strings(given.get(kind), f"packages.{kind}")
        for name in names:
            if not form.match(name):
                raise Wording(400, f"{name!r} is no {kind} package.", param=f"packages.{kind}")
        found.append(names)
    return found


def _commands(given: object, base: Hosting) -> tuple[SetupCommand, ...]:
    if given is None:
        return base.setup_commands
    if not isinstance(given, list):
        raise Wording(400, "setup_commands is a list.", param="setup_commands")
    found: list[SetupCommand] = []
    for number, each in enumerate(given):
        where = f"setup_commands[{number}]"
        command = each.get("command") if isinstance(each, dict) else None
        if not isinstance(command, str) or not command.strip() or "\0" in command:
            raise Wording(400, "A setup command needs a command.", param=f"{where}.command")
        cwd = each.get("cwd")
        where = f"{where}.cwd"
        found.append(SetupCommand(command, "." if cwd is None else relative(cwd, where)))
    return tuple(found)


def _strings(given: object, param: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise Wording(400, f"{param} is a list of strings.", param=param)
    return tuple(given)
