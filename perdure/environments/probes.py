"""The self-test of a sandbox: attacks that must be stopped, runnable by anybody who doubts it.

The attacks run inside (`attack.py`) against bait on this machine, then a few that use up what a
command may have. Everything is bounded and nothing is sent to another machine. Without
isolation, as the control, some must get through (`MUST_GET_THROUGH`): a probe that is stopped
even there proves nothing.
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.agent import EnvironmentSpec
from perdure.core.errors import PerdureError
from perdure.environments.toolchain import running_python
from perdure.ports.sandbox import Environments, Sandbox

_ATTACK: Final = Path(__file__).parent / "attack.py"
_MIB: Final = 1024 * 1024
_MEMORY_BYTES: Final = 256 * _MIB
_FILE_BYTES: Final = 32 * _MIB
_PROCESSES: Final = 64
MUST_GET_THROUGH: Final = frozenset(
    [
        "write outside the workspace",
        "read a file of the runner",
        "read a private file of the runner",
        "environment of other processes",
        "see other processes",
        "signal other processes",
        "loopback TCP of the host",
        "abstract Unix socket",
        "Unix socket by path",
        "setuid programs",
        "system call keyctl",
        "the host's /tmp",
    ]
)
"""What the control, a plain process, must fail."""


class ProbeResult(msgspec.Struct, frozen=True):
    """One attack. `expected` is "stopped"; `got` is stopped, through, unknown or skipped."""

    name: str
    expected: str
    got: str
    ok: bool
    detail: str


class Bait(msgspec.Struct, frozen=True):
    """What is laid out on the host for attacks to find."""

    folder: Path
    token: str
    port: int
    pid: int


async def selftest(environments: Environments, *, kind: str = "bubblewrap") -> list[ProbeResult]:
    """Attack a sandbox of `environments` and say what happened. Takes some ten seconds.

    `kind` "process" is the control: what could hurt the host is skipped there. Raises
    `Unavailable` when no sandbox can be opened.
    """
    control = kind == "process"
    spec = EnvironmentSpec(
        kind=kind,
        memory_bytes=_MEMORY_BYTES,
        processes=_PROCESSES,
        file_bytes=_FILE_BYTES,
        timeout_s=30.0,
    )
    async with _bait() as bait:
        sandbox = await environments.open(f"selftest-{bait.token}", spec, "")
        try:
            results = await _attacks(sandbox, bait, control=control)
            for name, probe in _separate(bait, control=control).items():
                results.append(await _judged(name, probe, sandbox))
            # What is there is ours to remove, but only by the sandbox's own hand.
            await sandbox.run('cd / && find "$OLDPWD" -mindepth 1 -delete')
        finally:
            await sandbox.close()
    return results


def control_gaps(results: list[ProbeResult]) -> list[str]:
    """Return the probes that a run of the control should have failed and did not."""
    through = {r.name for r in results if r.got == "through"}
    return sorted(MUST_GET_THROUGH - through)


async def _attacks(sandbox: Sandbox, bait: Bait, *, control: bool) -> list[ProbeResult]:
    targets = {
        "bait": str(bait.folder),
        "token": bait.token,
        "port": bait.port,
        "pid": bait.pid,
        "abstract": bait.token,
        "home": await asyncio.to_thread(_home_names, sandbox.workspace),
    }
    await sandbox.files.write("attack.py", await asyncio.to_thread(_ATTACK.read_bytes))
    await sandbox.files.write("targets.json", json.dumps(targets).encode())
    ended = await sandbox.run(f"python3 attack.py targets.json {int(control)}")
    results = []
    for line in ended.output.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError):
            fact = json.loads(line)
            results.append(_result(fact["name"], fact["got"], fact["detail"]))
    finished = f"exit {ended.exit_code}, {len(results)} tries"
    whole = ended.exit_code == 0 and len(results) > 25
    said = ended.output[-300:].decode("utf-8", "replace")
    end = _result("the attack ran to its end", "stopped" if whole else "unknown", finished)
    return [*results, end if whole else msgspec.structs.replace(end, detail=f"{finished}: {said}")]


Probe = Callable[[Sandbox], Awaitable[tuple[str, str]]]
"""Return what was got ("stopped", …) and a detail."""


def _separate(bait: Bait, *, control: bool) -> dict[str, Probe]:
    probes: dict[str, Probe] = {
        "the host's /tmp": lambda box: _host_tmp(box, bait),
        "a link read from the host's side": lambda box: _planted_link(box, bait),
        "a daemon outlives its command": lambda box: _daemon(box, bait),
        "never end": _never_end,
        "flood of output": _flood,
        "one huge file": _huge_file,
    }
    if not control:
        probes |= {
            "fork bomb": _fork_bomb,
            "memory, one process": lambda box: _memory(box, 1, 600),
            "memory, many processes": lambda box: _memory(box, 4, 120),
            "fill /tmp": lambda box: _fill(box, "/tmp"),  # noqa: S108 - the sandbox's own
            "fill shared memory": lambda box: _fill(box, "/dev/shm"),  # noqa: S108
        }
    return probes


async def _judged(name: str, probe: Probe, sandbox: Sandbox) -> ProbeResult:
    try:
        got, detail = await probe(sandbox)
    except PerdureError as error:
        got, detail = "unknown", str(error)
    return _result(name, got, detail)


def _result(name: str, got: str, detail: str) -> ProbeResult:
    return ProbeResult(name, "stopped", got, got == "stopped", detail)


async def _host_tmp(sandbox: Sandbox, bait: Bait) -> tuple[str, str]:
    path = Path(tempfile.gettempdir()) / f"perdure-probe-{bait.token}"
    await sandbox.run(f"echo x >{path}")
    seen = await asyncio.to_thread(path.exists)
    path.unlink(missing_ok=True)
    return ("through", f"made {path}") if seen else ("stopped", "its /tmp is its own")


async def _planted_link(sandbox: Sandbox, bait: Bait) -> tuple[str, str]:
    await sandbox.run(f"ln -s {bait.folder} out; ln -s {bait.folder}/secret secret")
    for path in ("secret", "out/secret"):
        try:
            await sandbox.files.read(path)
        except PerdureError:
            continue
        return "through", f"the host followed {path}"
    return "stopped", "the host does not follow it"


async def _daemon(sandbox: Sandbox, bait: Bait) -> tuple[str, str]:
    # A name of its own, that no other process has: the token as an argument to python3.
    await sandbox.run(
        "setsid nohup python3 -c 'import signal,sys; signal.signal(15,1); "
        f"sys.stdout.flush(); import time; time.sleep(20)' {bait.token}-daemon >/dev/null 2>&1 &"
    )
    left = await asyncio.to_thread(_running, f"{bait.token}-daemon")
    return ("through", f"process {left}") if left else ("stopped", "killed with its command")


async def _never_end(sandbox: Sandbox) -> tuple[str, str]:
    ended = await sandbox.run("trap '' TERM INT HUP; while :; do :; done", timeout_s=1.0)
    stopped = ended.killed == "timeout" and ended.duration_s < 5
    return ("stopped" if stopped else "through", f"killed after {ended.duration_s:.2f} s")


async def _flood(sandbox: Sandbox) -> tuple[str, str]:
    ended = await sandbox.run("head -c 200000000 /dev/zero")
    kept = len(ended.output) + len(ended.full or b"")
    return ("stopped" if kept < 20 * _MIB else "through", f"kept {kept} bytes of 200,000,000")


async def _huge_file(sandbox: Sandbox) -> tuple[str, str]:
    limit = _FILE_BYTES
    ended = await sandbox.run(f"head -c {2 * limit} /dev/zero >huge; stat -c %s huge; rm huge")
    numbers = [int(word) for word in ended.output.split() if word.isdigit()]
    size = numbers[-1] if numbers else -1
    return ("stopped" if 0 <= size <= limit else "through", f"{size} bytes, {limit} allowed")


async def _fork_bomb(sandbox: Sandbox) -> tuple[str, str]:
    tries = 4 * _PROCESSES
    script = f"""python3 - <<'END'
import os, signal
children = []
try:
    for _ in range({tries}):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except OSError:
    pass
print(len(children), flush=True)
if len(children) == {tries}:
    signal.alarm(3)  # where only a watch limits them, it gets the time that a real bomb gives it
    signal.pause()
END"""
    ended = await sandbox.run(script, timeout_s=10.0)
    made = int(next(iter(ended.output.split()), b"0"))
    if ended.killed == "processes":
        return "stopped", "killed: too many processes"
    return ("stopped" if 0 < made <= _PROCESSES + 8 else "through"), f"{made} of {tries} forks"


async def _memory(sandbox: Sandbox, processes: int, each_mib: int) -> tuple[str, str]:
    script = f"""python3 - <<'END'
import os, time
def hog():
    held = []
    try:
        for _ in range({each_mib} // 10):
            held.append(bytearray(os.urandom(1)) * {10 * _MIB})
        print("through", flush=True)
        time.sleep(2)
    except MemoryError:
        pass
for _ in range({processes} - 1):
    if os.fork() == 0:
        hog()
        os._exit(0)
hog()
END"""
    ended = await sandbox.run(script, timeout_s=20.0)
    if ended.killed == "memory":
        return "stopped", f"killed after {ended.duration_s:.2f} s"
    got = ended.output.count(b"through")
    stopped = got * each_mib * _MIB <= _MEMORY_BYTES
    return ("stopped" if stopped else "through"), f"{got} of {processes} got {each_mib} MiB"


async def _fill(sandbox: Sandbox, folder: str) -> tuple[str, str]:
    # Small files, so that the limit on one file is not what stops it.
    ended = await sandbox.run(
        f"for i in $(seq 20); do head -c {20 * _MIB} /dev/zero >{folder}/fill$i || break; "
        f"done 2>&1; du -smx {folder} | cut -f1",  # -x: toolchains may be mounted below it
        timeout_s=20.0,
    )
    numbers = [int(word) for word in ended.output.split() if word.isdigit()]
    size = numbers[-1] if numbers else 400
    stopped = ended.killed != "" or size <= 260
    return ("stopped" if stopped else "through"), ended.killed or f"{size} MiB of 400"


def _running(mark: str) -> str:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes():
                return folder.name
    return ""


@contextlib.asynccontextmanager
async def _bait() -> AsyncIterator[Bait]:
    """Lay out secrets, listeners and a process; take everything away again."""
    token = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="perdure-bait-", dir=_bait_place()))
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        await asyncio.to_thread(_lay_out, folder, token)
        tcp = await asyncio.start_server(_answer, "127.0.0.1", 0)
        by_path = await asyncio.start_unix_server(_answer, folder / "socket")
        abstract = await asyncio.start_unix_server(_answer, f"\0{token}")
        for server in (tcp, by_path, abstract):
            stack.callback(server.close)
        victim = await _victim(token)
        stack.push_async_callback(_end, victim)
        yield Bait(folder, token, tcp.sockets[0].getsockname()[1], victim.pid)


def _lay_out(folder: Path, token: str) -> None:
    folder.chmod(0o755)  # only the sandbox, not the mode, shall keep an attack away
    for name, mode in (("secret", 0o644), ("private", 0o600)):
        (folder / name).write_text(token)
        (folder / name).chmod(mode)


async def _victim(token: str) -> asyncio.subprocess.Process:
    """Start a process with a secret in its environment; it ends when its input does."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", "-c", "import sys; sys.stdin.read()", token),
        stdin=asyncio.subprocess.PIPE,
        env={"PERDURE_BAIT": token},
    )


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    await process.wait()


async def _answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _home_names(workspace: str) -> list[str]:
    """Return what is in the home directory, but for the way to toolchains and the workspace."""
    shown = (*running_python().paths, workspace)
    with contextlib.suppress(OSError):
        paths = [str(path) for path in Path.home().iterdir()]
        return [p for p in paths if not any(s.startswith(p) for s in shown)][:50]
    return []


def _bait_place() -> str | None:
    """Return a place that no sandbox replaces by one of its own, where there is one."""
    for folder in ("/var/tmp", str(Path.home())):  # noqa: S108 - mkdtemp makes it private
        if os.access(folder, os.W_OK):
            return folder
    return None
