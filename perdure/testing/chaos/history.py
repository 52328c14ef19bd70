"""What was seen from outside, written down where it was seen: by clients, followers, tools, nodes.

Each process appends lines to files of its own, unbuffered, so that a kill loses nothing that
happened before it. Moments are `time.monotonic_ns()`, which all processes of a machine share.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.codec import encode
from perdure.core.events import Event

DIGEST_CHARS: Final = 16
FOREVER: Final = 1 << 62


class Claimed(msgspec.Struct, frozen=True, tag="claimed"):
    """A node was told that it owns a session from `seq` on. `clean`: its last owner gave it up."""

    node: str
    session: str
    epoch: int
    seq: int
    clean: bool
    at_ns: int


class Offered(msgspec.Struct, frozen=True, tag="offered"):
    """A node is about to append the events `first`, `first + 1`, … with these hashes."""

    node: str
    session: str
    epoch: int
    first: int
    hashes: tuple[str, ...]
    at_ns: int


class Acknowledged(msgspec.Struct, frozen=True, tag="acknowledged"):
    """The store said that what was offered from `first` on is durable."""

    node: str
    session: str
    epoch: int
    first: int
    hashes: tuple[str, ...]
    at_ns: int


class Posted(msgspec.Struct, frozen=True, tag="posted"):
    """A client was told that its message is durable in the inbox."""

    session: str
    key: str
    at_ns: int


class Saw(msgspec.Struct, frozen=True, tag="saw"):
    """A follower was handed an event."""

    follower: str
    session: str
    seq: int
    digest: str


class Followed(msgspec.Struct, frozen=True, tag="followed"):
    """A follower had time to read to the end, and stopped: it must have seen all."""

    follower: str
    session: str


class FollowFailed(msgspec.Struct, frozen=True, tag="follow_failed"):
    """A follower ended by what is no passing trouble of the store."""

    follower: str
    session: str
    error: str


class Began(msgspec.Struct, frozen=True, tag="began"):
    """A tool's effect in the outside world. `effect` is once, idempotent or read."""

    node: str
    session: str
    call: str
    tool: str
    effect: str
    key: str
    at_ns: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A tool came to its end by itself."""

    node: str
    session: str
    call: str
    at_ns: int


class Struck(msgspec.Struct, frozen=True, tag="struck"):
    """What the runner did to a node, or (`node` empty) to what all nodes stand on, and how long
    that may have had consequences.
    """

    node: str
    kind: str
    at_ns: int
    until_ns: int = FOREVER


Observation = (
    Claimed
    | Offered
    | Acknowledged
    | Posted
    | Saw
    | Followed
    | FollowFailed
    | Began
    | Ended
    | Struck
)
_DECODER: Final[msgspec.json.Decoder[Observation]] = msgspec.json.Decoder(Observation)


def now_ns() -> int:
    """Return this moment on the clock of all observations."""
    return time.monotonic_ns()


def shortened(hash_: bytes) -> str:
    """Return what is kept of a hash in an observation."""
    return hash_.hex()[:DIGEST_CHARS]


def digest(event: Event) -> str:
    """Return what tells an event that a follower saw from every other one."""
    return digest_of(encode(event))


def digest_of(data: bytes) -> str:
    """Return the digest of an event as it is stored."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_CHARS]


class Notes:
    """Where one process writes what it observes. With `fsync`, on the disk when `write` returns."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._fsync = fsync

    def write(self, observation: Observation) -> None:
        """Append a line."""
        os.write(self._fd, msgspec.json.encode(observation) + b"\n")
        if self._fsync:
            os.fsync(self._fd)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)


class Tail:
    """Reads what is written below a directory while it is being written."""

    def __init__(self, home: Path) -> None:
        self.observations: list[Observation] = []
        self._home = home
        self._read: dict[Path, int] = {}

    def poll(self) -> list[Observation]:
        """Return what is new. A line that is not whole is none yet; a kill may leave one for good,
        and the next line begins behind it.
        """
        found: list[Observation] = []
        for path in sorted(self._home.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._read[path] = self._read.get(path, 0) + whole
            for line in data[:whole].splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    found.append(_DECODER.decode(line))
        self.observations += found
        return found
