"""What every model adapter must do when things go wrong: the second half of the contract.

Each failure has a code, says whether a retry can help, keeps the provider's words and never the
key. The adapter itself never retries: the engine does, and writes it down.
"""

import asyncio
import socket
import traceback

import msgspec
import pytest

from perdure.core.codec import encode
from perdure.core.content import Text
from perdure.core.secrets import Secret
from perdure.ports.model import Model, ModelFailed, TextDelta
from perdure.testing.fake_vendors import Answer, FakeVendor, answer
from perdure.testing.model_contract import KEY, REASON, SAID, ModelContract, fails, request, said
from perdure.testing.traffic import refusal, stream

# status, the provider's word, its message → our code, and whether a retry can help
STATUSES = (
    (429, "rate_limit_error", "Slow down.", "E-MODEL-RATE", True),
    (429, "insufficient_quota", "No money.", "E-MODEL-RATE", False),
    (500, "api_error", "Oops.", "E-MODEL-OVERLOADED", True),
    (503, "server_error", "Busy.", "E-MODEL-OVERLOADED", True),
    (529, "overloaded_error", "Overloaded.", "E-MODEL-OVERLOADED", True),
    (401, "authentication_error", "Bad key.", "E-MODEL-AUTH", False),
    (403, "permission_error", "Not you.", "E-MODEL-AUTH", False),
    (404, "not_found_error", "No such model.", "E-MODEL-UNKNOWN", False),
    (400, "invalid_request_error", "Bad field.", "E-MODEL-REJECT", False),
    (400, "context_length_exceeded", "Too long.", "E-CONTEXT-OVERFLOW", False),
    (400, "invalid_request_error", "prompt is too long: 9 > 8", "E-CONTEXT-OVERFLOW", False),
    (400, "content_filter", "No.", "E-MODEL-REFUSED", False),
    (408, "timeout_error", "Late.", "E-MODEL-UNREACHABLE", True),
)
IN_STREAM = (
    ("overloaded_error", "E-MODEL-OVERLOADED", True),
    ("server_error", "E-MODEL-OVERLOADED", True),
    ("rate_limit_exceeded", "E-MODEL-RATE", True),
    ("context_length_exceeded", "E-CONTEXT-OVERFLOW", False),
    ("content_filter", "E-MODEL-REFUSED", False),
)


class ModelFailures(ModelContract):
    """The bad days."""

    @pytest.mark.parametrize(("status", "word", "message", "code", "retryable"), STATUSES)
    async def test_a_status_has_a_code(
        self, status: int, word: str, message: str, code: str, retryable: bool
    ) -> None:
        bad = refusal(self.traffic, status, word, message, request_id="req_9", x_request_id="req_9")
        async with FakeVendor(bad) as vendor:
            model = self.model(vendor)
            _, failure = await fails(model)
            await model.close()
        assert (failure.info.code, failure.info.retryable) == (code, retryable)
        assert failure.info.kind == "model"
        assert message in failure.info.message
        assert "req_9" in failure.info.message
        assert message in failure.info.detail
        assert len(vendor.requests) == 1, "an adapter never retries by itself"

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry_after": "7"}, 7.0),
            ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
            (
                {
                    "date": "Sun, 06 Nov 1994 08:49:37 GMT",
                    "retry_after": "Sun, 06 Nov 1994 08:50:07 GMT",
                },
                30.0,
            ),
            ({"retry_after": "soon"}, None),
            ({"retry_after": "-1", "retry_after_ms": "nan"}, None),
            ({}, None),
        ],
    )
    async def test_it_says_how_long_to_wait(
        self, headers: dict[str, str], seconds: float | None
    ) -> None:
        async with FakeVendor(refusal(self.traffic, 429, "x", "Slow down.", **headers)) as vendor:
            model = self.model(vendor)
            _, failure = await fails(model)
            await model.close()
        assert failure.info.retry_after_s == seconds

    @pytest.mark.parametrize(("word", "code", "retryable"), IN_STREAM)
    async def test_an_error_inside_the_stream(self, word: str, code: str, retryable: bool) -> None:
        frames = self.traffic.reply([SAID])
        bad = self.traffic.broken(word, "It happened.")
        async with FakeVendor(stream([*frames[:-3], bad])) as vendor:
            model = self.model(vendor)
            deltas, failure = await fails(model)
            await model.close()
        assert (failure.info.code, failure.info.retryable) == (code, retryable)
        assert "It happened." in failure.info.message
        assert failure.partial == said(deltas, TextDelta)
        assert failure.usage is not None

    @pytest.mark.parametrize("end", ["cut", "done"])
    async def test_a_torn_stream_gives_no_reply(self, end: str) -> None:
        frames = self.traffic.reply([REASON, SAID])
        before = next(i for i, f in enumerate(frames) if "世".encode() in f)
        torn = msgspec.structs.replace(stream(frames[: before + 1]), end=end)
        async with FakeVendor(torn) as vendor:
            model = self.model(vendor)
            deltas, failure = await fails(model)
            await model.close()
        assert failure.info.code == "E-MODEL-TORN"
        assert failure.info.retryable
        assert failure.partial
        assert failure.partial == said(deltas, TextDelta)
        assert SAID.text.startswith(failure.partial)
        assert failure.usage is not None
        assert failure.usage.estimated

    async def test_every_shorter_stream_is_torn_or_complete(self) -> None:
        """Nothing but the provider's own end makes a reply, wherever the stream is cut."""
        whole = b"".join(self.traffic.reply([SAID]))
        end = whole.rindex(b"data:")
        async with FakeVendor() as vendor:
            model = self.model(vendor)
            for cut in range(0, end, max(1, end // 12)):
                vendor.then(msgspec.structs.replace(stream([whole[:cut] or b":\n"]), end="cut"))
                try:
                    items = [item async for item in model.stream(request())]
                    assert items[-1].items == (SAID,)  # type: ignore[union-attr]  # the reply
                except ModelFailed as failure:
                    assert failure.info.code == "E-MODEL-TORN"  # noqa: PT017 - both are allowed
            await model.close()

    async def test_garbled_json(self) -> None:
        frames = self.traffic.reply([SAID])
        bad = b'event: x\ndata: {"type": oops\n\n'
        async with FakeVendor(stream([*frames[:-3], bad, *frames[-3:]])) as vendor:
            model = self.model(vendor)
            deltas, failure = await fails(model)
            await model.close()
        assert failure.info.code == "E-MODEL-GARBLED"
        assert "oops" in failure.info.detail
        assert failure.partial == said(deltas, TextDelta)

    async def test_a_page_instead_of_a_stream(self) -> None:
        page = answer(200, b"<html>Sign in to the network</html>", media_type="text/html")
        async with FakeVendor(page) as vendor:
            model = self.model(vendor)
            _, failure = await fails(model)
            await model.close()
        assert failure.info.code == "E-MODEL-GARBLED"
        assert "Sign in" in failure.info.detail

    async def test_nobody_listens(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # taken, but nobody listens
            model = self.connect(f"http://127.0.0.1:{closed.getsockname()[1]}")
            _, failure = await fails(model)
            await model.close()
        assert failure.info.code == "E-MODEL-UNREACHABLE"
        assert failure.info.retryable
        assert failure.usage is None, "nothing was sent, nothing was spent"

    async def test_silence(self) -> None:
        frames = self.traffic.reply([SAID])
        quiet = msgspec.structs.replace(stream(frames[:-3]), end="silent")
        async with FakeVendor(Answer(end="silent"), quiet) as vendor:
            model = self.model(vendor, silence_s=0.1)
            _, before = await fails(model)
            _, within = await fails(model)
            await model.close()
        assert before.info.code == "E-MODEL-UNREACHABLE"
        assert within.info.code == "E-MODEL-TORN"
        assert within.partial

    async def test_no_key_is_told_at_the_first_call(self) -> None:
        async with FakeVendor() as vendor:
            model = self.model(vendor, key=None)
            _, failure = await fails(model)
            with pytest.raises(ModelFailed, match="E-KEY-MISSING"):
                await model.check()
            await model.close()
        assert failure.info.code == "E-KEY-MISSING"
        assert not failure.info.retryable
        assert "_API_KEY" in failure.info.hint
        assert not vendor.requests

    async def test_a_broken_key_is_not_sent_and_not_told(self) -> None:
        async with FakeVendor() as vendor:
            model = self.model(vendor, key=Secret(f"{KEY.reveal()}…\r\nx: y"))
            _, failure = await fails(model)
            await model.close()
        assert failure.info.code == "E-MODEL-AUTH"
        assert not vendor.requests
        assert KEY.reveal() not in "".join(traceback.format_exception(failure))

    async def test_a_redirect_does_not_take_the_key_elsewhere(self) -> None:
        async with FakeVendor() as elsewhere, FakeVendor() as vendor:
            elsewhere.then(stream(self.traffic.reply([SAID])))
            vendor.then(answer(307, b"moved", [("location", elsewhere.url)], "text/plain"))
            model = self.model(vendor)
            _, failure = await fails(model)
            await model.close()
        assert failure.info.code == "E-MODEL-REJECT"
        assert not elsewhere.requests

    @pytest.mark.parametrize("where", ["status", "stream", "garbled", "check"])
    async def test_the_key_is_never_told(self, where: str) -> None:
        echo = f"Incorrect key {KEY.reveal()}, header Bearer {KEY.reveal()}"
        bad = refusal(self.traffic, 401, "authentication_error", echo, request_id=KEY.reveal())
        garbled = stream([f"data: {{ {echo}\n\n".encode()])
        answers = {
            "status": bad,
            "check": bad,
            "stream": stream([self.traffic.broken("server_error", echo)]),
            "garbled": garbled,
        }
        async with FakeVendor(answers[where]) as vendor:
            model = self.model(vendor)
            failure = await (checks(model) if where == "check" else only_fails(model))
            await model.close()
        told = [repr(failure), str(failure), repr(failure.info), failure.partial, repr(model)]
        told += [encode(failure.info).decode(), *traceback.format_exception(failure)]
        assert KEY.reveal() not in "".join(told)
        assert "Incorrect key" in failure.info.detail

    async def test_the_provider_s_words_are_bounded(self) -> None:
        body = b'{"error":{"message":"' + b"x" * 200_000 + b'"}}'
        async with FakeVendor(answer(400, body)) as vendor:
            model = self.model(vendor)
            _, failure = await fails(model)
            await model.close()
        assert len(failure.info.detail.encode()) <= 16 * 1024
        assert "200024 bytes" in failure.info.detail
        assert len(failure.info.message) < 1000

    async def test_cancelling_a_call_closes_its_connection(self) -> None:
        frames = self.traffic.reply([Text("x" * 50)])
        held = msgspec.structs.replace(stream([]), frames=(*frames[:-3], asyncio.Event()))
        async with FakeVendor(held) as vendor, asyncio.timeout(10):
            model = self.model(vendor)
            begun = asyncio.Event()

            async def reading() -> None:
                async for _ in model.stream(request()):
                    begun.set()

            task = asyncio.create_task(reading())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await vendor.gone.wait()
            await model.close()


async def only_fails(model: Model) -> ModelFailed:
    return (await fails(model))[1]


async def checks(model: Model) -> ModelFailed:
    """Ask whether the provider can be reached, which must fail."""
    with pytest.raises(ModelFailed) as caught:
        await model.check()
    return caught.value
