"""Forks and rewinds at every event of a session that has something of everything."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from perdure.core import events as e
from perdure.core.content import Text
from perdure.core.errors import Conflict, NotFound
from perdure.core.inbox import Rewind, Say
from perdure.core.state import Spent
from perdure.core.timeline import left_since
from perdure.engine.agent import Agent
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.environments.bubblewrap import Bubblewrap
from perdure.models.scripted import Call, Reply, Script, Scripted
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.workspace import workspace_tools
from tests.engine.branches import RICH, Stand, decided, run, to_rest
from tests.engine.stands import OneModel


def test_the_journal_is_rich() -> None:
    async def test(stand: Stand) -> None:
        session = await stand.rich("s")
        seen = Counter(event.type for event in await stand.events(session))
        assert seen["action.resolved"] >= 4
        assert seen["environment.snapshotted"] >= 3
        assert seen["model.responded"] > len(RICH.reply)
        payloads = [event.payload for event in await stand.events(session)]
        kinds = {p.status for p in payloads if isinstance(p, e.ToolFinished)}
        assert {"ok", "unknown"} <= kinds

    run(test)


def test_a_fork_at_every_event_comes_to_rest_and_runs_nothing_twice() -> None:
    async def test(stand: Stand) -> None:
        origin = await stand.rich("s")
        before, events = await stand.records("s"), await stand.events(origin)
        for at in range(1, len(before) + 1):
            fork = await origin.fork(at, name=f"f{at}")
            assert await fork.context() == await origin.context(at)
            assert (await fork.state()).spent == Spent()
            await _workspace_is_that_of(stand, origin, fork, at)
            left = left_since(await origin.state(at), events[at:])
            await to_rest(stand.world, fork)
            events_there = await stand.events(fork)
            _nothing_ran_undecided(stand, fork, decided(events_there, at), set(left))
        assert await stand.records("s") == before

    run(test)


def test_a_rewind_to_every_event_comes_to_rest_and_runs_nothing_twice() -> None:
    async def test(stand: Stand) -> None:
        length = len(await stand.events(await stand.rich("s")))
        for to in range(1, length):
            session = await stand.rich(f"s{to}")
            events, spent = await stand.events(session), (await session.state()).spent
            then, left = await session.context(to), left_since(await session.state(to), events[to:])
            entered = {k: len(v) for k, v in stand.world.entered.items() if k[0] == session.id}
            event = await session.rewind(to)
            assert event.seq == length + 1
            assert await session.context() == then
            assert (await session.state()).spent == spent
            await _workspace_is_that_of(stand, session, session, to)
            await to_rest(stand.world, session)
            after = await stand.events(session)
            assert after[:length] == events
            _nothing_ran_undecided(stand, session, decided(after, length), set(left), entered)

    run(test)


def test_a_fork_can_be_taken_back_into_the_past_it_shares() -> None:
    async def test(stand: Stand) -> None:
        origin = await stand.rich("s")
        before, events = await stand.records("s"), await stand.events(origin)
        for to in range(1, len(before), 3):
            fork = await origin.fork(name=f"f{to}")
            await fork.rewind(to)
            state = await fork.state()
            assert (state.id, state.spent) == (fork.id, Spent())
            assert await fork.context() == await origin.context(to)
            left = left_since(await origin.state(to), events[to:])
            await to_rest(stand.world, fork)
            told = decided(await stand.events(fork), len(before))
            _nothing_ran_undecided(stand, fork, told, set(left))
        assert await stand.records("s") == before

    run(test)


async def _workspace_is_that_of(stand: Stand, origin: Session, branch: Session, at: int) -> None:
    """Let the branch make its workspace, and compare it with that of the moment."""
    async for _ in branch.watch():
        pass
    state = await origin.state((await origin.preflight(at)).at)
    if branch.id == origin.id:
        first = next(
            ev.payload.snapshot
            for ev in await stand.events(origin)
            if isinstance(ev.payload, e.EnvironmentSnapshotted)
        )
        expected = stand.world.snapshots[state.snapshot or first]
    else:
        expected = stand.world.snapshots.get(state.snapshot, {})
    assert stand.world.workspaces.get(branch.id, {}) == expected, at
    assert not (await branch.state()).restore_due


def _nothing_ran_undecided(
    stand: Stand,
    branch: Session,
    told: tuple[Counter[str], Counter[str]],
    left: set[str],
    before: dict[tuple[str, str], int] | None = None,
) -> None:
    at_all, by_people = told
    for (session, name), entered in stand.world.entered.items():
        if session != branch.id or entered[0].tool not in ("pay", "send"):
            continue
        count = len(entered) - (before or {}).get((session, name), 0)
        allowed = by_people[name] if name in left else at_all[name]
        allowed += stand.world.denied_probes[session, name]
        assert count <= allowed, f"{name} left {count} times, decided {allowed}"


def test_a_cut_between_a_call_and_the_workspace_it_left_is_made_after_both() -> None:
    async def test(stand: Stand) -> None:
        origin = await stand.rich("s")
        events = await stand.events(origin)
        parted = [
            event.seq
            for event, after in pairwise(events)
            if isinstance(event.payload, e.ToolFinished)
            and isinstance(after.payload, e.EnvironmentSnapshotted)
        ]
        assert parted
        for at in parted:
            fork = await origin.fork(at)
            assert (await fork.state()).snapshot == events[at].payload.snapshot  # type: ignore[union-attr]

    run(test)


def test_a_rewind_while_a_turn_runs_ends_it_and_keeps_the_letters_that_wait() -> None:
    async def test(stand: Stand) -> None:
        session = await stand.engine.session("s", stand.agent)
        for text in ("first", "second"):
            await session.post(Say("message", (Text(text),)))
        async for item in session.follow():
            if isinstance(item, e.Event) and isinstance(item.payload, e.ToolStarted):
                break
        rewound = await session.rewind(1, by="ann")
        state = await session.state(rewound.seq)
        assert state.paused
        assert state.turn is None
        assert [q.kind for q in state.queue] == ["message"]
        payloads = [event.payload for event in await stand.events(session)]
        ended = [p.status for p in payloads if isinstance(p, e.TurnEnded)]
        assert ended == ["cancelled"]
        await to_rest(stand.world, session)
        assert "second" in str(await session.context())
        assert "first'" not in str(await session.context())

    run(test)


def test_a_message_after_a_rewind_is_not_taken_before_it() -> None:
    async def test(stand: Stand) -> None:
        session = await stand.engine.session("s", stand.agent)
        await session.post(Say("message", (Text("first"),)))
        async for item in session.follow():
            if isinstance(item, e.Event) and isinstance(item.payload, e.ToolStarted):
                break
        await session.post(Rewind(1))
        await session.post(Say("message", (Text("instead"),)))
        state = await to_rest(stand.world, session)
        assert state.generation == 1
        texts = [i.content for i in await session.context() if hasattr(i, "content")]
        assert texts == [(Text("instead"),)]

    run(test)


def test_a_rewind_of_a_session_that_waits_for_a_person_closes_the_question() -> None:
    async def test(stand: Stand) -> None:
        session = await stand.engine.session("s", stand.agent)
        await session.post(Say("message", (Text("first"),)))
        async for _ in session.watch():
            pass
        action = next(iter((await session.state()).actions))
        await session.rewind(2)
        assert not (await session.state()).actions
        with pytest.raises(Conflict, match="its turn had ended"):
            await session.allow(action, by="ann")

    run(test)


def test_a_rewind_of_a_parked_session_works() -> None:
    async def test(stand: Stand) -> None:
        session = await stand.engine.session("s", stand.agent)
        await session.post(Say("message", (Text("first"),)))
        await session.pause()
        async for _ in session.watch():
            pass
        await session.rewind(1)
        assert (await session.state()).turn is None

    run(test)


def test_what_cannot_be_forked_or_rewound_says_so() -> None:
    async def test(stand: Stand) -> None:
        session = await stand.rich("s")
        for at in (0, 10_000):
            with pytest.raises(NotFound):
                await session.fork(at)
            with pytest.raises(NotFound):
                await session.rewind(at)
        await session.fork(3, name="f")
        with pytest.raises(Conflict):
            await session.fork(3, name="f")

    run(test)


def test_preflight_says_what_a_fork_then_does() -> None:
    """What is told to be run again is what runs; what is to be decided waits."""

    async def test(stand: Stand) -> None:
        origin = await stand.rich("s")
        for at in range(1, len(await stand.records("s")) + 1):
            told = {c.call_id: c.verdict for c in (await origin.preflight(at)).calls}
            fork = await origin.fork(at, name=f"f{at}")
            await to_rest(stand.world, fork)
            _, by_people = decided(await stand.events(fork), at)
            for name, verdict in told.items():
                entered = stand.world.entered.get((fork.id, name), [])
                if verdict == "told":
                    assert not entered, (at, name)
                if verdict == "decide":
                    assert len(entered) <= by_people[name], (at, name)
                if verdict == "again":
                    assert entered, (at, name)

    run(test)


@pytest.mark.sandbox
async def test_in_a_real_sandbox_the_files_are_those_of_the_moment(tmp_path: Path) -> None:
    steps = [Reply(call=(Call("bash", {"command": f"echo {n} >> notes"}),)) for n in (1, 2)]
    kit = Kit(
        MemoryStore(MemoryDisk()),
        SystemClock(),
        RandomIds(),
        OneModel(Scripted(Script((*steps, Reply(text="Done."))))),
        {"bubblewrap": Bubblewrap(tmp_path / "work", SystemClock())},
        workspace_tools=lambda _: workspace_tools(),
    )

    async def notes(session: Session) -> str:
        payloads = [event.payload async for event in session.events()]
        opened = [p.workspace for p in payloads if isinstance(p, e.EnvironmentOpened)]
        return (Path(opened[-1]) / "notes").read_text()

    async with Engine(kit) as engine:
        origin = await engine.session("s", Agent("a", "scripted:x", workspace=True))
        await origin.send("go")
        events = [event async for event in origin.events()]
        first = next(ev.seq for ev in events if isinstance(ev.payload, e.ToolFinished))
        fork = await origin.fork(first)
        await to_the_end(fork)
        assert (await notes(fork), await notes(origin)) == ("1\n", "1\n2\n")
        await fork.resume()
        assert await notes(fork) == "1\n2\n"
        await origin.rewind(first)
        await to_the_end(origin)
        assert (await notes(fork), await notes(origin)) == ("1\n2\n", "1\n")


async def to_the_end(session: Session) -> None:
    """Wait until nothing is due."""
    async for _ in session.watch():
        pass
