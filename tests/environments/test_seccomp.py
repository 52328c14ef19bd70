"""The system call filter: the shipped bytes are the assembled ones, and they do what they say."""

import struct

import pytest

from perdure.environments import seccomp

ALLOW, EPERM, ENOSYS, EAFNOSUPPORT = 0x7FFF0000, 0x50001, 0x50026, 0x50061
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """Run a classic BPF program as the kernel would."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, audit, 0, *padded)
    lines: list[tuple[int, int, int, int]] = list(struct.iter_unpack("<HBBI", program))
    at, register = 0, 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        match code:
            case 0x20:
                (register,) = struct.unpack_from("<I", data, value)
            case 0x54:
                register &= value
            case 0x06:
                return value
            case 0x15:
                at += yes if register == value else no
            case 0x35:
                at += yes if register >= value else no
            case 0x45:
                at += yes if register & value else no
            case _:
                raise AssertionError(f"instruction {code:#x}")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_shipped_program_is_the_assembled_one(machine: str) -> None:
    path = seccomp.shipped(machine)
    assert path is not None
    assert path.read_bytes() == seccomp.program(machine)


def test_an_unknown_machine_has_none() -> None:
    assert seccomp.shipped("vax") is None


CASES = [
    # name, x86_64, aarch64, arguments, decision
    ("read", 0, 63, (), ALLOW),
    ("execve", 59, 221, (), ALLOW),
    ("seccomp", 317, 277, (), ALLOW),
    ("ptrace", 101, 117, (), EPERM),
    ("mount", 165, 40, (), EPERM),
    ("unshare", 272, 97, (), EPERM),
    ("setns", 308, 268, (), EPERM),
    ("bpf", 321, 280, (), EPERM),
    ("keyctl", 250, 219, (), EPERM),
    ("chroot", 161, 51, (), EPERM),
    ("clone3", 435, 435, (), ENOSYS),
    ("io_uring_setup", 425, 425, (), ENOSYS),
    ("clone of a thread", 56, 220, (0x3D0F00,), ALLOW),
    ("clone of a process", 56, 220, (17,), ALLOW),
    ("clone with a user namespace", 56, 220, (0x10000011,), EPERM),
    ("clone with a net namespace", 56, 220, (0x40000011,), EPERM),
    ("clone with high bits", 56, 220, (0xFFFFFFFF00000011,), ALLOW),
    ("ioctl TCGETS", 16, 29, (0, 0x5401), ALLOW),
    ("ioctl TIOCSTI", 16, 29, (0, 0x5412), EPERM),
    ("ioctl TIOCSTI, high bits", 16, 29, (0, 0x100005412), EPERM),
    ("socket unix", 41, 198, (1,), ALLOW),
    ("socket inet6", 41, 198, (10,), ALLOW),
    ("socket packet", 41, 198, (17,), EAFNOSUPPORT),
    ("socket vsock", 41, 198, (40,), EAFNOSUPPORT),
    ("socket alg", 41, 198, (38,), EAFNOSUPPORT),
    ("mknodat of a FIFO", 259, 33, (0, 0, 0o010644), ALLOW),
    ("mknodat of a device", 259, 33, (0, 0, 0o060644), EPERM),
    ("personality query", 135, 92, (0xFFFFFFFF,), ALLOW),
    ("personality no randomness", 135, 92, (0x0040000,), EPERM),
]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_what_is_allowed(machine: str, case: tuple[str, int, int, tuple[int, ...], int]) -> None:
    _, x86, arm, arguments, wanted = case
    number = x86 if machine == "x86_64" else arm
    program = seccomp.program(machine)
    assert decide(program, AUDIT[machine], number, *arguments) == wanted


def test_other_architectures_and_x32_get_nothing() -> None:
    program = seccomp.program("x86_64")
    assert decide(program, 0x40000003, 4) == ENOSYS, "32-bit calls have other numbers"
    assert decide(program, AUDIT["x86_64"], 0x40000000 | 101) == ENOSYS
