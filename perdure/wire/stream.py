"""One call's answer, from the bytes of an open stream to deltas and a reply.

The bytes are brought by the adapter; this knows neither SDK nor socket. Whatever goes wrong is
said as `ModelFailed`, with the text that had arrived.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any, Final, Protocol

import msgspec

from perdure.core.codec import decode
from perdure.core.content import Usage
from perdure.ports.model import Delta, ModelFailed, ModelReply
from perdure.wire import failures
from perdure.wire.sse import Sse, SseReader, TooLong

BODY_BYTES: Final = 256 * 1024


class Reader(Protocol):
    """What each dialect has: takes decoded events, gives deltas and, at last, the reply."""

    @property
    def ended(self) -> bool:
        """True once the provider has said that it is done: nothing after it is waited for."""
        ...

    @property
    def partial(self) -> str:
        """The text that has arrived."""
        ...

    def feed(self, event: Mapping[str, Any]) -> list[Delta]:
        """Take the next event. Unknown ones are ignored. Raises `ModelFailed`."""
        ...

    def reply(self, request_id: str = "") -> ModelReply | None:
        """Return the finished reply, or None where the stream broke off before it."""
        ...

    def spent(self) -> Usage | None:
        """Return what a broken call has cost, as far as known, or estimated; None for nothing."""
        ...


class Source(msgspec.Struct, frozen=True):
    """Where an answer comes from. `broken` are the exceptions that a cut connection raises."""

    provider: str
    model: str
    headers: Mapping[str, str]
    broken: tuple[type[Exception], ...]
    mask: Callable[[str], str]

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id") or self.headers.get("request-id") or ""

    def failed(self, code: str, said: str, detail: str = "") -> ModelFailed:
        return failures.failed(
            code,
            self.provider,
            said,
            model=self.model,
            request_id=self.request_id,
            detail=detail,
            mask=self.mask,
        )


async def replies(
    chunks: AsyncIterator[bytes], reader: Reader, source: Source
) -> AsyncGenerator[Delta | ModelReply, None]:
    """Read a stream to its end; yield the deltas and, last, the reply.

    Raises `ModelFailed`: torn, garbled, or what the provider said inside the stream.
    """
    try:
        if _is_document(source.headers):
            raise await _document(chunks, source)
        # Closed by hand: a consumer that stops early must not leave the inner one to the collector.
        async with aclosing(_deltas(chunks, reader, source)) as deltas:
            async for delta in deltas:
                yield delta
        reply = reader.reply(source.request_id)
        if reply is None:
            raise source.failed(failures.TORN, "The stream ended without an end.")
    except ModelFailed as failure:
        info = failures.scrubbed(failure.info, source.mask)
        raise ModelFailed(info, source.mask(reader.partial), reader.spent()) from None
    yield reply


async def _deltas(
    chunks: AsyncIterator[bytes], reader: Reader, source: Source
) -> AsyncGenerator[Delta, None]:
    decoder = SseReader()
    try:
        async for chunk in chunks:
            for event in decoder.feed(chunk):
                for delta in reader.feed(_decoded(event, source)):
                    yield delta
                if reader.ended:
                    return
    except source.broken as error:
        said = str(error) or type(error).__name__
        raise source.failed(failures.TORN, said) from None
    except TooLong as error:
        raise source.failed(failures.GARBLED, str(error)) from None
    for event in decoder.end():
        try:
            value = _decoded(event, source)
        except ModelFailed:
            return  # half a line: the cut, not the provider, made it unreadable
        for delta in reader.feed(value):
            yield delta


def _decoded(event: Sse, source: Source) -> Mapping[str, Any]:
    """Return the event's data, its `type` filled in from the event's name where it has none."""
    if event.data.strip() == b"[DONE]":
        return {"type": "[DONE]"}
    try:
        value = decode(event.data, dict[str, Any])
    except msgspec.DecodeError as error:
        detail = event.data.decode("utf-8", "replace")
        raise source.failed(failures.GARBLED, f"Not a JSON object: {error}", detail) from None
    return value if "type" in value or not event.event else {"type": event.event} | value


def _is_document(headers: Mapping[str, str]) -> bool:
    """Say whether the answer is no stream at all: a proxy's page, or JSON despite our asking."""
    media_type = (headers.get("content-type") or "").lower()
    return "json" in media_type or "html" in media_type


async def _document(chunks: AsyncIterator[bytes], source: Source) -> ModelFailed:
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > BODY_BYTES:
                break
    except source.broken as error:
        return source.failed(failures.TORN, str(error) or type(error).__name__)
    try:
        error_object = decode(bytes(body), dict[str, Any]).get("error")
    except msgspec.DecodeError:
        error_object = None
    if error_object:
        return failures.from_event(
            source.provider, error_object, model=source.model, request_id=source.request_id
        )
    detail = body.decode("utf-8", "replace")
    return source.failed(failures.GARBLED, "The answer is not an event stream.", detail)


async def drained(
    chunks: AsyncIterator[bytes], source: Source, limit: AbstractAsyncContextManager[object]
) -> None:
    """Read what follows the end, as long as `limit` lasts: a drained connection is used again."""
    # The reply is complete; a connection that breaks now is only not used again.
    with suppress(TimeoutError, *source.broken):
        async with limit:
            async for _ in chunks:
                pass
