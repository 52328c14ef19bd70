"""OpenAI's own SDK against our Conversations API."""

import contextlib
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.engine.replay import replay
from perdure.models.scripted import Call, Script
from tests.doors.process import home
from tests.doors.serving import Reply, script, up

TALK = script(Reply(text="Hello there."), Reply(text="And again: {{last_user}}."))
CALLS = script(Reply(call=(Call("add", {"a": 2, "b": 3}),)), Reply(text="It is {{last_result}}."))
ADD: Any = {
    "type": "function",
    "name": "add",
    "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}
KEY = {"Idempotency-Key": "k"}


def user(text: str) -> Any:
    return {"type": "message", "role": "user", "content": text}


async def listed(client: openai.AsyncOpenAI, name: str) -> list[Any]:
    return [item async for item in client.conversations.items.list(name, order="asc", limit=2)]


def kinds(items: list[Any]) -> list[str]:
    return [f"{item.type}:{getattr(item, 'role', '')}".rstrip(":") for item in items]


async def test_a_conversation_is_made_described_and_deleted() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        made = await client.conversations.create(items=[user("Hi")], metadata={"a": "b"})
        assert made.id.startswith("conv_")
        assert made.metadata == {"a": "b"}
        assert await client.conversations.retrieve(made.id) == made
        other = await client.conversations.update(made.id, metadata={"c": "d"})
        assert (other.metadata, other.created_at) == ({"c": "d"}, made.created_at)
        gone = await client.conversations.delete(made.id)
        assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="talk", input="Hi", conversation=made.id)


async def test_items_come_back_as_they_were_sent_whatever_they_are() -> None:
    odd: Any = {"type": "image_generation_call", "result": None, "status": "completed", "x": [1]}
    image: Any = {
        "role": "user",
        "content": [{"type": "input_image", "image_url": "https://a.b/c.png", "detail": "low"}],
    }
    reasoning: Any = {"type": "reasoning", "id": "rs_mine", "summary": [], "encrypted_content": "q"}
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        added = await client.conversations.items.create(name, items=[odd, image, reasoning])
        assert [item.to_dict() for item in added.data] == [
            item.to_dict() for item in await listed(client, name)
        ]
        first, second, third = [item.to_dict() for item in added.data]
        assert {k: first[k] for k in odd} == odd
        assert second["content"] == [{**image["content"][0], "file_id": None}]
        assert third == reasoning
        assert (added.first_id, added.last_id) == (first["id"], third["id"])
        one = await client.conversations.items.retrieve(str(first["id"]), conversation_id=name)
        assert one.to_dict() == first
        done = await client.responses.create(model="talk", input="go", conversation=name)
        assert done.output_text == "Hello there."


async def test_responses_go_on_in_a_conversation_and_their_items_are_its_items(
    tmp_path: Path,
) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        name = (await client.conversations.create(items=[user("Hi")])).id
        one = await client.responses.create(model="talk", input="first", conversation=name)
        two = await client.responses.create(model="talk", input="second", conversation=name)
        assert two.output_text == "And again: second."
        assert two.conversation is not None
        assert two.conversation.id == name
        items = await listed(client, name)
        assert kinds(items) == [
            "message:user", "message:user", "message:assistant", "message:user",
            "message:assistant",
        ]  # fmt: skip
        assert items[2].id == one.output[0].id
        assert items[4].to_dict() == two.output[0].to_dict()
        sent = await client.responses.input_items.list(two.id)
        assert sent.data[0].id == items[3].id
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        assert await listed(client, name) == items


async def test_a_call_and_its_result_in_a_conversation(tmp_path: Path) -> None:
    async with up({"calls": CALLS}, tmp_path / "s.db") as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        ask = await client.responses.create(
            model="calls", input="2+3?", tools=[ADD], conversation=name
        )
        call: Any = ask.output[0]
        with pytest.raises(openai.ConflictError) as locked:
            await client.conversations.items.create(name, items=[user("wait")])
        assert locked.value.code == "conversation_locked"
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
        with pytest.raises(openai.BadRequestError, match="No tool output found"):
            await client.responses.create(model="calls", input="and?", conversation=name)
        done = await client.responses.create(
            model="calls", input=[output, user("quick")], tools=[ADD], conversation=name
        )
        assert done.output_text == "It is 5."
        items = await listed(client, name)
        assert kinds(items) == [
            "message:user", "function_call", "function_call_output", "message:user",
            "message:assistant",
        ]  # fmt: skip
        assert items[1].id == call.id
        engine = await server.server.projects.engine("default")
        session = await engine.session(name)
        report = await replay([event async for event in session.events()])
        assert report.identical, report


async def test_a_conversation_may_hold_calls_whose_results_come_later() -> None:
    calls: Any = [
        {"type": "function_call", "call_id": f"c{n}", "name": "add", "arguments": "{}"}
        for n in (1, 2)
    ]
    outputs: Any = [
        {"type": "function_call_output", "call_id": f"c{n}", "output": f"it was {n}"}
        for n in (1, 2)
    ]
    async with up({"calls": script(Reply(text="It is {{last_result}}."))}) as server:
        client = await server.openai()
        name = (await client.conversations.create(items=[user("2+3?")])).id
        await client.conversations.items.create(name, items=calls)
        with pytest.raises(openai.BadRequestError, match="No tool output found"):
            await client.responses.create(model="calls", input="and?", conversation=name)
        await client.conversations.items.create(name, items=outputs[:1])
        done = await client.responses.create(model="calls", input=outputs[1:], conversation=name)
        assert done.output_text == "It is it was 2."


async def test_what_is_deleted_is_read_no_more(tmp_path: Path) -> None:
    seen = script(Reply(text="one"), Reply(text="{{last_user}}"))
    async with up({"talk": seen}, tmp_path / "s.db") as server:
        client = await server.openai()
        name = (await client.conversations.create(items=[user("a"), user("b")])).id
        one = await client.responses.create(model="talk", input="c", conversation=name)
        items = await listed(client, name)
        for gone in (items[2], items[3]):
            left = await client.conversations.items.delete(gone.id, conversation_id=name)
            assert left.id == name
        assert [item.id for item in await listed(client, name)] == [items[0].id, items[1].id]
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(one.output[0].id or "", conversation_id=name)
        again = await client.responses.create(model="talk", input=[], conversation=name)
        assert again.output_text == "one", "the model's first reply was taken from its context"


async def test_pages_forwards_and_backwards() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create(items=[user(str(n)) for n in range(20)])).id
        await client.conversations.items.create(name, items=[user(str(n)) for n in range(20, 25)])
        forwards = [item.id async for item in client.conversations.items.list(name, order="asc")]
        backwards = [item.id async for item in client.conversations.items.list(name, limit=7)]
        assert len(set(forwards)) == 25
        assert backwards == forwards[::-1]
        page = await client.conversations.items.list(name, limit=7)
        assert page.has_more
        with pytest.raises(openai.BadRequestError, match="too long"):
            await client.conversations.items.create(name, items=[user("x")] * 21)


async def test_a_request_that_comes_again_adds_nothing_twice() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        create = client.conversations.items.create
        key = {"Idempotency-Key": "k1"}
        first = await create(name, items=[user("a")], extra_headers=key)
        again = await create(name, items=[user("a")], extra_headers=key)
        assert first == again
        await create(name, items=[user("b")])
        await create(name, items=[user("b")], extra_headers={"x-stainless-retry-count": "1"})
        await create(name, items=[user("b")])
        texts = [item.content[0].text for item in await listed(client, name)]
        assert texts == ["a", "b", "b"]


async def test_what_is_said_to_the_system_holds_for_the_whole_conversation() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create(items=[{"role": "system", "content": "Be"}])).id
        await client.responses.create(
            model="talk", input="Hi", conversation=name, instructions="Do"
        )
        await client.responses.create(
            model="talk", input=[{"role": "developer", "content": "Go"}], conversation=name
        )
        assert kinds(await listed(client, name))[0] == "message:system"
        engine = await server.server.projects.engine("default")
        session = await engine.session(name)
        assert (await session.state()).spec.instructions == "Be\n\nGo"


async def test_items_outlive_their_responses() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        one = await client.responses.create(model="talk", input="a", conversation=name)
        two = await client.responses.create(model="talk", input="b", conversation=name, store=False)
        before = await listed(client, name)
        assert [item.id for item in before[1::2]] == [one.output[0].id, two.output[0].id]
        await client.responses.delete(one.id)
        for gone in (one.id, two.id):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(gone)
        assert await listed(client, name) == before


async def test_other_projects_do_not_see_it() -> None:
    async with up({"talk": TALK}) as server:
        mine, theirs = await server.openai(), await server.openai("other")
        name = (await mine.conversations.create(items=[user("secret")])).id
        for ask in (
            theirs.conversations.retrieve(name),
            theirs.conversations.items.list(name),
            theirs.conversations.delete(name),
        ):
            with pytest.raises(openai.NotFoundError):
                await ask
        viewer = await server.openai(role="viewer")
        assert (await viewer.conversations.retrieve(name)).id == name
        with pytest.raises(openai.PermissionDeniedError):
            await viewer.conversations.delete(name)


async def test_a_conversation_outlives_a_server_that_is_killed_at_any_of_its_writes(
    tmp_path: Path,
) -> None:
    talk = Script((Reply(text="Hello there."), Reply(text="And again: {{last_user}}.")))
    for kill_at in (1, 2, 3, 4, 5, 6, 7):
        async with home(tmp_path / f"s{kill_at}.db", {"talk": talk}) as here:
            await here.start()
            client = await here.openai()
            name = (await client.conversations.create(items=[user("Hi")])).id
            await here.kill()
            await here.start(kill_at)
            client = await here.openai()
            add = client.conversations.items.create
            with contextlib.suppress(openai.APIConnectionError):
                await add(name, items=[user("a"), user("b")], extra_headers=KEY)
                await client.responses.create(
                    model="talk", input="go", conversation=name, extra_headers=KEY
                )
            await here.kill()  # unless it died at its write
            await here.start()
            client = await here.openai()
            again = await client.conversations.items.create(
                name, items=[user("a"), user("b")], extra_headers=KEY
            )
            done = await client.responses.create(
                model="talk", input="go", conversation=name, extra_headers=KEY
            )
            assert done.output_text == "Hello there."
            items = await listed(client, name)
            said = [item.content[0].text for item in items]
            assert said == ["Hi", "a", "b", "go", "Hello there."]
            assert [item.id for item in items[1:3]] == [item.id for item in again.data]
            assert items[4].id == done.output[0].id


async def test_what_others_say_in_the_session_is_listed_too() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        await client.responses.create(model="talk", input="a", conversation=name)
        engine = await server.server.projects.engine("default")
        session = await engine.session(name)
        await session.send("from the command line")
        items = await listed(client, name)
        assert kinds(items) == ["message:user", "message:assistant"] * 2
        assert items[2].content[0].text == "from the command line"
        assert items[3].content[0].text == "And again: from the command line."
        for item in items[2:]:
            await client.conversations.items.delete(item.id, conversation_id=name)
        assert await listed(client, name) == items[:2]
        assert len(await session.context()) == 2


async def test_a_call_that_is_answered_elsewhere_has_its_output_in_the_list() -> None:
    async with up({"calls": CALLS}) as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        await client.responses.create(model="calls", input="2+3?", tools=[ADD], conversation=name)
        engine = await server.server.projects.engine("default")
        session = await engine.session(name)
        await session.answer("t1.1", "five", by="anna")
        await session.resume()
        items = await listed(client, name)
        assert kinds(items) == [
            "message:user", "function_call", "function_call_output", "message:assistant",
        ]  # fmt: skip
        assert items[2].output == "five"
        assert items[3].content[0].text == "It is five."
