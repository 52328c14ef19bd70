"""A model that plays a script: for demonstrations, tests and examples, without key or network.

It keeps no state at all. Which reply is next follows from the context it is given, so a new
process goes on where the old one died. It must not know the engine, the store or any session.
"""

import asyncio
import hashlib
import json
import re
import tomllib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.core.codec import encode
from perdure.core.content import (
    ContextItem,
    ModelItem,
    Reasoning,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    Usage,
    UserItem,
    text_of,
)
from perdure.core.errors import InvalidRequest
from perdure.ports.model import (
    CallDelta,
    Delta,
    Model,
    ModelOptions,
    ModelReply,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
)
from perdure.wire import failures
from perdure.wire.history import estimate

SCRIPT_BYTES: Final = 4 * 1024 * 1024
_ERRORS: Final[Mapping[str, str]] = {
    "rate_limited": failures.RATE,
    "overloaded": failures.OVERLOADED,
    "unreachable": failures.UNREACHABLE,
    "refused": failures.REFUSED,
    "context_overflow": failures.OVERFLOW,
    "bad_request": failures.REJECT,
    "auth": failures.AUTH,
    "unknown": failures.UNKNOWN,
    "torn": failures.TORN,
    "garbled": failures.GARBLED,
}


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call in a script: `arguments` is a table, or JSON text to be sent as it stands."""

    tool: str
    arguments: dict[str, Any] | str = {}


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error in place of a reply. It is raised for the first `times` attempts of the call."""

    kind: str
    message: str = "as the script says"
    times: int = 1
    retry_after_s: float | None = None
    partial: str = ""


class Alternative(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said, and under which conditions. Several conditions must all hold."""

    text: str = ""
    reasoning: str = ""
    call: tuple[Call, ...] = ()
    finish: str = ""
    delay_s: float | None = None
    usage: Usage | None = None
    error: Failure | None = None
    if_user_contains: str = ""
    if_result_contains: str = ""
    unless_result_contains: str = ""


class Reply(Alternative, frozen=True, forbid_unknown_fields=True):
    """One place in the script: the first of `when` that holds, else the reply itself."""

    when: tuple[Alternative, ...] = ()


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The replies in order. `delay_s` is waited before each chunk of `chunk_chars` characters."""

    reply: tuple[Reply, ...] = ()
    name: str = "script"
    delay_s: float = 0.0
    chunk_chars: int = 24


class Scripted:
    """A `Model` that plays a `Script`."""

    def __init__(self, script: Script, provider: str = "scripted") -> None:
        for place in script.reply:
            for choice in (place, *place.when):
                _check(choice)
        self._script = script
        self._provider = provider

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Play the reply that is due, chunk by chunk."""
        place = position(request.items, self._provider)
        choice = self._choose(place, request.items)
        items = _items(choice, request)
        delay_s = self._script.delay_s if choice.delay_s is None else choice.delay_s
        if choice.error is not None and request.attempt <= choice.error.times:
            async for delta in self._chunks((Text(choice.error.partial),), delay_s):
                yield delta
            raise self._failure(choice.error, request)
        async for delta in self._chunks(items, delay_s):
            yield delta
        calls = any(isinstance(item, ToolCall) for item in items)
        yield ModelReply(
            items=items,
            usage=choice.usage or _usage(request, items),
            finish=choice.finish or ("tool_calls" if calls else "stop"),
            raw=(msgspec.Raw(encode({"reply": place})),),
            dialect="scripted",
            provider=self._provider,
            model=request.model,
        )

    async def check(self) -> str:
        """Say what would be played."""
        return f"{self._provider}: {self._script.name}, {len(self._script.reply)} replies"

    async def close(self) -> None:
        """Nothing to close."""

    def _choose(self, place: int, items: tuple[ContextItem, ...]) -> Alternative:
        if place >= len(self._script.reply):
            count = len(self._script.reply)
            return Alternative(text=f"The script has ended: it holds {count} replies.")
        slot = self._script.reply[place]
        return next((w for w in slot.when if _holds(w, items)), slot)

    async def _chunks(self, items: tuple[ReplyItem, ...], delay_s: float) -> AsyncIterator[Delta]:
        size = max(1, self._script.chunk_chars)
        for item in items:
            written = item.arguments if isinstance(item, ToolCall) else getattr(item, "text", "")
            for start in range(0, len(written), size):
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                piece = written[start : start + size]
                if isinstance(item, ToolCall):
                    yield CallDelta(item.tool, piece)
                else:
                    yield TextDelta(piece) if isinstance(item, Text) else ReasoningDelta(piece)

    def _failure(self, error: Failure, request: ModelRequest) -> Exception:
        failure = failures.failed(
            _ERRORS[error.kind],
            self._provider,
            error.message,
            model=request.model,
            retry_after_s=error.retry_after_s,
        )
        usage = _usage(request, (Text(error.partial),)) if error.partial else None
        return failures.with_partial(failure, error.partial, usage)


def position(items: tuple[ContextItem, ...], provider: str = "scripted") -> int:
    """Return which reply is due: the one after the last that came from this script.

    Each reply carries its place in its raw item, so a compacted or rewound context counts right;
    replies without one are counted.
    """
    count = 0
    for item in items:
        if isinstance(item, ModelItem) and item.provider == provider:
            said = [msgspec.json.decode(raw) for raw in item.raw]
            known = [s["reply"] for s in said if isinstance(s, dict) and "reply" in s]
            count = (known[-1] if known else count) + 1
    return count


def load(path: Path) -> Script:
    """Read a script from a TOML or JSON file.

    Raises `InvalidRequest` (E-MODEL-SCRIPT).
    """
    try:
        data = path.read_bytes()
        if len(data) > SCRIPT_BYTES:
            raise InvalidRequest("E-MODEL-SCRIPT", f"{path} is longer than {SCRIPT_BYTES} bytes.")
        text = data.decode()
        plain = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        script = msgspec.convert(plain, Script)
    except OSError as error:
        message = f"The script {path} cannot be read: {error.strerror}."
        raise InvalidRequest("E-MODEL-SCRIPT", message, "scripted:PATH.toml") from error
    except (ValueError, msgspec.ValidationError) as error:
        message = f"{path} is not a script: {error}"
        raise InvalidRequest("E-MODEL-SCRIPT", message, "See docs/models.md.") from error
    return msgspec.structs.replace(script, name=path.name) if script.name == "script" else script


def connect(provider: str, name: str, _environ: Mapping[str, str], _options: ModelOptions) -> Model:
    """Make the model that plays the file `name`. It needs neither key nor address."""
    if not name:
        raise InvalidRequest("E-MODEL-NAME", "scripted: needs a file.", "scripted:PATH.toml")
    return Scripted(load(Path(name)), provider)


def _check(choice: Alternative) -> None:
    """Refuse a script that could only fail when its reply is due."""
    if choice.error is not None and choice.error.kind not in _ERRORS:
        known = ", ".join(_ERRORS)
        message = f"A script has no error of kind {choice.error.kind!r}."
        raise InvalidRequest("E-MODEL-SCRIPT", message, f"One of: {known}.")


def _holds(choice: Alternative, items: tuple[ContextItem, ...]) -> bool:
    said, result = _last_user(items), _last_result(items)
    return (
        choice.if_user_contains in said
        and choice.if_result_contains in result
        and not (choice.unless_result_contains and choice.unless_result_contains in result)
    )


def _last_user(items: tuple[ContextItem, ...]) -> str:
    found = (text_of(i.content) for i in reversed(items) if isinstance(i, UserItem))
    return next(found, "")


def _last_result(items: tuple[ContextItem, ...]) -> str:
    return next((i.text for i in reversed(items) if isinstance(i, ResultItem)), "")


def _items(choice: Alternative, request: ModelRequest) -> tuple[ReplyItem, ...]:
    """Write the reply: reasoning first, then text, then calls with our next ids."""
    values = {"last_result": _last_result(request.items), "last_user": _last_user(request.items)}
    found: list[ReplyItem] = []
    if choice.reasoning:
        found.append(Reasoning(_filled(choice.reasoning, values)))
    if choice.text:
        found.append(Text(_filled(choice.text, values)))
    for number, call in enumerate(choice.call, start=request.first_call):
        name = f"{request.call_prefix}{number}"
        theirs = f"scripted-{_mark(request.items)}-{name}"
        found.append(ToolCall(name, call.tool, _arguments(call, values), theirs))
    return tuple(found)


def _mark(items: tuple[ContextItem, ...]) -> str:
    """Return what is another for each context: a client that keeps the history itself sends one
    session after the other, and our ids begin anew in each.
    """
    return hashlib.sha256(encode(items)).hexdigest()[:8]


def _arguments(call: Call, values: Mapping[str, str]) -> str:
    if isinstance(call.arguments, str):
        return call.arguments
    return encode(_filled_in(call.arguments, values)).decode()


def _filled_in(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _filled(value, values)
    if isinstance(value, list):
        return [_filled_in(v, values) for v in value]
    if isinstance(value, dict):
        return {key: _filled_in(v, values) for key, v in value.items()}
    return value


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Fill in all placeholders in one pass: a value that looks like one stays as it is."""
    return re.sub(r"\{\{(last_result|last_user)\}\}", lambda m: values[m.group(1)], text)


def _usage(request: ModelRequest, items: tuple[ReplyItem, ...]) -> Usage:
    """Estimate, so that budgets can be shown without a provider."""
    wrote = sum(len(getattr(i, "text", "")) + len(getattr(i, "arguments", "")) for i in items)
    return estimate(request, wrote)
