"""Responses over a WebSocket, as OpenAI's SDK connects."""

from typing import Any

from perdure.models.scripted import Call
from tests.doors.serving import Reply, script, up

ADD: Any = {"type": "function", "name": "add", "strict": False, "parameters": {"type": "object"}}
TALK = script(
    Reply(text="Hello there."), Reply(text="Again: {{last_user}}."), delay_s=0.01, chunk_chars=3
)
LAST = ("response.completed", "response.failed", "response.incomplete")


async def until(connection: Any, *kinds: str) -> list[Any]:
    """Receive events up to the first of one of these kinds."""
    found: list[Any] = []
    while not found or found[-1].type not in kinds:
        found.append(await connection.recv())
    return found


async def test_events_are_those_of_a_stream() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        async with client.responses.connect() as connection:
            await connection.send({"type": "response.create", "model": "talk", "input": "Hi"})
            seen = await until(connection, *LAST)
            assert [e.sequence_number for e in seen] == list(range(len(seen)))
            name = seen[-1].response.id
            stream = await client.responses.retrieve(name, stream=True)
            assert [e.to_dict() async for e in stream] == [e.to_dict() for e in seen]
            await connection.send(
                {"type": "response.create", "model": "talk", "input": "x",
                 "previous_response_id": name, "stream_id": "b"}
            )  # fmt: skip
            more = await until(connection, *LAST)
            assert more[-1].response.output_text == "Again: x."
            assert {e.stream_id for e in more} == {"b"}


async def test_what_is_not_stored_lives_as_long_as_the_connection() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        body: Any = {"type": "response.create", "model": "talk", "input": "x", "store": False}
        async with client.responses.connect() as connection:
            await connection.send(body)
            first = (await until(connection, *LAST))[-1].response.id
            await connection.send(body | {"previous_response_id": first})
            assert (await until(connection, *LAST))[-1].response.output_text == "Again: x."
        async with client.responses.connect() as connection:
            await connection.send(body | {"previous_response_id": first})
            wrong = await until(connection, "error")
            assert wrong[-1].code == "previous_response_not_found"


async def test_mistakes_are_told_and_the_connection_stays() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        async with client.responses.connect() as connection:
            for wrong in ("no json", '{"type": "dance"}', '["list"]'):
                await connection.send_raw(wrong)
                assert (await connection.recv()).type == "error"
            await connection.send({"type": "response.create", "model": "talk", "input": "Hi"})
            assert (await until(connection, *LAST))[-1].type == "response.completed"


async def test_a_viewer_and_a_stranger_may_not() -> None:
    async with up({"talk": TALK}) as server:
        viewer = await server.openai(role="viewer")
        stranger = await server.openai()
        stranger.api_key = "pdk_nobody"
        for client in (viewer, stranger):
            async with client.responses.connect() as connection:
                assert (await connection.recv()).type == "error"


async def test_words_put_in_begin_the_next_response() -> None:
    async with up({"talk": TALK}) as server:
        client = await server.openai()
        async with client.responses.connect() as connection:
            await connection.send({"type": "response.create", "model": "talk", "input": "Hi"})
            name = (await until(connection, "response.created"))[-1].response.id
            await connection.response.steer(input="turn left", previous_response_id=name)
            seen = await until(connection, *LAST)
            assert "response.steer.accepted" in [e.type for e in seen]
            after = await until(connection, *LAST)
            assert after[0].type == "response.created"
            assert after[0].response.previous_response_id == name
            assert after[-1].response.output_text == "Again: turn left."
            await connection.response.steer(input="late", previous_response_id=name)
            late = (await until(connection, "response.steer.failed"))[-1]
            assert late.error.code == "response_already_completed"
            await connection.response.steer(input="?", previous_response_id="resp_none")
            lost = (await until(connection, "response.steer.failed"))[-1]
            assert lost.error.code == "response_not_found"


async def test_words_put_in_wait_for_the_client_s_own_answers() -> None:
    call = Reply(text="Let me add.", call=(Call("add", {"a": 1}),))
    run = script(call, Reply(text="Got {{last_user}}."), delay_s=0.01, chunk_chars=2)
    async with up({"run": run}) as server:
        client = await server.openai()
        async with client.responses.connect() as connection:
            body: Any = {"type": "response.create", "model": "run", "tools": [ADD]}
            await connection.send(body | {"input": "Hi"})
            name = (await until(connection, "response.created"))[-1].response.id
            await connection.response.steer(input="left", previous_response_id=name)
            seen = await until(connection, "response.steer.pending")
            pending = seen[-1]
            assert pending.reason == "waiting_for_required_input"
            stub = pending.required_input[0].to_dict()
            assert (stub["type"], stub["name"]) == ("function_call_output", "add")
            output = stub | {"output": "1"}
            output.pop("name")
            await connection.send(body | {"input": [output], "previous_response_id": name})
            assert (await until(connection, *LAST))[-1].response.output_text == "Got left."
