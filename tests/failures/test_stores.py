"""What a store may not do to a session: scenarios 32, 35 to 39 and 42 to 44."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.budget import Price
from perdure.core.content import ResultItem, Usage
from perdure.core.errors import Conflict, CorruptJournal, StoreFull, Unavailable
from perdure.core.journal import aside
from perdure.core.state import Phase
from perdure.engine.agent import Agent
from perdure.models.scripted import Call, Reply
from perdure.ports.store import Batch
from perdure.stores.faults import Faults
from perdure.stores.sqlite import SqliteStore
from perdure.testing.sim_disks import OnSqlite
from perdure.testing.stage import Stage, play, staged
from perdure.tools.python import tool


class Full(Faults):
    """A disk that is full while somebody says so."""

    def __init__(self) -> None:
        self.full = False
        self.refused = 0

    def before_commit(self, batches: Sequence[Batch]) -> None:
        if self.full:
            self.refused += 1
            raise StoreFull("E-STORE-FULL", "No room.")


@staged
async def test_failure_32_a_full_disk_stops_the_session_and_loses_nothing(stage: Stage) -> None:
    faults = Full()
    visits: list[str] = []

    @tool
    async def pay() -> str:
        visits.append("pay")
        faults.full = True
        return "paid"

    stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[pay])
    process = await stage.start(faults)
    await stage.say(process, "go")
    await stage.happens(lambda: faults.refused > 3)
    known = stage.world.events("s")[:]
    with pytest.raises(StoreFull):
        await stage.say(process, "more", key="k2")
    faults.full = False
    await stage.still()
    assert stage.world.events("s")[: len(known)] == known
    assert [p.status for p in stage.payloads(e.ToolFinished)] == ["ok"], "it healed by itself"
    assert visits == ["pay"]
    assert await stage.say(process, "more", key="k2"), "the refused letter was not kept by half"


@staged
async def test_failure_33_an_answer_that_was_lost_is_looked_up(stage: Stage) -> None:
    class Lost(Faults):
        def __init__(self) -> None:
            self.kinds = ["tool.finished"]

        def after_commit(self, batches: Sequence[Batch]) -> None:
            for record in (r for b in batches for r in b.records):
                if record.type in self.kinds:
                    self.kinds.remove(record.type)
                    raise Unavailable("E-IN-DOUBT", "Nobody can tell.")

    visits: list[str] = []

    @tool
    async def pay() -> str:
        visits.append("pay")
        return "paid"

    stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[pay])
    await stage.say(await stage.start(Lost()), "go")
    await stage.until(lambda s: s.last_status == "completed")
    assert visits == ["pay"]
    assert len(stage.payloads(e.ToolFinished)) == 1


@staged
async def test_failure_36_a_flipped_bit_is_named_and_hurts_one_session(stage: Stage) -> None:
    stage.plays(Reply(text="hello"), Reply(text="again"))
    process = await stage.start()
    for name in ("s", "t"):
        await stage.say(process, "go", name=name)
        await stage.still(name)
    await stage.end(process)
    stage.damage("s", 3)
    later = await stage.start()
    with pytest.raises(CorruptJournal, match=r"Event 3 .*hash"):
        await stage.with_session(later, lambda s: s.context())
    await stage.say(later, "again", name="t", key="k2")
    await stage.until(lambda s: s.turns == 2 and s.turn is None, "t")


async def test_failure_35_a_promise_without_fsync_is_made_only_when_asked_for(
    tmp_path: Path,
) -> None:
    store = await SqliteStore.open(tmp_path / "a.db")
    await store.close()
    with sqlite3.connect(tmp_path / "a.db") as plain:
        assert plain.execute("pragma journal_mode").fetchone() == ("wal",)


async def test_failure_37_a_library_that_can_lose_the_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"3\.51"):
        await SqliteStore.open(tmp_path / "a.db", sqlite_version="3.51.2")
    assert not (tmp_path / "a.db").exists(), "nothing was touched"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_failure_38_five_megabytes_lie_aside_and_a_restart_stays_small(store: str) -> None:
    async def scene(stage: Stage) -> None:
        @tool(effect="read")
        async def flood() -> dict[str, str]:
            return {"much": "x" * 5_000_000}

        stage.plays(Reply(call=(Call("flood"),)), Reply(text="done"))
        stage.agent = Agent("agent", "scripted:play", tools=[flood])
        first = await stage.start()
        await stage.say(first, "go")
        await stage.still()
        (done,) = stage.payloads(e.ToolFinished)
        assert len(done.text) < 100_000, "what the model reads is bounded"
        assert len(await stage.on(first, lambda g: g.kit.store.blobs.get(done.full))) > 5_000_000
        records = stage.disk.records("s", 0)
        assert sum(len(r.data) for r in records) < 100_000
        stage.kill(first)
        second = await stage.start()
        await stage.say(second, "more", key="k2")
        await stage.until(lambda s: s.turns == 2 and s.turn is None)

    play(scene, store)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_failure_38_an_event_of_a_megabyte_is_kept_beside_the_journal(store: str) -> None:
    async def scene(stage: Stage) -> None:
        stage.plays(Reply(text="hello"))
        process = await stage.start()
        await stage.say(process, "y" * 1_000_000)
        await stage.still()
        large = [r for r in stage.disk.records("s", 0) if aside(r)]
        assert [r.type for r in large] == ["input.accepted"]
        assert all(len(r.data) < 1000 for r in large)
        assert len(str(stage.last_request()[0])) > 1_000_000

    play(scene, store)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_failure_39_what_is_no_text_comes_back_as_it_was(store: str) -> None:
    odd = "NUL \0 lone \udcff and \ud800 and \ue000 and \U0001f600"

    async def scene(stage: Stage) -> None:
        visits: list[str] = []

        @tool(effect="read")
        async def read() -> str:
            visits.append("read")
            return odd

        stage.plays(Reply(call=(Call("read"),)), Reply(text="{{last_result}}"), Reply(text="ok"))
        stage.agent = Agent("agent", "scripted:play", tools=[read])
        first = await stage.start()
        await stage.say(first, odd)
        await stage.still()
        stage.kill(first)
        second = await stage.start()
        await stage.say(second, "more", key="k2")
        await stage.until(lambda s: s.turns == 2 and s.turn is None)
        results = [i.text for i in stage.last_request() if isinstance(i, ResultItem)]
        assert results == [odd]
        assert visits == ["read"]

    play(scene, store)


@pytest.mark.parametrize("limit", [Limits(tokens=3000), Limits(usd=0.006)], ids=["tokens", "usd"])
def test_failure_42_no_crowd_of_calls_passes_a_budget(limit: Limits) -> None:
    @staged
    async def scene(stage: Stage) -> None:
        stage.prices["scripted:*"] = Price(input=2.0, output=8.0)
        stage.plays(*(Reply(text="x", usage=Usage(100, 60)) for _ in range(40)))
        stage.agent = Agent("agent", "scripted:play", limits=limit, max_output_tokens=1000)
        process = await stage.start()
        for number in range(25):
            await stage.say(process, "go", key=f"k{number}")
        await stage.until(lambda s: s.turns == 25 and s.turn is None)
        state = stage.state()
        assert state.last_status == "budget"
        assert state.spent.tokens <= (limit.tokens or 10**9)
        assert state.spent.micro_usd <= (limit.usd or 10**9) * 1_000_000
        assert stage.requests, "and some of it was spent"

    scene()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_failure_43_a_key_stands_for_one_request(store: str) -> None:
    async def scene(stage: Stage) -> None:
        stage.plays(Reply(text="hello"))
        process = await stage.start()
        assert await stage.say(process, "go", key="k")
        assert not await stage.say(process, "go", key="k")
        with pytest.raises(Conflict, match="E-KEY-REUSED"):
            await stage.say(process, "something else", key="k")
        await stage.still()
        assert len(stage.payloads(e.InputAccepted)) == 1

    play(scene, store)


def test_failure_44_what_a_backup_does_not_know_is_asked(tmp_path: Path) -> None:
    """A backup from the middle of a call knows that it left, not how it ended."""
    backup = tmp_path / "backup"

    def cast(stage: Stage, visit: Callable[[OnSqlite], object]) -> None:
        @tool
        async def pay() -> str:
            assert isinstance(stage.disk, OnSqlite)
            visit(stage.disk)
            return "paid"

        stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
        stage.agent = Agent("agent", "scripted:play", tools=[pay])

    async def before(stage: Stage) -> None:
        cast(stage, lambda disk: disk.copy(backup))
        await stage.say(await stage.start(), "go")
        await stage.still()

    async def after(stage: Stage) -> None:
        visits: list[OnSqlite] = []
        cast(stage, visits.append)
        assert isinstance(stage.disk, OnSqlite)
        stage.disk.put_back(backup)
        await stage.start()
        state = await stage.until(lambda s: s.actions)
        assert [c.phase for c in state.open_calls] == [Phase.UNKNOWN]
        assert not visits
        assert stage.payloads(e.SessionRecovered), "under a new epoch"

    play(before, "sqlite")
    play(after, "sqlite")


@staged
async def test_failure_44_what_is_handed_out_or_forked_is_nobody_elses(stage: Stage) -> None:
    """Whoever changes a state that was given to him, or a fork, changes nothing of the session."""

    @tool(ask=True)
    async def pay() -> str:
        return "paid"

    stage.plays(Reply(call=(Call("pay"),)), Reply(text="done"))
    stage.agent = Agent("agent", "scripted:play", tools=[pay])
    process = await stage.start()
    await stage.say(process, "go")
    await stage.with_session(process, lambda s: s.set("basket", ["bread"]))
    await stage.until(lambda s: s.actions and s.values)
    given = await stage.with_session(process, lambda s: s.state())
    for mapping in (given.actions, given.values):
        assert isinstance(mapping, dict) and mapping
        mapping.clear()
    await stage.with_session(process, lambda s: s.fork(name="f"))
    await stage.with_session(process, lambda s: s.set("basket", ["bread", "wine"]), "f")
    await stage.until(lambda s: len(bytes(s.values["basket"])) > len(b'["bread"]'), "f")
    await stage.with_session(process, lambda s: s.interrupt(), "f")
    await stage.until(lambda s: not s.actions, "f")
    state = await stage.with_session(process, lambda s: s.state())
    assert bytes(state.values["basket"]) == b'["bread"]'
    assert [a.kind for a in state.actions.values()] == ["approve"]
