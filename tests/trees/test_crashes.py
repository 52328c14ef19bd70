"""A tree of subagents, killed at every commit and in every effect: nobody is spawned twice.

The world outside is a list that survives; a process is an engine over a store that is killed.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace as with_changes
from typing import Any

import pytest

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.events import Event
from perdure.core.inbox import Decide, Say
from perdure.core.state import ActionState, State
from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.subagents import Subagent, subagent
from perdure.engine.work import CallContext
from perdure.ports.store import Batch
from perdure.ports.tool import ToolContext, ToolOutput
from perdure.stores.faults import Faults
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.tools.python import tool
from tests.trees.family import house, part, says, tasks, uses

BOUNDS = Bounds(recoveries=1000, poll_s=0.005, close_s=0.05)
FAMILY = {"s", "s.t1.1", "s.t1.2", *(f"s.t1.{a}.t1.{b}" for a in (1, 2) for b in (1, 2))}
PAID = Counter({f"pay s.t1.{a}.t1.{b}": 1 for a in (1, 2) for b in (1, 2)})


@dataclass
class Life:
    """One process: where it dies, and what has become of it."""

    commit: int = 0
    after: bool = False
    effect: int = 0  # in the n-th payment, counted from 1
    done: bool = False  # ... after it was made, not before
    commits: int = 0
    effects: int = 0
    store: MemoryStore | None = None
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    def die(self) -> None:
        assert self.store is not None
        self.store.kill()
        self.dead.set()


class KillAt(Faults):
    """Dies at the n-th commit, before or after it."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def before_commit(self, batches: Sequence[Batch]) -> None:
        self._life.commits += 1
        if self._life.commits == self._life.commit and not self._life.after:
            self._life.die()

    def after_commit(self, batches: Sequence[Batch]) -> None:
        if self._life.commits == self._life.commit and self._life.after:
            self._life.die()


PARTS: Mapping[str, Any] = {
    "lead": part(tasks("north", "south", tool="manager"), says("done")),
    "manager": part(tasks("one", "two", tool="worker"), says("{{last_result}}")),
    "worker": part(uses("pay", n=1), says("{{last_result}}")),
}


def lead(world: list[str], life: Life, spawner: Any = subagent) -> Agent:
    """A lead, managers and workers; a worker pays once, and nobody can ask whether it did."""

    @tool
    async def pay(n: int, context: ToolContext) -> str:
        """Pay."""
        life.effects += 1
        mine = life.effects == life.effect
        if mine and not life.done:
            life.die()
            await asyncio.Event().wait()
        world.append(f"pay {context.session_id}")
        if mine:
            life.die()
            await asyncio.Event().wait()
        return f"paid {n}"

    free = Limits(None, None, None)
    worker = Agent("worker", "scripted:worker", tools=[pay], limits=free)
    manager = Agent("manager", "scripted:manager", tools=[spawner(worker)], limits=free)
    return Agent(
        "lead", "scripted:lead", tools=[spawner(manager)], limits=Limits(None, None, None, 10**6)
    )


async def live(disk: MemoryDisk, world: list[str], life: Life, node: str, goal: Any) -> bool:
    """Live until the goal is reached and all is put away (True), or the process dies."""
    others = asyncio.all_tasks()
    engines: list[Engine] = []

    async def whole() -> None:
        async with house(PARTS, disk, node=node, faults=KillAt(life), bounds=BOUNDS) as engine:
            assert isinstance(engine.kit.store, MemoryStore)
            life.store = engine.kit.store
            engines.append(engine)
            await goal(engine, world, life)

    work = asyncio.ensure_future(whole())
    dead = asyncio.ensure_future(life.dead.wait())
    await asyncio.wait([work, dead], return_when=asyncio.FIRST_COMPLETED, timeout=20)
    reached = work.done() and not life.dead.is_set()
    picture = None if reached or life.dead.is_set() else await _picture(engines[0])
    if reached:
        await work
    # The dead do not put anything away: whatever was going on simply ends.
    while left := asyncio.all_tasks() - others:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    assert picture is None, picture
    return reached


async def _picture(engine: Engine) -> object:
    return [(r.id, r.status, r.last) for r in await engine.sessions()]


async def finish(engine: Engine, world: list[str], life: Life, spawner: Any = subagent) -> None:
    """Bring the tree to rest, deciding as an honest person who can look at the world."""
    session = await engine.session("s", lead(world, life, spawner))
    await session.send("go", key="the one message")
    while (tree := await engine.tree("s")).waiting:
        for row in tree.rows:
            child = Session(engine, row.id)
            for action in (await child.state()).actions.values():
                await child.decide(honest(world, row.id, action))
        async for _ in session.watch():
            pass


def honest(world: list[str], session: str, action: ActionState) -> Decide:
    if f"pay {session}" in world:
        return Decide(action.id, "done", by="test", result="I saw it")
    return Decide(action.id, "rerun", by="test")


async def story(*lives: Life) -> tuple[list[str], dict[str, State], dict[str, list[Event]]]:
    """Live one life after the other and then in peace; return the world and all journals."""
    disk, world = MemoryDisk(), list[str]()
    for number, life in enumerate((*lives, Life())):
        await live(disk, world, life, f"n{number}", finish)
    async with house(PARTS, disk, node="reader", bounds=BOUNDS) as engine:
        states, journals = {}, {}
        for row in await engine.sessions():
            session = Session(engine, row.id)
            states[row.id] = await session.state()
            journals[row.id] = [event async for event in session.events()]
        return world, states, journals


def assert_whole(
    world: list[str], states: Mapping[str, State], journals: Mapping[str, list[Event]], why: object
) -> None:
    assert set(states) == FAMILY, why
    assert Counter(world) == PAID, why
    for name, state in states.items():
        assert (status(state), state.last_status) == ("idle", "completed"), (why, name)
        said = [i.payload for i in journals[name] if isinstance(i.payload, e.InputAccepted)]
        assert len([p for p in said if p.kind == "message"]) == 1, (why, name)
        started = [i for i in journals[name] if i.type == "turn.started"]
        assert len(started) == 1, (why, name)


async def commits() -> int:
    life = Life()
    disk = MemoryDisk()
    assert await live(disk, [], life, "n0", finish)
    return life.commits


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_every_commit(*, after: bool) -> None:
    count = await commits()
    assert count > 20
    kills = 0
    for commit in range(1, count + 1):
        life = Life(commit, after)
        assert_whole(*await story(life), (commit, after))
        kills += life.dead.is_set()
    assert kills > count // 2


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("effect", [1, 2, 3, 4])
async def test_killed_in_every_effect(effect: int, *, done: bool) -> None:
    life = Life(effect=effect, done=done)
    assert_whole(*await story(life), (effect, done))
    assert life.dead.is_set()


async def test_killed_again_and_again() -> None:
    for first in range(4, 40, 5):
        for second in range(2, 30, 6):
            lives = [Life(first), Life(second, after=True), Life(second + 3)]
            assert_whole(*await story(*lives), (first, second))


class SpawnsAgain(Subagent):
    """A broken subagent: each attempt of a call gets a child of its own."""

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        assert isinstance(context, CallContext)
        fresh = f"{context.call_id}-{context.attempt}"
        return await super().call(arguments, with_changes(context, call_id=fresh))


def spawns_again(agent: Agent) -> Subagent:
    good = subagent(agent)
    return SpawnsAgain(good.agent, good.name, good.description, good.max_depth, good.max_children)


async def test_a_subagent_that_is_spawned_again_is_caught() -> None:
    async def goal(engine: Engine, world: list[str], life: Life) -> None:
        await finish(engine, world, life, spawns_again)

    for commit in range(10, 40):
        disk, world = MemoryDisk(), list[str]()
        for number, life in enumerate((Life(commit), Life())):
            await live(disk, world, life, f"n{number}", goal)
        if len(disk.journals) > len(FAMILY) or Counter(world).total() > PAID.total():
            return
    raise AssertionError("nobody noticed")


class Digging:
    """A tree whose workers never come to an end, and the one interrupt that ends it."""

    def __init__(self) -> None:
        self.alive = 0

    async def goal(self, engine: Engine, world: list[str], life: Life) -> None:
        """Start the tree, let it come to work, interrupt it, and see it end."""
        busy = asyncio.Event()

        @tool(effect="read")
        async def pay(n: int) -> str:
            """Dig without end."""
            self.alive += 1
            if self.alive == PAID.total():
                busy.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.alive -= 1
            return ""

        free = Limits(None, None, None)
        worker = Agent("worker", "scripted:worker", tools=[pay], limits=free)
        manager = Agent("manager", "scripted:manager", tools=[subagent(worker)], limits=free)
        top = Agent("lead", "scripted:lead", tools=[subagent(manager)])
        session = await engine.session("s", top)
        sending = asyncio.ensure_future(session.send("go", key="the one message")._wait())
        at_work = asyncio.ensure_future(busy.wait())
        await asyncio.wait([sending, at_work], return_when=asyncio.FIRST_COMPLETED)
        at_work.cancel()
        if not sending.done():
            await session.post(Say("interrupt", by="test"), "the one interrupt")
        assert (await sending).last_status == "cancelled"
        assert self.alive == 0


async def test_killed_while_an_interrupt_goes_down_the_tree() -> None:
    whole = Life()
    assert await live(MemoryDisk(), [], whole, "n0", Digging().goal)
    for commit in range(1, whole.commits + 1):
        for after in (False, True):
            disk, life = MemoryDisk(), Life(commit, after)
            await live(disk, [], life, "n0", Digging().goal)
            assert await live(disk, [], Life(), "n1", Digging().goal)
            async with house(PARTS, disk, node="reader", bounds=BOUNDS) as engine:
                for row in await engine.sessions():
                    state = await Session(engine, row.id).state()
                    assert status(state) == "idle", (commit, after, row.id, status(state))
                    assert state.last_status in ("cancelled", None), (commit, after, row.id)


async def test_killed_between_a_pause_and_its_children() -> None:
    async def paused(engine: Engine, world: list[str], life: Life) -> None:
        session = await engine.session("s", lead(world, life))
        sending = asyncio.ensure_future(session.send("go", key="the one message")._wait())
        async for item in session.follow():
            if isinstance(item, Event) and isinstance(item.payload, e.ToolStarted):
                break
        await session.post(Say("pause", by="test"), "the one pause")
        await sending
        await asyncio.gather(*(_still(engine, row.id) for row in (await engine.tree("s")).rows))

    async def resumed(engine: Engine, world: list[str], life: Life) -> None:
        session = await engine.session("s", lead(world, life))
        await finish(engine, world, life)
        if (await session.state()).paused:  # the pause may have been in the inbox till now
            await session.resume()
            await _accepted(session, "resume")
            while status(await session.state()) != "idle":  # its children are resumed one by one
                await finish(engine, world, life)

    whole = Life()
    assert await live(MemoryDisk(), [], whole, "n0", paused)
    for commit in range(1, whole.commits + 1):
        disk, world = MemoryDisk(), list[str]()
        await live(disk, world, Life(commit), "n0", paused)
        assert await live(disk, world, Life(), "n1", resumed), commit
        assert Counter(world) == PAID and set(disk.journals) == FAMILY, commit


async def _accepted(session: Session, kind: str) -> None:
    async for item in session.follow():
        if isinstance(item, Event) and getattr(item.payload, "kind", "") == kind:
            return


async def _still(engine: Engine, name: str) -> None:
    async for _ in Session(engine, name).watch():
        pass
