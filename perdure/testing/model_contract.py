"""What every model adapter must do, over real sockets: subclass `ModelContract` and `connect`.

Good traffic is here, bad traffic in `model_failures`; both know the port and a dialect's traffic,
never an adapter.
"""

import asyncio
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import msgspec

from perdure.core.agent import ToolSpec
from perdure.core.content import (
    ContextItem,
    ModelItem,
    Opaque,
    Reasoning,
    ReplyItem,
    ResultItem,
    Text,
    ToolCall,
    UserItem,
)
from perdure.core.secrets import Secret
from perdure.ports.model import (
    CallDelta,
    Delta,
    Model,
    ModelFailed,
    ModelReply,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
)
from perdure.testing.fake_vendors import FakeVendor, answer
from perdure.testing.traffic import Traffic, stream

KEY = Secret("planted.0123456789abcdefghij")
SCHEMA = msgspec.Raw(b'{"type":"object","properties":{"path":{"type":"string"}}}')
TOOLS = (ToolSpec("read", "Reads a file.", SCHEMA), ToolSpec("files.list/all", "", SCHEMA))
HELLO = UserItem((Text("Hello"),))
REASON = Reasoning("I should look at both files.")
SAID = Text("Grüße, 世界 🙂: looking at both.")
CALLS = (
    ToolCall("t3.5", "read", '{"path": "a.txt", "n": 1.0}', "vendor_1"),
    ToolCall("t3.6", "read", '{"path":"b\\"c"}', "vendor_2"),
)


def request(*items: ContextItem, **changes: Any) -> ModelRequest:
    """Return a request with two tools whose next call is t3.5."""
    base = ModelRequest("m-1", "Be brief.", items or (HELLO,), TOOLS, 512, "t3.", 5)
    return msgspec.structs.replace(base, **changes)


def as_item(reply: ModelReply) -> ModelItem:
    """Return a reply as the history keeps it."""
    return ModelItem(reply.items, reply.raw, reply.dialect, reply.provider)


async def call(model: Model, req: ModelRequest) -> tuple[list[Delta], ModelReply]:
    """Make one call; check the shape of every stream: deltas, then one reply, then the end."""
    found = [item async for item in model.stream(req)]
    reply = found[-1]
    assert isinstance(reply, ModelReply)
    deltas = [item for item in found if not isinstance(item, ModelReply)]
    assert len(deltas) == len(found) - 1
    return deltas, reply


async def fails(model: Model, req: ModelRequest | None = None) -> tuple[list[Delta], ModelFailed]:
    """Make a call that must fail; return what had arrived, and the failure."""
    deltas: list[Delta] = []
    try:
        async for item in model.stream(req or request()):
            assert not isinstance(item, ModelReply), "a broken call must give no reply"
            deltas.append(item)
    except ModelFailed as failure:
        return deltas, failure
    raise AssertionError("the call did not fail")


def said(deltas: list[Delta], kind: type[TextDelta] | type[ReasoningDelta]) -> str:
    return "".join(d.text for d in deltas if isinstance(d, kind))


class ModelContract:
    """The good days. `traffic` is the dialect the adapter is to be tested with."""

    traffic: Traffic

    def connect(self, base_url: str, key: Secret | None = KEY, silence_s: float = 30.0) -> Model:
        """Return the adapter, pointed at a server on this machine."""
        raise NotImplementedError

    def model(self, vendor: FakeVendor, key: Secret | None = KEY, silence_s: float = 30.0) -> Model:
        assert urlsplit(vendor.url).hostname == "127.0.0.1", "no test leaves this machine"
        return self.connect(vendor.url, key, silence_s)

    async def test_a_text_arrives_in_pieces_and_as_a_whole(self) -> None:
        reply_headers = {"x_request_id": "req_7", "request_id": "req_7"}
        async with FakeVendor(stream(self.traffic.reply([SAID]), **reply_headers)) as vendor:
            model = self.model(vendor)
            deltas, reply = await call(model, request())
            await model.close()
        assert said(deltas, TextDelta) == SAID.text
        assert len(deltas) > 1
        assert reply.items == (SAID,)
        assert (reply.finish, reply.model, reply.request_id) == ("stop", "m-2026", "req_7")
        assert (reply.usage.input_tokens, reply.usage.output_tokens) == (120, 34)
        assert reply.usage.cached_tokens == 100
        assert not reply.usage.estimated
        seen = vendor.requests[0]
        assert seen.path.endswith(self.traffic.path)
        assert seen.json["stream"] is True
        assert KEY.reveal() in seen.headers.get("authorization", "") + seen.headers.get(
            "x-api-key", ""
        )

    async def test_parallel_calls_get_our_ids_in_order(self) -> None:
        async with FakeVendor(stream(self.traffic.reply([REASON, SAID, *CALLS]))) as vendor:
            model = self.model(vendor)
            deltas, reply = await call(model, request())
            await model.close()
        assert reply.items == (REASON, SAID, *CALLS)
        assert reply.finish == "tool_calls"
        assert said(deltas, ReasoningDelta) == REASON.text
        written = "".join(d.arguments for d in deltas if isinstance(d, CallDelta))
        assert written == "".join(c.arguments for c in CALLS)
        assert {d.tool for d in deltas if isinstance(d, CallDelta)} == {"read"}

    async def test_raw_items_go_back_byte_for_byte(self) -> None:
        written: list[ReplyItem] = [REASON, Opaque("novel_kind"), SAID, *CALLS]
        first, second = stream(self.traffic.reply(written)), stream(self.traffic.reply([SAID]))
        async with FakeVendor(first, second) as vendor:
            model = self.model(vendor)
            _, reply = await call(model, request())
            results = [ResultItem(c.id, c.tool, f"<{c.id}>", vendor_id=c.vendor_id) for c in CALLS]
            history: list[ContextItem] = [
                HELLO,
                as_item(reply),
                *reversed(results),
                UserItem((Text("And?"),)),
            ]
            _, again = await call(model, request(*history))
            await model.close()
        assert not again.dropped
        body = vendor.requests[1]
        at = 0
        for raw in reply.raw:
            at = body.body.find(bytes(raw), at)
            assert at >= 0, f"not sent back as it came: {bytes(raw)!r}"
            at += len(bytes(raw))
        assert "novel_kind" in body.body.decode()
        answered = self.traffic.results(body.json)
        assert sorted(answered) == [("vendor_1", "<t3.5>"), ("vendor_2", "<t3.6>")]
        assert self.traffic.texts(body.json) == ["Hello", "And?"]

    async def test_a_foreign_history_is_converted_and_the_loss_is_told(self) -> None:
        foreign = ModelItem(
            (REASON, Opaque("odd"), SAID, ToolCall("t1.1", "files.list/all", "{broken", "c:1!")),
            (msgspec.Raw(b'{"secret":"of another provider"}'),),
            "other-dialect",
            "other",
        )
        result = ResultItem("t1.1", "files.list/all", "x\ud800y\0z", vendor_id="c:1!")
        async with FakeVendor(stream(self.traffic.reply([SAID]))) as vendor:
            model = self.model(vendor)
            _, reply = await call(model, request(HELLO, foreign, result))
            await model.close()
        assert len(reply.dropped) == 2, reply.dropped
        assert all("other" in line for line in reply.dropped)
        seen = vendor.requests[0]
        assert "another provider" not in seen.body.decode()
        assert REASON.text not in seen.body.decode()
        assert self.traffic.results(seen.json) == [("call_t1_1", "x\ufffdy\0z")]

    async def test_a_tool_with_an_odd_name_is_called_by_it(self) -> None:
        async with FakeVendor() as vendor:
            model = self.model(vendor)
            vendor.then(stream(self.traffic.reply([SAID])))
            await call(model, request())
            listed = vendor.requests[0].json["tools"]
            names = [tool.get("name") or tool["function"]["name"] for tool in listed]
            vendor.then(stream(self.traffic.reply([ToolCall("", names[1], "{}", "v")])))
            deltas, reply = await call(model, request())
            await model.close()
        assert names[0] == "read"
        assert "." not in names[1]
        assert reply.items == (ToolCall("t3.5", "files.list/all", "{}", "v"),)
        assert {d.tool for d in deltas if isinstance(d, CallDelta)} == {"files.list/all"}

    async def test_unknown_events_are_ignored(self) -> None:
        noise = b': comment\n\nevent: novelty\ndata: {"type":"novelty","delta":["?"]}\n\n'
        good = self.traffic.reply([SAID])
        async with FakeVendor(stream([noise, *good[:1], noise, *good[1:]])) as vendor:
            model = self.model(vendor)
            _, reply = await call(model, request())
            await model.close()
        assert reply.items == (SAID,)

    async def test_a_giant_line_is_read(self) -> None:
        big = ToolCall("t3.5", "read", '{"path":"' + "x" * 3_000_000 + '"}', "v")
        frames = self.traffic.reply([big])
        whole = b"".join(frames)
        parts = [whole[i : i + 65_536] for i in range(0, len(whole), 65_536)]
        async with FakeVendor(stream(parts)) as vendor:
            model = self.model(vendor)
            _, reply = await call(model, request())
            await model.close()
        assert reply.items == (big,)

    async def test_pieces_arrive_before_the_end_and_bytes_may_be_cut_anywhere(self) -> None:
        frames = self.traffic.reply([SAID])
        whole, gate = b"".join(frames), asyncio.Event()
        cut = whole.index("世".encode()) + 1
        last = len(whole) - len(frames[-1])
        parts = (whole[:cut], whole[cut : cut + 1], whole[cut + 1 : last], gate, whole[last:])
        held = msgspec.structs.replace(stream([]), frames=parts)
        async with FakeVendor(held) as vendor:
            model = self.model(vendor)
            text = ""
            async for item in model.stream(request()):
                if isinstance(item, TextDelta):
                    text += item.text
                    if text == SAID.text:
                        gate.set()  # the server only goes on once everything has been read
            await model.close()
        assert text == SAID.text

    async def test_stopping_early_closes_the_connection(self) -> None:
        frames = self.traffic.reply([SAID])
        held = msgspec.structs.replace(stream([]), frames=(*frames[:-3], asyncio.Event()))
        async with FakeVendor(held) as vendor, asyncio.timeout(10):
            model = self.model(vendor)
            stream_ = model.stream(request())
            async with aclosing(stream_) as deltas:  # type: ignore[type-var]  # a generator
                await anext(deltas)
            await vendor.gone.wait()
            await model.close()

    async def test_a_connection_is_used_again(self) -> None:
        good = stream(self.traffic.reply([SAID]))
        async with FakeVendor(good, good) as vendor:
            model = self.model(vendor)
            await call(model, request())
            await call(model, request())
            await model.close()
            assert vendor.connections == 1

    async def test_check_says_who_answers(self) -> None:
        async with FakeVendor(answer(200, {"data": [{"id": "m-1"}, {"id": "m-2"}]})) as vendor:
            model = self.model(vendor)
            line = await model.check()
            await model.close()
        assert "2 models" in line
        assert vendor.requests[0].path.split("?")[0].endswith("/models")

    async def test_length_and_refusal_are_finishes(self) -> None:
        async with FakeVendor() as vendor:
            model = self.model(vendor)
            for finish in ("length", "refusal"):
                vendor.then(stream(self.traffic.reply([SAID], finish)))
                _, reply = await call(model, request())
                assert reply.finish == finish
            await model.close()
