"""What of the host a sandbox may see, read-only: the system and the Python that runs us.

Decides from paths only; binds nothing itself.
"""

import os
import sys
from pathlib import Path
from typing import Final

import msgspec

# Top-level names that hold programs and libraries: on most systems links into /usr.
_SYSTEM: Final = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu")
_ETC: Final = (
    "alternatives",
    "ca-certificates",
    "debian_version",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "pki",
    "protocols",
    "services",
    "ssl",
)


class Toolchain(msgspec.Struct, frozen=True):
    """Directories to show at their own paths, and where to look for programs."""

    paths: tuple[str, ...]
    search: tuple[str, ...]


def running_python(executable: str = "") -> Toolchain:
    """Return what the Python that runs us needs: its installation, and the venv if there is one.

    Both the path by which it is known and the real one: scripts in a venv name the former,
    links inside it lead to the latter.
    """
    roots = dict.fromkeys((sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix))
    paths = dict.fromkeys(p for root in roots for p in (root, os.path.realpath(root)))
    shown = tuple(p for p in paths if not _in_system(p))
    search = [f"{root}/bin" for root in roots if f"{root}/bin" not in ("/usr/bin", "/bin")]
    if executable and (folder := str(Path(executable).parent)) not in search:
        search.insert(0, folder)
    return Toolchain(shown, (*search, "/usr/local/bin", "/usr/bin", "/bin"))


def system_arguments() -> list[str]:
    """Return bwrap's arguments for a read-only system without anybody's data."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            arguments += ["--ro-bind", name, name]
    arguments += ["--perms", "0755", "--dir", "/etc"]
    for name in _ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return arguments


def _in_system(path: str) -> bool:
    return path == "/" or any(path == s or path.startswith(s + "/") for s in ("/usr", *_SYSTEM))
