"""The Python API against a server: the same calls, the same answers."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from perdure import Agent, Event, Runtime, tool
from perdure.app import Options
from perdure.core.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unavailable
from perdure.core.secrets import Secret
from perdure.engine.export import export_session
from perdure.engine.hub import Live
from perdure.engine.redrive import grouped, redrive
from perdure.models.scripted import Call, Failure as Failing, Reply
from perdure.ports.model import TextDelta
from tests.doors.serving import QUICK, Scripts, Up, script, up


@tool(effect="once", ask="eur > 20")
def refund(order: int, eur: float) -> str:
    """Give money back."""
    return f"refunded {eur}"


HELPER = Agent("helper", "test:talk", tools=[refund])
TALK = script(Reply(text="Hello there, friend."), Reply(text="And again: {{last_user}}."))
ASKS = script(
    Reply(call=(Call("refund", {"order": 9, "eur": 38.0}),)), Reply(text="So: {{last_result}}.")
)
MODELS = {"talk": TALK, "asks": ASKS, "long": script(Reply(text="x" * 80_000))}


@asynccontextmanager
async def here(tmp_path: Path, agent: Agent = HELPER) -> AsyncIterator[Runtime]:
    options = Options(models=Scripts(MODELS), bounds=QUICK, work_root=tmp_path / "work")
    async with Runtime(f"sqlite:///{tmp_path / 's.db'}", options) as runtime:
        await runtime.register(agent)
        yield runtime


@asynccontextmanager
async def there(tmp_path: Path, agent: Agent = HELPER) -> AsyncIterator[Runtime]:
    async with up(MODELS, tmp_path / "s.db", agents=[agent]) as server, at(server) as runtime:
        yield runtime


@asynccontextmanager
async def at(
    server: Up, role: Any = "operator", project: str = "default"
) -> AsyncIterator[Runtime]:
    options = Options(models=Scripts({}), api_key=Secret(await server.key(project, role)))
    async with Runtime(server.url, options) as runtime:
        yield runtime


BOTH = pytest.mark.parametrize("place", [here, there])


@BOTH
async def test_a_session_is_sent_to_followed_and_read(place: Any, tmp_path: Path) -> None:
    async with place(tmp_path) as runtime:
        session = await runtime.session("s1", HELPER)
        items = [item async for item in session.send("Hi", key="k")]
        events = [item for item in items if isinstance(item, Event)]
        pieces = [item.piece for item in items if isinstance(item, Live)]
        shown = "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))
        assert shown == "Hello there, friend."
        assert events[-1].type == "turn.ended"
        state = await session.send("Hi", key="k")
        assert state.turns == 1, "the same key says it once"
        assert (await session.send("more")).turns == 2
        again = await runtime.session("s1")
        assert [e async for e in again.events(events[0].seq - 1)][: len(events)] == events
        assert (await session.context())[-1].items[0].text == "And again: more."
        (row,) = await runtime.sessions()
        assert (row.id, row.status, row.turns) == ("s1", "idle", 2)
        by_name = await runtime.session("s2", "helper")
        assert (await by_name.send("Hi")).last_status == "completed"
        with pytest.raises(NotFound, match="E-SESSION-UNKNOWN"):
            await runtime.session("nobody")
        with pytest.raises(NotFound, match="E-AGENT-UNKNOWN"):
            await runtime.session("s3", "nobody")


@BOTH
async def test_decisions_grants_and_who_was_first(place: Any, tmp_path: Path) -> None:
    asks = Agent("helper", "test:asks", tools=[refund])
    async with place(tmp_path, asks) as runtime:
        session = await runtime.session("s1", asks)
        state = await session.send("38")
        (action,) = state.actions.values()
        with pytest.raises(InvalidRequest, match="E-ACTION-UNKNOWN"):
            await session.deny("a99", by="ann")
        with pytest.raises(Conflict, match="E-ACTION-REFUSED"):
            await session.allow(action.id, by="ann", seen="another")
        event = await session.allow(action.id, by="ann", seen=action.digest, scope="rule")
        assert event.payload.by.startswith("ann")
        assert (await session.resume()).last_status == "completed"
        with pytest.raises(Conflict, match=r"E-ACTION-DECIDED.*ann"):
            await session.deny(action.id, by="bob")
        (rule,) = await runtime.rules()
        await runtime.revoke_rule(rule.name, by="ann")
        assert await runtime.rules() == []
        closed = await session.close(by="ann")
        assert closed.type == "session.closed"
        with pytest.raises(Conflict, match="E-SESSION-CLOSED"):
            await session.send("more")


@BOTH
async def test_going_back_branching_and_carrying(place: Any, tmp_path: Path) -> None:
    async with place(tmp_path) as runtime:
        session = await runtime.session("s1", HELPER)
        await session.send("Hi")
        assert (await session.preflight(1)).at == 1
        fork = await session.fork(1, name="s2")
        assert (await fork.state()).seq == 2
        with pytest.raises(Conflict, match="E-SESSION-EXISTS"):
            await session.fork(1, name="s2")
        back = await session.rewind(1)
        assert back.payload.to == 1
        engine = await runtime.engine()
        lines = [line async for line in export_session(engine.kit.store, "s1")]
        assert await engine.bring(lines, "s3", by="ann") == "s3"
        assert (await (await runtime.session("s3")).state()).paused
        with pytest.raises(Conflict, match="E-SESSION-EXISTS"):
            await engine.bring(lines, "s3")


@BOTH
async def test_large_payloads_are_read(place: Any, tmp_path: Path) -> None:
    long = Agent("helper", "test:long", tools=[refund])
    async with place(tmp_path, long) as runtime:
        session = await runtime.session("s1", long)
        await session.send("Hi")
        assert (await session.context())[-1].items[0].text == "x" * 80_000


@BOTH
async def test_schedules(place: Any, tmp_path: Path) -> None:
    async with place(tmp_path) as runtime:
        made = await runtime.schedule("nightly", HELPER, "Report.", cron="0 3 * * *")
        assert await runtime.schedules() == [made]
        assert (await runtime.pause_schedule("nightly")).paused
        assert not (await runtime.resume_schedule("nightly")).paused
        name = await runtime.run_schedule_now("nightly")
        async for _ in (await runtime.session(name)).watch():
            pass
        assert [past.run.session for past in await runtime.schedule_runs("nightly")] == [name]
        await runtime.remove_schedule("nightly")
        with pytest.raises(NotFound, match="E-SCHEDULE-UNKNOWN"):
            await runtime.remove_schedule("nightly")


@BOTH
async def test_errors_are_grouped_and_redriven(place: Any, tmp_path: Path) -> None:
    MODELS["broken"] = script(Reply(error=Failing("auth")))
    broken = Agent("helper", "test:broken", tools=[refund])
    async with place(tmp_path, broken) as runtime:
        session = await runtime.session("s1", broken)
        state = await session.send("Hi")
        assert state.last_error is not None and state.last_error.code == "E-MODEL-AUTH"
        engine = await runtime.engine()
        (group,) = await grouped(engine.kit.store)
        done = [each async for each in redrive(engine, group.fingerprint, rate_per_s=100.0)]
        assert [each.outcome for each in done] == ["resumed"]
        async for item in session.follow(state.seq):
            if isinstance(item, Event) and item.type == "turn.ended":
                break
        (group,) = await grouped(engine.kit.store)
        assert group.count == 2


async def test_what_belongs_to_this_machine_is_refused(tmp_path: Path) -> None:
    async with there(tmp_path) as runtime:
        with pytest.raises(InvalidRequest, match="E-REMOTE-HERE"):
            await runtime.session("s1", HELPER, workspace=tmp_path)
        with pytest.raises(Conflict, match=r"E-CODE-DRIFT.*instructions"):
            await runtime.session("s1", Agent("helper", "test:talk", "Be kind.", tools=[refund]))
        store = (await runtime.engine()).kit.store
        with pytest.raises(Conflict, match="E-SESSION-BUSY"):
            await store.claim("s1")
        with pytest.raises(Forbidden, match="E-REMOTE-STORE"):
            await store.put_doc("rule", "r", b"{}")


async def test_a_viewer_reads_and_does_not_say(tmp_path: Path) -> None:
    async with up(MODELS, tmp_path / "s.db", agents=[HELPER]) as server:
        async with at(server) as runtime:
            await (await runtime.session("s1", HELPER)).send("Hi")
        async with at(server, "viewer") as runtime:
            session = await runtime.session("s1")
            assert (await session.state()).turns == 1
            with pytest.raises(Forbidden, match="E-ROLE"):
                await session.send("more")
        async with at(server, project="other") as runtime:
            assert await runtime.sessions() == []


async def test_addresses_and_keys(tmp_path: Path) -> None:
    key = Options(api_key=Secret("pdk_x"), models=Scripts({}))
    with pytest.raises(InvalidRequest, match="E-REMOTE-URL"):
        await Runtime("http://perdure.example.org", key).engine()
    with pytest.raises(Forbidden, match="E-REMOTE-KEY"):
        await Runtime("https://perdure.example.org", Options(environ={})).engine()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    async with Runtime(url, key) as runtime:
        with pytest.raises(Unavailable, match="E-REMOTE-UNREACHABLE") as refused:
            await runtime.sessions()
        assert "pdk_x" not in str(refused.value) + repr(refused.value.__cause__)
    async with up(MODELS, tmp_path / "s.db") as server, Runtime(server.url, key) as runtime:
        with pytest.raises(Forbidden, match="E-AUTH"):
            await runtime.sessions()
    environ = {"PERDURE_URL": url, "PERDURE_API_KEY": "pdk_x"}
    async with Runtime(options=Options(environ=environ)) as runtime:
        with pytest.raises(Unavailable, match="E-REMOTE-UNREACHABLE"):
            await runtime.sessions()
