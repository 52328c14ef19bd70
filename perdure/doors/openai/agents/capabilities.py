"""Plugins and skills that come with an environment: archives, checked and laid into its workspace.

An archive is read when it comes, so that what is wrong with it is said to who sent it. The agent is
told the name, the description and the place of each; what is in them it reads when it needs them.
"""

import base64
import binascii
import io
import json
import posixpath
import re
import zipfile
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
Kind = Literal["plugin", "skill"]

_MANIFEST: Final[Mapping[Kind, str]] = {
    "plugin": ".codex-plugin/plugin.json",
    "skill": "SKILL.md",
}
_FOLDER: Final[Mapping[Kind, str]] = {"plugin": ".plugins", "skill": ".skills"}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_FIELD: Final = re.compile(r"^(name|description):[ \t]*(.*)$", re.MULTILINE)
_VERSION: Final = re.compile(r"latest|[1-9][0-9]*\Z")
_FILES: Final = 1000
_BYTES: Final = 32 * 1024**2  # of all files of an archive
_MANY: Final = 50


class Capability(msgspec.Struct, frozen=True, omit_defaults=True):
    """A plugin or a skill; `blob` is the digest of its archive in the store."""

    kind: Kind
    name: str
    description: str
    blob: str = ""

    @property
    def folder(self) -> str:
        """Where it lies, relative to the workspace."""
        return posixpath.join(_FOLDER[self.kind], self.name)

    def shown(self) -> Json:
        """Return what may be read of it."""
        return {"type": "inline", "name": self.name, "description": self.description}


def read_capabilities(given: object, kind: Kind) -> list[tuple[Capability, bytes]]:
    """Return what a client sends as `plugins` or `skills`, each with its archive.

    Raises `Wording` (400, 404).
    """
    where = f"{kind}s"
    if not isinstance(given, list) or len(given) > _MANY:
        raise Wording(400, f"{where} is a list of at most {_MANY}.", param=where)
    found = [_read(each, kind, f"{where}[{number}]") for number, each in enumerate(given)]
    if len({capability.name for capability, _ in found}) < len(found):
        raise Wording(400, f"Two of the {where} have the same name.", param=where)
    return found


def files_of(archive: bytes) -> dict[str, bytes]:
    """Return the files of an archive by their paths, without a folder that is around all of them.

    Raises `ValueError` for what is no archive, too large, or lies outside of it.
    """
    found: dict[str, bytes] = {}
    left = _BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            infos = [info for info in source.infolist() if not info.is_dir()]
            if len(infos) > _FILES:
                raise ValueError(f"it holds more than {_FILES} files")
            for info in infos:
                path = posixpath.normpath(info.filename)
                if path.startswith(("/", "..")) or "\0" in path or "\\" in path:
                    raise ValueError("a file lies outside of it")
                with source.open(info) as file:
                    found[path] = file.read(left + 1)
                left -= len(found[path])
                if left < 0:
                    raise ValueError(f"its files have more than {_BYTES} bytes")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError("it is no ZIP archive that can be read") from error
    except ValueError:
        raise
    except Exception as error:  # a decompressor's own
        raise ValueError("it is no ZIP archive that can be read") from error
    return _bare(found)


def told(environment: Mapping[str, Any]) -> str:
    """Return what an agent is told of the plugins and skills of its environment, as it is shown."""
    lines: list[str] = []
    for kind, folder in _FOLDER.items():
        for each in environment.get(f"{kind}s") or ():
            place = posixpath.join("/workspace", folder, each["name"])
            lines.append(f"- {kind} {each['name']}: {each['description']} (in {place})")
    if not lines:
        return ""
    head = "These are there for your work. Read SKILL.md, or the files of a plugin, when one fits:"
    return "\n".join([head, *lines])


def _read(given: object, kind: Kind, where: str) -> tuple[Capability, bytes]:
    if not isinstance(given, Mapping):
        raise Wording(400, f"{where} is an object.", param=where)
    if kind == "skill" and given.get("type") == "skill_reference":
        name, version = given.get("skill_id"), given.get("version")
        if version is not None and not (isinstance(version, str) and _VERSION.match(version)):
            said = "version is a positive integer or latest."
            raise Wording(400, said, param=f"{where}.version")
        said = f"No skill found with id '{name}': skills come inline to this server."
        raise Wording(404, said, param=f"{where}.skill_id")
    if given.get("type") != "inline":
        raise Wording(400, f"A {kind} is inline.", param=f"{where}.type")
    name, description = given.get("name"), given.get("description")
    if not isinstance(name, str) or not _NAME.match(name):
        said = "A name has letters, digits, dots, dashes and underscores."
        raise Wording(400, said, param=f"{where}.name")
    if not isinstance(description, str):
        raise Wording(400, "description is a text.", param=f"{where}.description")
    archive = _archive(given.get("source"), f"{where}.source")
    try:
        declared = _declared(files_of(archive), kind)
    except ValueError as error:
        said = f"The {kind}'s archive cannot be used: {error}."
        raise Wording(400, said, param=f"{where}.source.data") from error
    for field, value in (("name", name), ("description", description)):
        if declared.get(field) != value:
            said = f"{field} is not what the archive's {_MANIFEST[kind]} declares."
            raise Wording(400, said, param=f"{where}.{field}")
    return Capability(kind, name, description), archive


def _archive(source: object, where: str) -> bytes:
    right = isinstance(source, Mapping) and source.get("type") == "base64"
    if (
        not isinstance(source, Mapping)
        or not right
        or source.get("media_type") != "application/zip"
    ):
        said = "source is a ZIP archive (application/zip) in base64."
        raise Wording(400, said, param=where)
    data = source.get("data")
    try:
        return base64.b64decode(data if isinstance(data, str) else "?", validate=True)
    except (binascii.Error, ValueError) as error:
        raise Wording(400, "data is not base64.", param=f"{where}.data") from error


def _declared(files: Mapping[str, bytes], kind: Kind) -> dict[str, object]:
    manifest = files.get(_MANIFEST[kind])
    if manifest is None:
        raise ValueError(f"it has no {_MANIFEST[kind]}")
    text = manifest.decode("utf-8", "replace")
    if kind == "skill":
        head = text.split("---", 2)[1] if text.startswith("---") and text.count("---") > 1 else ""
        return {name: value.strip().strip("\"'") for name, value in _FIELD.findall(head)}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {_MANIFEST[kind]} is not JSON") from error
    return value if isinstance(value, dict) else {}


def _bare(files: dict[str, bytes]) -> dict[str, bytes]:
    tops = {path.partition("/")[0] for path in files}
    if len(tops) != 1 or any("/" not in path for path in files):
        return files
    (top,) = tops
    return files if top.startswith(".") else {p[len(top) + 1 :]: d for p, d in files.items()}
