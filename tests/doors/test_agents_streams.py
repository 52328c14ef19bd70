"""The stream of a session read again from any event, also when the server was killed in between."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from perdure.models.scripted import Call, Script
from tests.doors.process import Home, home
from tests.doors.serving import Reply, up
from tests.doors.test_agents_sessions import (
    ADD,
    ADDS,
    NOWHERE,
    add,
    agents_of,
    answer,
    message,
    reached,
)

# Slow and in small pieces, so that a server dies in the middle of words.
STEPS = Script(
    (
        Reply(text="Let me see what that comes to.", call=(Call("add", {"a": 2, "b": 3}),)),
        Reply(text="It is {{last_result}}, and I am quite sure of it."),
    ),
    delay_s=0.002,
    chunk_chars=4,
)


async def whole(sessions: Any, session: str, after: str = "1.0", times: int = 1) -> list[Any]:
    """Return all events behind one, until the session has come to rest so many times."""
    found = []
    headers = {"Last-Event-ID": after}
    async with asyncio.timeout(20):
        async with await sessions.events.stream(session, extra_headers=headers) as stream:
            async for event in stream:
                found.append(event)
                times -= event.type == "agent.session.idle"
                if times == 0:
                    return found
    raise AssertionError("the stream ended")


async def test_from_any_event_on_nothing_is_missing_and_nothing_comes_twice(
    tmp_path: Path,
) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE)
        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": add}) as stream:
            seen = [event async for event in stream]
        full = await whole(sessions, made.id)
        assert full == seen
        assert len({event.event_id for event in full}) == len(full)
        for number, event in enumerate(full[:-1]):
            assert await whole(sessions, made.id, event.event_id) == full[number + 1 :]


async def test_a_reader_without_a_last_event_begins_now(tmp_path: Path) -> None:
    async with up({"adds": ADDS}, tmp_path / "s.db") as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds", "tools": [ADD]}, environment=NOWHERE)
        async with sessions.stream(made.id, input="2+3?", tool_handlers={"add": add}) as stream:
            await stream.get_final_result()
        async with sessions.stream(made.id, input="more") as stream:
            events = [event async for event in stream]
        kinds = [event.type.removeprefix("agent.session.") for event in events]
        assert kinds[:3] == ["in_progress", "turn.created", "turn.in_progress"]
        assert kinds.count("turn.created") == 1
        assert kinds[-1] == "idle"


@pytest.mark.parametrize("last", ["nonsense", "0.0", "1", "999.0"])
async def test_an_event_of_no_such_stream_is_refused(last: str) -> None:
    async with up({"adds": ADDS}) as server:
        sessions = (await agents_of(server)).sessions
        made = await sessions.create(agent={"model": "adds"}, environment=NOWHERE)
        with pytest.raises(openai.BadRequestError):
            await sessions.events.stream(made.id, extra_headers={"Last-Event-ID": last})


async def attended(here: Home, session: str) -> list[Any]:
    """Follow a session through the deaths of its server, answering its calls; return what was
    seen.
    """
    seen: list[Any] = []
    while True:
        sessions = (await agents_of(here)).sessions
        after = seen[-1].event_id if seen else "1.0"
        try:
            headers = {"Last-Event-ID": after}
            async with await sessions.events.stream(session, extra_headers=headers) as stream:
                await _resolve(sessions, session)
                async for event in stream:
                    seen.append(event)
                    if event.type == "agent.session.requires_action":
                        await _resolve(sessions, session)
                    if event.type == "agent.session.idle":
                        return seen
        except (openai.APIError, httpx2.HTTPError):
            pass
        await here.dead()
        await here.start()


async def _resolve(sessions: Any, session: str) -> None:
    now = await sessions.retrieve(session)
    for action in now.required_actions:
        await answer(sessions, session, action.call_id, add(action.arguments), key=action.call_id)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kill_at", [1, 2, 3, 5, 7, 9, 11, 13])
async def test_a_server_that_is_killed_leaves_no_gap_in_a_stream(
    tmp_path: Path, kill_at: int, after: bool
) -> None:
    async with home(tmp_path / "s.db", {"steps": STEPS}) as here:
        await here.start()
        sessions = (await agents_of(here)).sessions
        made = await sessions.create(agent={"model": "steps", "tools": [ADD]}, environment=NOWHERE)
        await here.kill()
        await here.start(kill_at, after=after)
        first = here.process
        sessions = (await agents_of(here)).sessions
        hello = message("2+3?")
        try:
            await sessions.events.create(made.id, events=[hello], idempotency_key="hello")
        except openai.APIError:
            await here.dead()
            await here.start()
            sessions = (await agents_of(here)).sessions
            await sessions.events.create(made.id, events=[hello], idempotency_key="hello")
        seen = await attended(here, made.id)
        assert here.process is not first, "nothing was killed"
        sessions = (await agents_of(here)).sessions
        assert seen == await whole(sessions, made.id)
        items = [item async for item in sessions.items.list(made.id, order="asc")]
        done = [e.item for e in seen if e.type == "agent.session.turn.item.done"]
        said_last = [i for i in done if i.type == "message" and i.phase == "final_answer"]
        assert said_last[-1].content[0].text == "It is 5, and I am quite sure of it."
        assert items[-1].to_dict() == said_last[-1].to_dict()
        assert len([i for i in items if i.type == "function_call_output"]) == 1
        assert len([turn async for turn in sessions.turns.list(made.id)]) == 1


async def test_the_vendors_runner_takes_up_a_session_whose_server_was_killed(
    tmp_path: Path,
) -> None:
    async with home(tmp_path / "s.db", {"steps": STEPS}) as here:
        await here.start()
        sessions = (await agents_of(here)).sessions
        made = await sessions.create(agent={"model": "steps", "tools": [ADD]}, environment=NOWHERE)

        async def fatal(arguments: dict[str, Any]) -> str:
            await here.kill()
            return add(arguments)

        with pytest.raises(Exception):  # noqa: B017  # however the client says that it lost it
            async with sessions.stream(
                made.id, input="2+3?", tool_handlers={"add": fatal}
            ) as stream:
                await stream.get_final_result()
        await here.start()
        sessions = (await agents_of(here)).sessions
        now = await sessions.retrieve(made.id)
        if now.status == "in_progress":  # it died before the call was put to the client
            now = await reached(sessions, made.id, "requires_action")
        await _resolve(sessions, made.id)
        await reached(sessions, made.id, "idle")
        (last,) = [item async for item in sessions.items.list(made.id, limit=1)][:1]
        assert last.content[0].text == "It is 5, and I am quite sure of it."
        async with sessions.stream(made.id, input="again?") as stream:
            assert (await stream.get_final_result()).turn.status == "completed"
