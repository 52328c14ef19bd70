"""A tool: something an agent may do to the world, with its crash contract."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec

from perdure.core.agent import ToolSpec
from perdure.core.errors import ErrorInfo, PerdureError
from perdure.ports.sandbox import Sandbox


class ToolOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a tool gave back. `text` is what the model reads.

    `error` is set when the tool failed in a way it could describe: the model reads `text` all
    the same. `full` is the complete output where `text` was cut; it is kept beside the journal.
    `meta` is small extra information for people (exit code, duration).
    """

    text: str
    error: ErrorInfo | None = None
    full: bytes | None = None
    meta: Mapping[str, Any] = {}


class ToolContext(Protocol):
    """What a tool may know about its call."""

    @property
    def session_id(self) -> str: ...

    @property
    def call_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 for the first attempt."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same on every attempt of this call and never used for another one."""
        ...

    @property
    def sandbox(self) -> Sandbox:
        """The session's sandbox. Raises `Unavailable` (E-NO-ENVIRONMENT) where it has none."""
        ...

    def progress(self, text: str) -> None:
        """Show a piece of output while the call runs. Not journaled."""
        ...


@runtime_checkable
class HearsLate(Protocol):
    """What a `ToolContext` has beside its own methods when it wants results that come too late."""

    def late(self, output: ToolOutput) -> None:
        """Take the result of a call that was given up as `OutcomeUnknown`. At most once a call;
        in the event loop's thread; a failure comes as an output with its `error` set.
        """
        ...


class ToolFailed(PerdureError):
    """The tool ran and failed. The effect is over; the error goes to the journal and the model.

    With `info.retryable` it also says that the call *certainly had no effect* and may be made
    again: raised so, even a `once` call is, where there is a policy that says how often.
    """

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.code, info.message, info.hint, retryable=info.retryable)
        self.info = info


class OutcomeUnknown(PerdureError):
    """The call left and no answer came (a timeout, a lost connection): it may have happened."""

    def __init__(self, message: str) -> None:
        super().__init__("E-TOOL-UNKNOWN", message)


@runtime_checkable
class Tool(Protocol):
    """One tool. Instances are shared by all sessions and keep no state of a call."""

    @property
    def spec(self) -> ToolSpec: ...

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Run the call once.

        Raises `InvalidRequest` when the arguments do not fit the schema (nothing happened),
        `ToolFailed` when it ran and failed, `OutcomeUnknown` when nobody can tell.

        Cancelled (a timeout counts), it ends with its real outcome where that becomes known soon;
        it then returns instead of raising the cancellation. Where it raises `CancelledError`, the
        work is stopped but what it did before is not known: only its effect says what that means.
        """
        ...

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Ask the far end what became of a call that was in flight when the process died.

        Return its output when it happened. Raise `ToolFailed` when it certainly did not happen.
        Return None when the tool cannot tell (the default).
        """
        ...


class Waiting(msgspec.Struct, frozen=True):
    """What a call waits for: a moment (microseconds since the epoch), a signal, or whichever
    comes first.
    """

    due_us: int | None = None
    signal: str = ""


@runtime_checkable
class Waits(Protocol):
    """What a `Tool` has beside its own methods when its calls do nothing but wait.

    Such a call is not run: what it waits for is written down, and the session sleeps.
    """

    def wait(
        self, arguments: Mapping[str, Any], now_us: int, context: ToolContext
    ) -> Waiting | None:
        """Return what the call waits for; None when it does not wait and is to be run.

        Raises `InvalidRequest` when the arguments do not fit.
        """
        ...


@runtime_checkable
class Toolset(Protocol):
    """Tools that are known only after asking somebody: an MCP server."""

    async def open(self) -> tuple[Tool, ...]:
        """Connect and return the tools on offer. Raises `Unavailable` (E-MCP-UNREACHABLE).

        A tool whose definition changed since it was accepted is left out; see `Pins`.
        """
        ...

    async def close(self) -> None:
        """Disconnect. Nothing that was started for the connection runs afterwards."""
        ...


class Held(msgspec.Struct, frozen=True):
    """A tool whose definition is no longer the one that was accepted.

    `accepted` and `offered` are the two raw definitions as indented JSON, `diff` is what differs
    between them, line by line, and `digest` names the offered one.
    """

    server: str
    tool: str
    accepted: str
    offered: str
    diff: str
    digest: str


class Pins(Protocol):
    """Which definitions of foreign tools were accepted. The first one seen is; a later one is
    held until a person accepts it.
    """

    def admit(self, server: str, definitions: Mapping[str, Any]) -> frozenset[str]:
        """Compare what a server offers now, by tool name; return the names that are in force.

        Records what is seen for the first time. Raises `Unavailable` (E-PINS) when the record
        cannot be read or written: then nothing is in force.
        """
        ...

    def held(self) -> tuple[Held, ...]:
        """Return every tool that waits for acceptance, by server and name."""
        ...

    def accept(self, server: str, tool: str, digest: str = "") -> None:
        """Put the offered definition in force; with `digest`, only if it is that one.

        Raises `NotFound` when no such tool is held, `Conflict` (E-MCP-CHANGED) when the server
        has changed it again since it was looked at.
        """
        ...
