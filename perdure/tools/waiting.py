"""Waiting as tools: `sleep` until a moment, `wait_for` an event. Give them to an agent like others.

Nothing runs while a call of theirs waits: the moment stands in the journal, and whichever process
is there when it has come goes on.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from perdure.core.agent import Effect, ToolSpec
from perdure.core.codec import encode
from perdure.core.errors import InvalidRequest, Unavailable
from perdure.ports.tool import ToolContext, ToolOutput, Waiting

LONGEST_S: Final = 366 * 24 * 3600.0
NAME_MAX: Final = 200


def _number(description: str) -> dict[str, object]:
    return {"type": "number", "description": description}


def _text(description: str) -> dict[str, object]:
    return {"type": "string", "description": description}


def _schema(required: tuple[str, ...], **properties: object) -> msgspec.Raw:
    return msgspec.Raw(
        encode(
            {
                "type": "object",
                "properties": properties,
                "required": list(required),
                "additionalProperties": False,
            }
        )
    )


_SLEEP: Final = ToolSpec(
    name="sleep",
    description="Wait: for so many seconds, or until a moment. Give one of the two. "
    "At most 366 days.",
    input_schema=_schema(
        (),
        seconds=_number("how long to wait"),
        until=_text("until when: ISO 8601 with a time zone, like 2027-03-01T09:00:00+01:00"),
    ),
    effect=Effect.READ,
    source="perdure:sleep",
)
_WAIT_FOR: Final = ToolSpec(
    name="wait_for",
    description="Wait for an event from outside and get what it says. "
    "Without timeout_s it is waited for as long as it takes.",
    input_schema=_schema(
        ("event",),
        event=_text("the name of the event"),
        timeout_s=_number("wait no longer than so many seconds, at most 366 days"),
    ),
    effect=Effect.READ,
    source="perdure:wait_for",
)


@dataclass(frozen=True)
class Sleep:
    """The tool `sleep`."""

    spec: ToolSpec = _SLEEP

    def wait(self, arguments: Mapping[str, Any], now_us: int, context: ToolContext) -> Waiting:
        """Return until when the call sleeps. Raises `InvalidRequest` (E-TOOL-ARGUMENTS)."""
        _known(arguments, "seconds", "until")
        if len(arguments) != 1:
            raise _wrong("give one of `seconds` and `until`")
        if "seconds" in arguments:
            return Waiting(now_us + _micros(arguments["seconds"], "seconds"))
        until_us = _moment_us(arguments["until"])
        if until_us - now_us > LONGEST_S * 1_000_000:
            raise _wrong("`until` is more than 366 days ahead")
        return Waiting(until_us)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Sleep in memory: for hosts that cannot let a session sleep. `seconds` only."""
        _known(arguments, "seconds")
        await asyncio.sleep(_micros(arguments.get("seconds"), "seconds") / 1_000_000)
        return ToolOutput("The time is over.")

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Nothing to ask: a call is simply run again."""
        return None


@dataclass(frozen=True)
class WaitFor:
    """The tool `wait_for`."""

    spec: ToolSpec = _WAIT_FOR

    def wait(self, arguments: Mapping[str, Any], now_us: int, context: ToolContext) -> Waiting:
        """Return what the call waits for. Raises `InvalidRequest` (E-TOOL-ARGUMENTS)."""
        _known(arguments, "event", "timeout_s")
        event, timeout_s = arguments.get("event"), arguments.get("timeout_s")
        if not isinstance(event, str) or not 0 < len(event) <= NAME_MAX:
            raise _wrong(f"`event` is a name of 1 to {NAME_MAX} characters")
        due_us = None if timeout_s is None else now_us + _micros(timeout_s, "timeout_s")
        return Waiting(due_us, event)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Raise `Unavailable`: events come to sessions, and only an engine has them."""
        raise Unavailable("E-WAIT-ENGINE", "Events can be waited for only inside an engine.")

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Nothing to ask: a call is simply run again."""
        return None


sleep: Final = Sleep()
wait_for: Final = WaitFor()


def _known(arguments: Mapping[str, Any], *names: str) -> None:
    unknown = sorted(set(arguments) - set(names))
    if unknown:
        raise _wrong(f"there is no {', '.join(unknown)}; there is {', '.join(names)}")


def _micros(value: object, name: str) -> int:
    """Return seconds as microseconds; what is over already is no time."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:  # noqa: PLR0124 - NaN
        raise _wrong(f"`{name}` is a number of seconds")
    if value > LONGEST_S:
        raise _wrong(f"`{name}` is at most {LONGEST_S:.0f}: 366 days")
    return round(max(0.0, value) * 1_000_000)


def _moment_us(value: object) -> int:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None:
        raise _wrong("`until` is a moment in ISO 8601, like 2027-03-01T09:00:00Z")
    if moment.tzinfo is None:
        raise _wrong(f"`until` needs its time zone: {value}Z, or with +01:00 or the like behind it")
    return round(moment.timestamp() * 1_000_000)


def _wrong(why: str) -> InvalidRequest:
    return InvalidRequest("E-TOOL-ARGUMENTS", f"The arguments do not fit: {why}. Nothing waits.")
