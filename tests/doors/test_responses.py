"""OpenAI's own SDK against our Responses API."""

from pathlib import Path
from typing import Any

from perdure.models.scripted import Alternative, Call
from tests.doors.serving import Reply, script, up

TALK = script(Reply(text="Hello there, friend."), Reply(text="And again: {{last_user}}."))
# A conversation that the client keeps begins anew for the script, so it looks for the result.
ANSWERED = Alternative(text="It is {{last_result}}.", if_result_contains="5")
CALLS = script(
    Reply(call=(Call("add", {"a": 2, "b": 3}),), when=(ANSWERED,)),
    Reply(text="It is {{last_result}}."),
)
ADD: Any = {
    "type": "function",
    "name": "add",
    "strict": False,
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
}


async def test_a_response_and_one_that_follows(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        first: Any = await client.responses.create(model="talk", input="Hi")
        assert (first.status, first.output_text) == ("completed", "Hello there, friend.")
        again: Any = await client.responses.create(
            model="talk", input="more", previous_response_id=first.id
        )
        assert again.output_text == "And again: more."
        assert (await client.responses.retrieve(first.id)).output_text == first.output_text
        other: Any = await client.responses.create(
            model="talk", input="differently", previous_response_id=first.id
        )
        assert other.output_text == "And again: differently."


async def test_a_stream_and_the_same_stream_again(tmp_path: Path) -> None:
    async with up({"talk": TALK}, tmp_path / "s.db") as server:
        client = await server.openai()
        stream = await client.responses.create(model="talk", input="Hi", stream=True)
        seen = [event async for event in stream]
        assert [event.sequence_number for event in seen] == list(range(len(seen)))
        assert seen[-1].type == "response.completed"
        assert seen[0].type == "response.created"
        name = seen[0].response.id
        for after in (0, 3, len(seen) - 2):
            rest = await client.responses.retrieve(name, stream=True, starting_after=after)
            assert [event async for event in rest] == seen[after + 1 :]


async def test_a_function_that_the_client_answers(tmp_path: Path) -> None:
    async with up({"calls": CALLS}, tmp_path / "s.db") as server:
        client = await server.openai()
        first: Any = await client.responses.create(model="calls", input="2+3?", tools=[ADD])
        call = first.output[0]
        assert (call.type, call.name, first.status) == ("function_call", "add", "completed")
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
        done: Any = await client.responses.create(
            model="calls", input=[output], tools=[ADD], previous_response_id=first.id
        )
        assert done.output_text == "It is 5."


async def test_a_conversation_that_the_client_keeps(tmp_path: Path) -> None:
    async with up({"calls": CALLS}, tmp_path / "s.db") as server:
        client = await server.openai()
        first: Any = await client.responses.create(
            model="calls", input="2+3?", tools=[ADD], store=False
        )
        call = first.output[0]
        items: Any = [
            {"role": "user", "content": "2+3?"},
            call.to_dict(),
            {"type": "function_call_output", "call_id": call.call_id, "output": "5"},
        ]
        done: Any = await client.responses.create(model="calls", input=items, tools=[ADD])
        assert done.output_text == "It is 5."
