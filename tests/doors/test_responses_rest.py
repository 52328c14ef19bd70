"""What else the Responses API promises: cancel, delete, paging, storing, limits, counting."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from perdure.core.content import Text
from perdure.core.secrets import Secret
from perdure.engine.session import Session
from perdure.models.openai import OpenAI
from perdure.models.scripted import Call
from perdure.ports.store import SessionRow
from perdure.testing.fake_vendors import FakeVendor
from perdure.testing.traffic import Responses, stream as traffic
from tests.doors.serving import Reply, script, up

ADD: Any = {"type": "function", "name": "add", "strict": False, "parameters": {"type": "object"}}
TALK = script(Reply(text="Hello there."), Reply(text="Again: {{last_user}}"))
SLOW = script(Reply(text="word " * 200), delay_s=0.02)


async def test_cancel_is_for_background_responses() -> None:
    async with up({"slow": SLOW, "talk": TALK}) as server:
        client = await server.openai()
        made = await client.responses.create(model="slow", input="Go", background=True)
        assert made.status in ("queued", "in_progress")
        gone = await client.responses.cancel(made.id)
        assert gone.status == "cancelled"
        assert (await client.responses.retrieve(made.id)).status == "cancelled"
        assert (await client.responses.cancel(made.id)).status == "cancelled"
        done = await client.responses.create(model="talk", input="Hi", background=True)
        stream = await client.responses.retrieve(done.id, stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
        assert (await client.responses.cancel(done.id)).status == "completed"
        front = await client.responses.create(model="slow", input="Go", stream=True)
        first: Any = await anext(aiter(front))
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel(first.response.id)
        await client.responses.delete(first.response.id)
        await front.close()


async def test_one_that_has_not_ended_has_no_successor() -> None:
    async with up({"slow": SLOW}) as server:
        client = await server.openai()
        made = await client.responses.create(model="slow", input="Go", background=True)
        with pytest.raises(openai.BadRequestError, match="has not ended"):
            await client.responses.create(model="slow", input="?", previous_response_id=made.id)
        await client.responses.cancel(made.id)


async def test_one_that_ended_with_nobody_looking_has_successors() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        made = await client.responses.create(model="talk", input="Hi", background=True)
        engine = await server.server.projects.engine("default")
        async for _ in (await engine.session(made.id)).watch():
            pass
        done = await client.responses.create(
            model="talk", input="More", previous_response_id=made.id
        )
        assert done.output_text == "Again: More"


async def test_what_is_not_stored_cannot_be_fetched() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        made = await client.responses.create(model="talk", input="Hi", store=False)
        assert (made.status, made.output_text) == ("completed", "Hello there.")
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            await client.responses.create(model="talk", input="?", previous_response_id=made.id)
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="talk", input="?", background=True, store=False)


async def test_what_was_deleted_is_gone_in_all_ways() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        made = await client.responses.create(model="talk", input="Hi")
        await client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(made.id)


async def test_another_project_s_responses_do_not_exist() -> None:
    async with up({"talk": TALK}) as server:
        mine, theirs = await server.openai("mine"), await server.openai("theirs")
        made = await mine.responses.create(model="talk", input="Hi")
        for ask in (theirs.responses.retrieve, theirs.responses.cancel, theirs.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        with pytest.raises(openai.BadRequestError, match="not found"):
            await theirs.responses.create(model="talk", input="?", previous_response_id=made.id)


async def test_input_items_page_by_page() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        words: Any = [{"role": "user", "content": f"word {n}"} for n in range(5)]
        made = await client.responses.create(model="talk", input=words)
        for order in ("asc", "desc"):
            pages: Any = client.responses.input_items.list(made.id, limit=2, order=order)
            said = [item.content[0].text async for item in pages]
            wanted = [f"word {n}" for n in range(5)]
            assert said == (wanted if order == "asc" else wanted[::-1])


async def test_what_was_asked_shows_in_the_response() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        made = await client.responses.create(
            model="talk", input="Hi", instructions="Be kind.", metadata={"a": "b"}, top_p=0.5,
            temperature=0.3, truncation="auto", max_output_tokens=77, include=[],
            reasoning={"effort": "low"}, parallel_tool_calls=False, tool_choice="none",
        )  # fmt: skip
        assert (made.instructions, made.metadata, made.top_p) == ("Be kind.", {"a": "b"}, 0.5)
        assert (made.temperature, made.truncation, made.max_output_tokens) == (0.3, "auto", 77)
        assert made.reasoning is not None
        assert (made.reasoning.effort, made.tool_choice) == ("low", "none")
        assert made.parallel_tool_calls is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"reasoning": {"effort": "huge"}}, {"temperature": 3}, {"top_p": -1},
        {"tool_choice": {"type": "function", "name": "nobody"}}, {"truncation": "some"},
        {"text": {"format": {"type": "xml"}}}, {"max_output_tokens": "many"}, {"input": 7},
        {"input": [{"type": []}]}, {"input": [{"type": "compaction", "encrypted_content": "x"}]},
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        body = {"model": "talk", "input": "Hi"} | wrong
        with pytest.raises(openai.BadRequestError):
            await client.post("/responses", body=body, cast_to=object)


async def test_a_request_that_comes_again_makes_nothing_new() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        for headers in ({"idempotency-key": "k1"}, {"x-stainless-retry-count": "1"}):
            body: Any = {"model": "talk", "input": f"Hi {headers}"}
            first = await client.responses.create(**body)
            if "idempotency-key" in headers:
                first = await client.responses.create(**body, extra_headers=headers)
            again = await client.responses.create(**body, extra_headers=headers)
            assert again.id == first.id
            assert (await client.responses.create(**body)).id != first.id
        with pytest.raises(openai.ConflictError):
            await client.responses.create(
                model="talk", input="other", extra_headers={"idempotency-key": "k1"}
            )


async def test_a_long_conversation_is_said_shorter() -> None:
    models = {"talk": TALK, "sum": script(Reply(text="They greeted."), Reply(text="Next."))}
    async with up(models) as server:
        client = await server.openai()
        made = await client.responses.create(model="talk", input="Hi")
        raw = await client.responses.with_raw_response.compact(
            model="sum", input="And?", previous_response_id=made.id
        )
        short = raw.parse()
        assert short.object == "response.compaction"
        assert [item.type for item in short.output] == ["compaction"]
        assert short.usage.output_tokens > 0
        window: Any = json.loads(raw.text)["output"]
        done = await client.responses.create(
            model="talk", input=[*window, {"role": "user", "content": "Go"}]
        )
        assert done.status == "completed"
        context = await server.server.projects.open_ones["default"].session(done.id)
        read = str(await context.context())
        assert read.index("And?") < read.index("They greeted.") < read.index("Go")


async def ticks() -> AsyncIterator[None]:
    async with asyncio.timeout(20):
        while True:
            yield
            await asyncio.sleep(0)


async def test_a_summary_that_cannot_be_had_is_no_fault_of_the_server() -> None:
    slow = script(Reply(text="a long summary " * 100), delay_s=0.05)
    async with up({"talk": TALK, "slow": slow}) as server:
        client = await server.openai()
        with pytest.raises(openai.BadRequestError) as refused:  # a name that the operator's * takes
            await client.responses.compact(model="nobody", input="Hi")
        assert refused.value.code == "E-MODEL-SUMMARY"
        asking = asyncio.ensure_future(client.responses.compact(model="slow", input="Hi"))
        engine = await server.server.projects.engine("default")
        rows: list[SessionRow] = []
        async for _ in ticks():
            rows = [row for row in await engine.sessions() if row.status == "running"]
            if rows:
                break
        await Session(engine, rows[0].id).interrupt(by="somebody")
        with pytest.raises(openai.ConflictError) as ended:
            await asking
        assert "somebody ended its session" in str(ended.value)


@pytest.mark.parametrize("background", [False, True])
async def test_a_list_of_sessions_shows_what_was_said(*, background: bool) -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        made = await client.responses.create(model="talk", input="Hi", background=background)
        stream = await client.responses.retrieve(made.id, stream=True)
        assert [event.type async for event in stream][-1] == "response.completed"
        (row,) = await (await server.server.projects.engine("default")).sessions()
        assert row.last == "Hello there."


async def test_tokens_are_estimated() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        few = await client.responses.input_tokens.count(model="talk", input="Hi")
        many = await client.responses.input_tokens.count(model="talk", input="Hi " * 100)
        assert 0 < few.input_tokens < many.input_tokens


class Number(BaseModel):
    n: int


async def test_the_helpers_of_the_sdk() -> None:
    models = {"json": script(Reply(text='{"n": 7}')), "talk": TALK}
    async with up(models) as server:
        client = await server.openai()
        async with client.responses.stream(model="json", input="?", text_format=Number) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert "response.output_text.delta" in kinds
        assert final.output_parsed == Number(n=7)
        parsed = await client.responses.parse(model="json", input="?", text_format=Number)
        assert parsed.output_parsed == Number(n=7)
        async with client.responses.stream(
            response_id=final.id, starting_after=2, text_format=Number
        ) as again:
            assert (await again.get_final_response()).output_parsed == Number(n=7)


async def test_wishes_reach_the_provider() -> None:
    answer = Responses().reply([Text("Hello.")])
    async with FakeVendor(traffic(answer), traffic(answer)) as vendor:
        model = OpenAI(base_url=f"{vendor.url}/v1", api_key=Secret("planted.0123456789abcdef"))
        async with up({"real": model}) as server:
            client = await server.openai()
            await client.responses.create(
                model="real", input="Hi", tools=[ADD], reasoning={"effort": "high"},
                tool_choice="required", temperature=0.5, parallel_tool_calls=False,
                text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            )  # fmt: skip
        await model.close()
    sent = vendor.requests[0].json
    assert sent["reasoning"] == {"effort": "high"}
    assert (sent["tool_choice"], sent["parallel_tool_calls"]) == ("required", False)
    assert sent["temperature"] == 0.5
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    assert sent["text"] == {"format": form}


async def test_a_forced_call_is_forced_once() -> None:
    call = Reply(call=(Call("add", {"a": 1}),))
    async with up({"run": script(call, Reply(text="Done."))}) as server:
        client = await server.openai()
        body: Any = {"model": "run", "tools": [ADD], "tool_choice": "required"}
        first: Any = await client.responses.create(input="?", **body)
        output: Any = {
            "type": "function_call_output", "call_id": first.output[0].call_id, "output": "1"
        }  # fmt: skip
        done = await client.responses.create(input=[output], previous_response_id=first.id, **body)
        assert done.output_text == "Done."
