"""The system calls a sandboxed command may not make, as a BPF program.

A deny-list: what is not named here is allowed. The programs for each machine are data
(`data/seccomp-*.bpf`), made by the small assembler below (run this module to make them anew), so
that no libseccomp is needed; a test holds the two together. Debuggers fail by design.
"""

import platform
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

_FOLDER: Final = Path(__file__).parent / "data"

# Classic BPF, and the offsets in `struct seccomp_data`.
_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT = 0x15, 0x35, 0x45
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW: Final = 0x7FFF0000
_ERROR: Final = 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

# A namespace in clone's flags: user, mount, cgroup, uts, ipc, pid, net.
_NEW_NAMESPACE: Final = 0x7E020000
_TIOCSTI, _TIOCLINUX, _TIOCSETD = 0x5412, 0x541C, 0x5423
_FAMILIES: Final = (1, 2, 10, 16)  # unix, inet, inet6, netlink
_TYPE_BITS, _CHARACTER, _BLOCK = 0o170000, 0o020000, 0o060000


# name: (x86_64, aarch64); -1 where there is none.
_DENIED: Final[Mapping[str, tuple[int, int]]] = {
    # other processes' memory and control
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # mounts and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    # big surfaces of the kernel that no build or test needs
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "open_by_handle_at": (304, 265),
    "vmsplice": (278, 75),
    # keys of the kernel's key ring
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the machine itself
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, -1),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "uselib": (134, -1),
    "nfsservctl": (180, 42),
    "_sysctl": (156, -1),
}
# Programs ask for these and go on without them; clone3 hides its flags from us.
_ABSENT: Final[Mapping[str, tuple[int, int]]] = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
_CHECKED: Final[Mapping[str, tuple[int, int]]] = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "personality": (135, 92),
}
MACHINES: Final[Mapping[str, int]] = {"x86_64": 0, "aarch64": 1}
_AUDIT: Final = (0xC000003E, 0xC00000B7)
_X32_BIT: Final = 0x40000000


class Line(NamedTuple):
    """One instruction; jumps name the label to go to, "" for the next line."""

    code: int
    value: int
    yes: str = ""
    no: str = ""
    label: str = ""


def program(machine: str) -> bytes:
    """Return the BPF program for `machine` ("x86_64" or "aarch64")."""
    column = MACHINES[machine]
    return assemble(list(_lines(column)))


def shipped(machine: str = "") -> Path | None:
    """Return the file with the program for this machine, or None when there is none."""
    path = _FOLDER / f"seccomp-{machine or platform.machine()}.bpf"
    return path if path.is_file() else None


def assemble(lines: list[Line]) -> bytes:
    """Resolve labels and return the program. Jumps go forward, at most 255 lines."""
    places = {line.label: i for i, line in enumerate(lines) if line.label}
    out = []
    for i, line in enumerate(lines):
        yes, no = ((places[n] - i - 1 if n else 0) for n in (line.yes, line.no))
        out.append(struct.pack("<HBBI", line.code, yes, no, line.value))
    return b"".join(out)


def _lines(column: int) -> Iterator[Line]:
    yield Line(_LOAD, _ARCHITECTURE)
    yield Line(_JUMP_EQUAL, _AUDIT[column], no="absent")
    yield Line(_LOAD, _NUMBER)
    if column == 0:  # the x32 numbers of the same calls
        yield Line(_JUMP_GREATER_EQUAL, _X32_BIT, yes="absent")
    for names, label in ((_DENIED, "denied"), (_ABSENT, "absent")):
        for numbers in names.values():
            if numbers[column] >= 0:
                yield Line(_JUMP_EQUAL, numbers[column], yes=label)
    for name, numbers in _CHECKED.items():
        if numbers[column] >= 0:
            yield Line(_JUMP_EQUAL, numbers[column], yes=name)
    yield Line(_RETURN, _ALLOW)
    yield from _checks(column)
    yield Line(_RETURN, _ALLOW, label="allowed")
    yield Line(_RETURN, _ERROR | _EPERM, label="denied")
    yield Line(_RETURN, _ERROR | _ENOSYS, label="absent")
    yield Line(_RETURN, _ERROR | _EAFNOSUPPORT, label="family")


def _checks(column: int) -> Iterator[Line]:
    yield Line(_LOAD, _argument(0), label="clone")
    yield Line(_JUMP_ANY_BIT, _NEW_NAMESPACE, yes="denied", no="allowed")
    yield Line(_LOAD, _argument(1), label="ioctl")
    yield Line(_JUMP_EQUAL, _TIOCSTI, yes="denied")
    yield Line(_JUMP_EQUAL, _TIOCLINUX, yes="denied")
    yield Line(_JUMP_EQUAL, _TIOCSETD, yes="denied", no="allowed")
    for label in ("socket", "socketpair"):
        yield Line(_LOAD, _argument(0), label=label)
        for family in _FAMILIES[:-1]:
            yield Line(_JUMP_EQUAL, family, yes="allowed")
        yield Line(_JUMP_EQUAL, _FAMILIES[-1], yes="allowed", no="family")
    for name, at in (("mknod", 1), ("mknodat", 2)):
        if _CHECKED[name][column] >= 0:
            yield Line(_LOAD, _argument(at), label=name)
            yield Line(_AND, _TYPE_BITS)
            yield Line(_JUMP_EQUAL, _CHARACTER, yes="denied")
            yield Line(_JUMP_EQUAL, _BLOCK, yes="denied", no="allowed")
    # Asking for the personality and the ordinary one; others switch off address randomness.
    yield Line(_LOAD, _argument(0), label="personality")
    yield Line(_JUMP_EQUAL, 0xFFFFFFFF, yes="allowed")
    yield Line(_JUMP_EQUAL, 0, yes="allowed", no="denied")


def _argument(index: int) -> int:
    """Return the offset of the low half of an argument; both machines are little-endian."""
    return 16 + 8 * index


def write_all(folder: Path = _FOLDER) -> None:
    """Write the programs of all machines."""
    for machine in MACHINES:
        (folder / f"seccomp-{machine}.bpf").write_bytes(program(machine))


if __name__ == "__main__":
    write_all()
