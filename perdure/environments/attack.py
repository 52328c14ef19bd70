"""What hostile code would try first, run inside a sandbox. Prints one JSON line for each try.

    python3 attack.py TARGETS.json [only-what-is-safe-outside-a-sandbox: 0 or 1]

Bounded and harmless by construction: it looks, connects and asks, but changes nothing outside
bait that was laid out for it, and sends nothing to any address but this machine's own. Imports
nothing of perdure. A try that returns got through; one that raises OSError was stopped.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import pty
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

STATUS = Path("/proc/self/status")
PTRACE_SEIZE = 0x4206
CLONE_NEWUSER, TIOCSTI, AF_ALG, AF_VSOCK = 0x10000000, 0x5412, 38, 40
X86 = platform.machine() == "x86_64"
CALLS: Final[Mapping[str, tuple[int, int]]] = {
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "userfaultfd": (323, 282),
    "process_vm_readv": (310, 270),
    "open_by_handle_at": (304, 265),
    "fsopen": (430, 430),
    "setns": (308, 268),
}
OURS: Final = frozenset(
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "PAGER", "GIT_PAGER"]
)
SHELLS: Final = frozenset(("PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"))

Targets = dict[str, object]


class Stopped(OSError):
    """It did not get through."""


def write(path: object) -> str:
    """Make a file at a place of the host and take it away again."""
    file = Path(str(path))
    file.write_text("x")
    file.unlink()
    return f"wrote {file}"


def read(path: object) -> str:
    return f"read {len(Path(str(path)).read_bytes())} bytes of {path}"


def see(paths: object) -> str:
    assert isinstance(paths, list)
    found = [path for path in paths if os.path.lexists(path)]
    if not found:
        raise Stopped(errno.ENOENT, f"none of {len(paths)} names")
    return f"sees {found[:3]}"


def connect(family: int, address: str | tuple[str, int]) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(address)
        return f"connected to {address!r}"


def make_socket(family: int, kind: int) -> str:
    with socket.socket(family, kind):
        return "the socket was made"


def call(name: str, *arguments: int) -> str:
    """Make a system call with arguments that do nothing; any answer but a refusal is through."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    result = libc.syscall(CALLS[name][0 if X86 else 1], *map(ctypes.c_long, arguments))
    code = ctypes.get_errno()
    if result < 0 and code in (errno.EPERM, errno.ENOSYS, errno.EACCES):
        raise Stopped(code, os.strerror(code))
    return f"{name} answered {result} ({errno.errorcode.get(code, code)})"


def in_child(work: Callable[[], None]) -> str:
    """Do it in a process of its own, which ends."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except OSError as error:
            os._exit(error.errno or 1)
        except BaseException:  # noqa: BLE001 - the child must end, whatever happened
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise Stopped(code, os.strerror(code) if code > 0 else f"killed by signal {-code}")
    return "the child did it"


def by_libc(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def inherited_environment() -> str:
    foreign = sorted(set(os.environ) - OURS - SHELLS)
    if not foreign:
        raise Stopped(0, "only the sandbox's own variables")
    return f"variables {foreign}"


def inherited_descriptors() -> str:
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
    # The listing's own descriptor has closed again; 0, 1 and 2 are everybody's.
    foreign = {fd: to for fd, to in found.items() if fd > 2 and "/proc/" not in to}
    if not foreign:
        raise Stopped(0, "only 0, 1 and 2")
    return f"descriptors {foreign}"


def environment_of_others(token: str) -> str:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token.encode() in (folder / "environ").read_bytes():
                return f"found the token in process {folder.name}"
    raise Stopped(errno.ENOENT, "no process shows it")


def named_process(token: str) -> str:
    """Find a process of the host by what it was started with."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(folder.name) != os.getpid() and token in (folder / "cmdline").read_text():
                return f"sees process {folder.name}"
    raise Stopped(errno.ENOENT, "not seen")


def signal_process(pid: int, token: str) -> str:
    if token not in Path(f"/proc/{pid}/cmdline").read_text():
        raise Stopped(errno.ESRCH, "that number is another process here")
    os.kill(pid, 0)
    return f"may signal {pid}"


def trace(pid: int) -> str:
    """Attach from a child: its end lets go again."""
    return in_child(lambda: by_libc("ptrace", PTRACE_SEIZE, pid, 0, 0))


def gain_privileges() -> str:
    lines = dict(line.split(":\t", 1) for line in STATUS.read_text().splitlines() if ":\t" in line)
    if lines["NoNewPrivs"].strip() == "1" and int(lines["CapBnd"], 16) in (0, 2**41 - 1):
        raise Stopped(errno.EPERM, "setuid programs give nothing")
    if lines["NoNewPrivs"].strip() == "1":
        raise Stopped(errno.EPERM, "no new privileges")
    return "a setuid program would be obeyed"


def network_way_out() -> str:
    """Is there any way to another address? Nothing is sent to find out."""
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    six = [
        line for line in Path("/proc/net/ipv6_route").read_text().splitlines() if " lo" not in line
    ]
    others = [r for r in routes if not r.startswith("lo")] + six
    if not others:
        raise Stopped(errno.ENETUNREACH, "no route")
    return f"{len(others)} routes"


def name_service() -> str:
    network_way_out()
    return read("/etc/resolv.conf")


def interfaces() -> str:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    names = [line.split(":")[0].strip() for line in lines]
    if names == ["lo"]:
        raise Stopped(errno.ENODEV, "lo only")
    return f"interfaces {names}"


def device_node() -> str:
    os.mknod("node", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
    Path("node").unlink()
    return "made a block device"


def hardlink(path: str) -> str:
    os.link(path, "stolen")
    Path("stolen").unlink()
    return "linked it into the workspace"


def type_into_terminal() -> str:
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, TIOCSTI, b"x")
    finally:
        os.close(master)
        os.close(slave)
    return "typed a character"


def writable(*paths: str) -> str:
    found = [p for p in paths if os.access(p, os.W_OK)]
    if not found:
        raise Stopped(errno.EROFS, "none of them")
    return f"writable: {found}"


def unlimited_memory_files() -> str:
    """Memory behind files of the sandbox's own root counts for nobody."""
    found = []
    for folder in ("/", "/dev", "/run", "/etc", "/run/perdure"):
        with contextlib.suppress(OSError):
            write(f"{folder}/perdure-attack")
            found.append(folder)
    if not found:
        raise Stopped(errno.EROFS, "all read-only")
    return f"writable: {found}"


def tries(t: Targets) -> dict[str, Callable[[], str]]:
    """Return everything that may be tried anywhere, by name."""
    bait, token = str(t["bait"]), str(t["token"])
    pid, port = int(str(t["pid"])), int(str(t["port"]))
    return {
        "write outside the workspace": lambda: write(f"{bait}/written"),
        "write into the system": lambda: writable("/usr", "/usr/bin", "/etc", "/var"),
        "read a file of the runner": lambda: read(f"{bait}/secret"),
        "read a private file of the runner": lambda: read(f"{bait}/private"),
        "see the runner's home": lambda: see(t["home"]),
        "hard link to a secret": lambda: hardlink(f"{bait}/secret"),
        "inherited environment": inherited_environment,
        "inherited descriptors": inherited_descriptors,
        "environment of other processes": lambda: environment_of_others(token),
        "see other processes": lambda: named_process(token),
        "signal other processes": lambda: signal_process(pid, token),
        "trace other processes": lambda: trace(pid),
        "read another process's memory": lambda: call("process_vm_readv", pid, 0, 0, 0, 0, 0),
        "loopback TCP of the host": lambda: connect(socket.AF_INET, ("127.0.0.1", port)),
        "abstract Unix socket": lambda: connect(socket.AF_UNIX, "\0" + str(t["abstract"])),
        "Unix socket by path": lambda: connect(socket.AF_UNIX, f"{bait}/socket"),
        "network interfaces": interfaces,
        "raw packets": lambda: make_socket(socket.AF_PACKET, socket.SOCK_RAW),
        "kernel crypto sockets": lambda: make_socket(AF_ALG, socket.SOCK_SEQPACKET),
        "hypervisor sockets": lambda: make_socket(AF_VSOCK, socket.SOCK_STREAM),
        "setuid programs": gain_privileges,
        "user namespace": lambda: in_child(lambda: by_libc("unshare", CLONE_NEWUSER)),
        "chroot": lambda: in_child(lambda: os.chroot(".")),
        "settings of the kernel": lambda: writable(
            "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sysrq-trigger"
        ),
        "control groups": lambda: writable("/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs"),
        "type into a terminal": type_into_terminal,
        "system call bpf": lambda: call("bpf", 0, 0, 0),
        "system call perf_event_open": lambda: call("perf_event_open", 0, 0, -1, -1, 0),
        "system call io_uring_setup": lambda: call("io_uring_setup", 1, 0),
        "system call keyctl": lambda: call("keyctl", 0, -1, 0),
        "system call add_key": lambda: call("add_key", 0, 0, 0, 0, -1),
        "system call userfaultfd": lambda: call("userfaultfd", 1),
        "system call open_by_handle_at": lambda: call("open_by_handle_at", -1, 0, 0),
        "system call fsopen": lambda: call("fsopen", 0, 0),
        "system call setns": lambda: call("setns", -1, 0),
    }


def inside_only() -> dict[str, Callable[[], str]]:
    """Return what would touch the host itself where there is no sandbox, or hurt it."""
    return {
        "metadata address": network_way_out,
        "name service": name_service,
        "mount": lambda: in_child(lambda: by_libc("mount", b"t", b".", b"tmpfs", 0, None)),
        "device node": device_node,
        "files of memory": unlimited_memory_files,
    }


def main() -> None:
    targets = json.loads(Path(sys.argv[1]).read_text())
    todo = tries(targets)
    if sys.argv[2:] != ["1"]:
        todo |= inside_only()
    for name, work in todo.items():
        try:
            got, detail = "through", work()
        except OSError as error:
            got, detail = "stopped", str(error)
        except Exception as error:  # noqa: BLE001 - one odd kernel must not hide the other tries
            got, detail = "unknown", repr(error)
        sys.stdout.write(json.dumps({"name": name, "got": got, "detail": detail}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
