"""Looking around from inside a sandbox: what is in force is what a command can see, not a flag.

Works on any sandbox of this machine; knows nothing of how it isolates.
"""

import os
import platform
from pathlib import Path
from typing import Final, Protocol

import msgspec

from perdure.core.errors import Unavailable
from perdure.ports.sandbox import Ended

_LOOK: Final = r"""
while read -r key value; do
  case $key in Seccomp: | NoNewPrivs: | CapEff: | CapBnd:) echo "$key$value" ;; esac
done </proc/self/status
for name in pid net mnt ipc; do echo "ns-$name:$(readlink /proc/self/ns/$name)"; done
echo "interfaces:$(($(wc -l </proc/net/dev) - 2))"
[ -e "$LOOK_AT" ] && echo "marker:seen"
(: >/usr/perdure-look) 2>/dev/null && echo "usr:writable"
(: >/perdure-look) 2>/dev/null && echo "root:writable"
[ -w /proc/sys/kernel/core_pattern ] && echo "kernel:writable"
(: >perdure-look) 2>/dev/null && echo "workspace:writable"
command -v python3 >/dev/null && python3 -c 'print("python:ok")' 2>/dev/null
true
"""


class Runs(Protocol):
    """As much of a sandbox as looking around needs."""

    async def run(self, script: str) -> Ended: ...


class IsolationSeen(msgspec.Struct, frozen=True):
    """What a command saw. `leaks` are reasons not to use the sandbox at all."""

    filesystem: bool
    network: bool
    processes: bool
    seccomp: bool
    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


async def look(sandbox: Runs, outside: Path) -> IsolationSeen:
    """Run a command that looks around; `outside` must not be visible to it.

    Raises `Unavailable` when it does not run to its end.
    """
    marker = outside / "marker"
    marker.touch(mode=0o644)
    ended = await sandbox.run(f"LOOK_AT={marker}\n{_LOOK}\nunset LOOK_AT")
    if ended.exit_code != 0:
        said = ended.output[-400:].decode("utf-8", "replace")
        raise Unavailable("E-SANDBOX-START", f"a trial command failed: {said or ended.killed}")
    pairs = (line.partition(":") for line in ended.output.decode("utf-8", "replace").splitlines())
    return _judge({key: value.strip() for key, _, value in pairs})


def _judge(facts: dict[str, str]) -> IsolationSeen:
    def own(name: str) -> bool:
        inside = facts.get(f"ns-{name}", "")
        return inside.startswith(f"{name}:") and inside != _namespace(name)

    filesystem = "marker" not in facts and "usr" not in facts and "root" not in facts and own("mnt")
    network = own("net") and facts.get("interfaces") == "1"
    seccomp = facts.get("Seccomp") == "2"
    privileges = facts.get("NoNewPrivs") == "1" and not int(facts.get("CapEff", "1"), 16)
    wanted = {
        "the file system of the host is visible": filesystem,
        "the network of the host is reachable": network,
        "processes of the host are visible": own("pid"),
        "commands could gain privileges": privileges,
        "settings of the kernel can be changed": "kernel" not in facts,
        "the workspace cannot be written": "workspace" in facts,
    }
    notes = []
    if not seccomp:
        notes.append(f"no system call filter for {platform.machine()}")
    if facts.get("python") != "ok":
        notes.append("python3 does not start inside: is its installation readable for others?")
    leaks = tuple(text for text, held in wanted.items() if not held)
    return IsolationSeen(filesystem, network, own("pid"), seccomp, leaks, tuple(notes))


def _namespace(name: str) -> str:
    try:
        return str(Path(f"/proc/self/ns/{name}").readlink())
    except OSError:
        return os.strerror(0)
