"""OpenAI's own SDK against our Chat Completions, models and files."""

from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.doors.settings import ServerSettings
from perdure.models.scripted import Alternative, Call, Failure
from tests.doors.serving import Reply, script, up

TALK = script(Reply(text="Hello there, friend."), Reply(text="And again: {{last_user}}."))
ANSWER = Alternative(text="It is {{last_result}}.", if_result_contains="6")
CALLS = script(
    Reply(
        text="Let me add.",
        call=(Call("add", {"a": 2, "b": 3}), Call("add", {"a": 4})),
        when=(ANSWER,),
    )
)
ADD: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}


def user(text: str) -> Any:
    return {"role": "user", "content": text}


async def test_a_completion() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        done = await client.chat.completions.create(
            model="talk", messages=[{"role": "system", "content": "Be kind."}, user("Hi")]
        )
        assert done.id.startswith("chatcmpl-")
        assert done.choices[0].message.content == "Hello there, friend."
        assert done.choices[0].finish_reason == "stop"
        assert done.usage is not None
        assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens
        engine = await server.server.projects.engine("default")
        session = await engine.session(f"resp_{done.id.partition('-')[2]}")
        assert (await session.state()).spec.instructions == "Be kind."


async def test_a_completion_in_chunks() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        stream = await client.chat.completions.create(
            model="talk",
            messages=[user("Hi")],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        said = [c.choices[0].delta.content or "" for c in chunks if c.choices]
        assert "".join(said) == "Hello there, friend."
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert (chunks[-1].choices, chunks[-1].usage is not None) == ([], True)
        assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_calls_and_their_results() -> None:
    async with up({"calls": CALLS}) as server:
        client = await server.openai()
        ask = client.chat.completions
        first = await ask.create(model="calls", messages=[user("2+3?")], tools=[ADD])
        message = first.choices[0].message
        assert (first.choices[0].finish_reason, message.content) == ("tool_calls", "Let me add.")
        assert message.tool_calls is not None
        assert [c.function.arguments for c in message.tool_calls if c.type == "function"] == [
            '{"a":2,"b":3}',
            '{"a":4}',
        ]
        results: Any = [
            {"role": "tool", "tool_call_id": c.id, "content": f"{n}"}
            for n, c in enumerate(message.tool_calls, 5)
        ]
        past: Any = [user("2+3?"), message.to_dict(), *results]
        done = await ask.create(model="calls", messages=past, tools=[ADD])
        assert done.choices[0].message.content == "It is 6."
        with pytest.raises(openai.BadRequestError, match="No tool output found"):
            await ask.create(model="calls", messages=past[:-1], tools=[ADD])


async def test_no_call_has_the_id_of_another_in_a_history_that_the_client_keeps() -> None:
    calls = script(Reply(call=(Call("add", {"a": 1}), Call("add", {"a": 2}))))
    async with up({"calls": calls}) as one:
        client = await one.openai()
        history: list[Any] = [{"role": "user", "content": "Add."}]
        listed: list[Any] = [*history]
        for _ in range(3):
            reply = await client.chat.completions.create(
                model="calls", messages=history, tools=[ADD]
            )
            message = reply.choices[0].message
            history.append(message.to_dict())
            history += [
                {"role": "tool", "tool_call_id": call.id, "content": "3"}
                for call in message.tool_calls or []
            ]
            tool: Any = {"type": "function", **ADD["function"], "strict": False}
            made: Any = await client.responses.create(
                model="calls", input=listed, tools=[tool], store=False
            )
            for item in made.output:
                listed.append(item.to_dict())
                output = {"type": "function_call_output", "call_id": item.call_id, "output": "3"}
                listed.append(output)
        ids = [each["tool_call_id"] for each in history if each["role"] == "tool"]
        assert len(set(ids)) == len(ids) == 6
        ids = [each["call_id"] for each in listed[1:] if each["type"] == "function_call"]
        assert len(set(ids)) == len(ids) == 6


async def test_calls_in_chunks_are_put_together_by_the_client() -> None:
    async with up({"calls": CALLS}) as server:
        client = await server.openai()
        async with client.chat.completions.stream(
            model="calls", messages=[user("2+3?")], tools=[ADD]
        ) as stream:
            done = await stream.get_final_completion()
        calls = done.choices[0].message.tool_calls or []
        assert [call.function.arguments for call in calls] == ['{"a":2,"b":3}', '{"a":4}']
        assert done.choices[0].finish_reason == "tool_calls"


async def test_what_is_stored_can_be_listed_changed_and_deleted() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        ask = client.chat.completions
        await ask.create(model="talk", messages=[user("not kept")])
        kept = [
            await ask.create(
                model="talk", messages=[user(f"{n}")], store=True, metadata={"n": str(n)}
            )
            for n in range(3)
        ]
        assert [c.id async for c in ask.list(limit=2)] == [c.id for c in kept]
        assert [c.id async for c in ask.list(metadata={"n": "1"})] == [kept[1].id]
        assert [c.id async for c in ask.list(model="other")] == []
        assert await ask.retrieve(kept[0].id) == kept[0]
        changed = await ask.update(kept[0].id, metadata={"x": "y"})
        assert changed.metadata == {"x": "y"}
        sent = [m async for m in ask.messages.list(kept[2].id)]
        assert [m.content for m in sent] == ["2"]
        assert (await ask.delete(kept[0].id)).deleted
        with pytest.raises(openai.NotFoundError):
            await ask.retrieve(kept[0].id)
        other = await server.openai("other")
        assert [c.id async for c in other.chat.completions.list()] == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_refuses(stream: bool) -> None:
    bad = script(Reply(error=Failure("bad_request", "too odd", times=9)))
    async with up({"bad": bad}) as server:
        client = await server.openai()
        create: Any = client.chat.completions.create

        async def ask() -> None:
            found = await create(model="bad", messages=[user("Hi")], stream=stream)
            async for _ in found:
                pass

        with pytest.raises(openai.APIError, match="too odd"):
            await ask()


async def test_what_one_reply_cannot_give() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        create: Any = client.chat.completions.create
        wishes: list[dict[str, Any]] = [
            {"n": 2},
            {"modalities": ["audio"]},
            {"messages": []},
            {"tools": [{"a": 1}]},
        ]
        for wish in wishes:
            with pytest.raises(openai.BadRequestError):
                await create(**({"model": "talk", "messages": [user("Hi")]} | wish))


async def test_models() -> None:
    settings = ServerSettings(models={"fast": "test:talk", "my-*": "test:*"}, default_model="fast")
    async with up({"talk": TALK}, settings=settings) as server:
        client = await server.openai()
        assert [(m.id, m.owned_by) async for m in client.models.list()] == [("fast", "test")]
        assert (await client.models.retrieve("my-model/7b")).id == "my-model/7b"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.models.retrieve("other")
        with pytest.raises(openai.PermissionDeniedError):
            await client.models.delete("fast")


async def test_files(tmp_path: Path) -> None:
    data = b"\r\n--\x00\xff a\r--b\r\n"
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        made = await client.files.create(file=("\u00e4 b.bin", data), purpose="user_data")
        assert (made.bytes, made.filename, made.purpose) == (len(data), "\u00e4 b.bin", "user_data")
        other = await client.files.create(
            file=b"x", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
        )
        assert other.expires_at == other.created_at + 3600
        assert [f.id async for f in client.files.list(limit=1)] == [other.id, made.id]
        assert [f.id async for f in client.files.list(purpose="batch")] == [other.id]
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        assert await client.files.retrieve(made.id) == made
        got = await client.files.content(made.id)
        assert got.content == data
        assert got.response.headers["content-disposition"].startswith("attachment")
        theirs = await server.openai("other")
        with pytest.raises(openai.NotFoundError):
            await theirs.files.content(made.id)
        assert (await client.files.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(made.id)
        odd: Any = "odd"
        with pytest.raises(openai.BadRequestError, match="odd"):
            await client.files.create(file=b"x", purpose=odd)


async def test_files_that_are_too_large() -> None:
    settings = ServerSettings(models={"*": "test:*"}, max_body_bytes=1000)
    async with up({"talk": TALK}, settings=settings) as server:
        client = await server.openai()
        with pytest.raises(openai.APIStatusError) as large:
            await client.files.create(file=b"x" * 2000, purpose="user_data")
        assert large.value.status_code == 413


async def test_a_path_that_nobody_answers() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        with pytest.raises(openai.NotFoundError, match="Unknown request URL: POST") as unknown:
            await client.embeddings.create(model="talk", input="x")
        assert unknown.value.type == "invalid_request_error"
        assert unknown.value.code == "unknown_url"


ODD: list[Any] = [
    None, 1, "x", [], {}, [1], [[]], [{}], [{"type": "message"}], [{"role": "user"}], [{"type": 5}],
    [{"role": "user", "content": [1]}], [{"type": "function_call"}], [{"id": 5, "type": "odd"}],
    [{"type": "reasoning", "summary": [1]}], [{"type": "message", "role": 7, "content": "x"}],
    [{"type": "function_call_output", "call_id": "x", "output": {"a": 1}}],
]  # fmt: skip


async def test_what_makes_no_sense_is_refused_and_never_a_failure_of_ours() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        name = (await client.conversations.create()).id
        said = [user("x")]
        for odd in ODD:
            asked: list[tuple[str, Any]] = [
                ("/conversations", {"items": odd}),
                ("/conversations", {"metadata": odd}),
                (f"/conversations/{name}/items", {"items": odd}),
                ("/chat/completions", {"messages": odd}),
                ("/chat/completions", {"messages": [user(odd)]}),
                ("/chat/completions", {"messages": said, "tools": odd}),
                ("/chat/completions", {"messages": said, "functions": odd}),
                ("/chat/completions", {"messages": said, "tools": [ADD], "tool_choice": odd}),
                ("/chat/completions", {"messages": [{"role": "assistant", "tool_calls": odd}]}),
            ]
            for path, body in asked:
                status = 200
                try:
                    await client.post(path, cast_to=object, body=body)
                except openai.APIStatusError as error:
                    status = error.status_code
                assert status < 500, (path, body)
        assert (await client.conversations.items.list(name)).data
