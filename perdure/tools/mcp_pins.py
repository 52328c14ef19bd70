"""Which definitions of foreign tools were accepted: what a model was told stays what it was told.

A server can change a tool's description or schema at any time, and the model would follow it. So
the first definition seen is recorded whole, and another one is held until a person accepts it.
"""

import contextlib
import difflib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from perdure.core.codec import decode, digest
from perdure.core.errors import Conflict, NotFound, Unavailable
from perdure.ports.tool import Held


class Pin(msgspec.Struct, omit_defaults=True):
    """One tool: the definition in force, and the one that waits, if the server changed it."""

    accepted: Any
    offered: Any = None


class Record(msgspec.Struct, omit_defaults=True):
    """All pins, by server and tool."""

    format: int = 1
    servers: dict[str, dict[str, Pin]] = {}


class MemoryPins:
    """Pins that live as long as the process. Implements `perdure.ports.tool.Pins`."""

    def __init__(self) -> None:
        self._record = Record()

    def admit(self, server: str, definitions: Mapping[str, Any]) -> frozenset[str]:
        """Compare what a server offers now; return the names whose definition is in force."""
        with self._open() as record:
            pins = record.servers.setdefault(server, {})
            in_force = set()
            for name, definition in definitions.items():
                pin = pins.setdefault(name, Pin(definition))
                same = digest(pin.accepted) == digest(definition)
                pin.offered = None if same else definition
                if same:
                    in_force.add(name)
        return frozenset(in_force)

    def held(self) -> tuple[Held, ...]:
        """Return every tool that waits for acceptance, by server and name."""
        with self._open() as record:
            return tuple(
                _held(server, name, pin)
                for server, pins in sorted(record.servers.items())
                for name, pin in sorted(pins.items())
                if pin.offered is not None
            )

    def accept(self, server: str, tool: str, digest: str = "") -> None:
        """Put the offered definition in force; with `digest`, only if it is that one."""
        with self._open() as record:
            pin = record.servers.get(server, {}).get(tool)
            if pin is None or pin.offered is None:
                raise NotFound("E-MCP-HELD", f"No changed tool {tool} of {server} is waiting.")
            if digest and _held(server, tool, pin).digest != digest:
                raise Conflict(
                    "E-MCP-CHANGED",
                    f"{server} has changed {tool} again since you looked; nothing was accepted.",
                    "Look at the difference again.",
                )
            record.servers[server][tool] = Pin(pin.offered)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Record]:
        """Give the record to be read and changed; what was changed is kept."""
        yield self._record


class FilePins(MemoryPins):
    """Pins in a JSON file, shared by all processes of a project."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[Record]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.with_name(f"{self._path.name}.lock").open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                record, before = self._load()
                yield record
                after = _indented(msgspec.to_builtins(record)).encode("ascii")
                if after != before:
                    self._save(after)
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(
                "E-PINS",
                f"The record of accepted tools cannot be used ({self._path.name}: {error}), "
                "so no tool of an MCP server is offered.",
                "Repair the file. Moving it away accepts anew whatever the servers offer.",
            ) from error

    def _load(self) -> tuple[Record, bytes]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Record(), b""
        return decode(data, Record), data

    def _save(self, data: bytes) -> None:
        """Replace the file as a whole: a crash leaves the old one or the new one."""
        descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=self._path.name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise


def _held(server: str, tool: str, pin: Pin) -> Held:
    accepted, offered = _indented(pin.accepted), _indented(pin.offered)
    lines = difflib.unified_diff(
        accepted.splitlines(), offered.splitlines(), "accepted", "offered", lineterm=""
    )
    return Held(server, tool, accepted, offered, "\n".join(lines), digest(pin.offered))


def _indented(definition: Any) -> str:
    """Show a definition with every hidden character visible: escapes, not look-alikes."""
    return json.dumps(definition, indent=2, sort_keys=True, ensure_ascii=True)
