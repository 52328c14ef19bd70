"""A session with something of everything in its journal, in the simulated world: time is a number
there, and what tools did is on a record that no fork and no rewind can change.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from perdure.core import events as e, step as due
from perdure.core.agent import EnvironmentSpec, RetryPolicy, Verdict
from perdure.core.content import Text
from perdure.core.events import Event
from perdure.core.inbox import Decide, Say
from perdure.core.state import State
from perdure.core.step import next_step
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.work import key_of
from perdure.models.scripted import Call, Failure, Reply, Script, Scripted
from perdure.stores.faults import Faults
from perdure.testing.clocks import SeededIds
from perdure.testing.faults import SimClock
from perdure.testing.sim_disks import InMemory
from perdure.testing.sim_sandbox import SimEnvironments
from perdure.testing.sim_tools import NAMES, SimTool
from perdure.testing.simloop import Owner, SimLoop
from perdure.testing.world import World
from tests.engine.stands import OneModel


def call(tool: str, number: int, act: str = "ok") -> Call:
    return Call(tool, {"n": number, "act": act})


RICH = Script(
    (
        Reply(text="I begin.", call=(call("look", 1), call("stock", 2), call("pay", 1))),
        Reply(
            text="I ask.",
            call=(call("edit", 1), call("send", 8), call("send", 1, "lost"), call("stock", 8)),
            error=Failure("overloaded"),
        ),
        Reply(text="I edit.", call=(call("edit", 2, "slow"), call("send", 2, "lost"))),
        Reply(text="That was the first."),
        Reply(text="More.", call=(call("pay", 3), call("edit", 8), call("send", 3))),
        Reply(text="That was the second."),
    )
)


class Stand:
    """An engine in the simulated world."""

    def __init__(self, engine: Engine, world: World) -> None:
        self.engine = engine
        self.world = world
        self.agent = Agent(
            "rich",
            "scripted:rich",
            tools=[SimTool(world, Owner("p"), name) for name in NAMES],
            retry=RetryPolicy(attempts=3),
            environment=EnvironmentSpec(kind="sim"),
        )

    async def rich(self, name: str) -> Session:
        """Live a rich session to its rest."""
        session = await self.engine.session(name, self.agent)
        await session.post(Say("message", (Text("first"),)))
        await session.post(Say("steer", (Text("with care"),)))
        await to_rest(self.world, session, pauses=1)
        await session.post(Say("message", (Text("second"),)))
        await to_rest(self.world, session)
        return session

    async def records(self, session: str) -> list[Any]:
        return list(await self.engine.kit.store.read(session, 0, 100_000))

    async def events(self, session: Session) -> list[Event]:
        return [event async for event in session.events()]


def run(test: Callable[[Stand], Awaitable[None]], script: Script = RICH) -> World:
    """Run a test in a fresh world."""
    loop = SimLoop(0, disorder=0.0)
    world = World(loop, Random(1))

    async def main() -> None:
        async with standing(world, script) as stand:
            await test(stand)

    loop.run(main())
    assert not world.violations, world.violations
    return world


@asynccontextmanager
async def standing(world: World, script: Script) -> AsyncIterator[Stand]:
    disk = InMemory()
    world.disk = disk
    kit = Kit(
        await disk.open("p", Faults(), 0.001),
        SimClock(world),
        SeededIds(1),
        OneModel(Scripted(script)),
        {"sim": SimEnvironments(world, Owner("p"))},
        bounds=Bounds(idle_s=1.0),
    )
    async with Engine(kit) as engine:
        yield Stand(engine, world)


async def to_rest(world: World, session: Session, *, pauses: int = 0) -> State:
    """Decide whatever is asked, and resume, until nothing is left to do."""
    while True:
        async for _ in session.watch():
            pass
        state = await session.state()
        match next_step(state):
            case due.Ask(actions):
                if pauses:
                    pauses -= 1
                    await session.pause()
                    continue
                await session.decide(decision(world, state, actions[0].id))
            case due.Rest("idle"):
                return state
            case due.Rest():
                await session.post(Say("resume"))
            case step:
                raise AssertionError(step)


def decision(world: World, state: State, action_id: str) -> Decide:
    """Decide as somebody does who can look at the world."""
    action = state.actions[action_id]
    if action.kind == "approve":
        return Decide(action_id, "allow", "ann", seen=action.digest)
    assert state.turn is not None
    asked = state.turn.calls[action.call_id]
    if world.done[key_of(state.id, asked)]:
        return Decide(action_id, "done", "ann", result="I saw it")
    return Decide(action_id, "rerun" if asked.attempt < 2 else "failed", "ann")


def decided(events: list[Event], after: int) -> tuple[Counter[str], Counter[str]]:
    """Return how often each call was let run after seq `after`: at all, and by a person."""
    at_all: Counter[str] = Counter()
    by_people: Counter[str] = Counter()
    actions: dict[str, str] = {}
    for event in events:
        match event.payload:
            case e.ActionRequested(action_id=action, call_id=name):
                actions[action] = name
            case _ if event.seq <= after:
                pass
            case e.ToolRequested(call_id=name, verdict=Verdict.ALLOW):
                at_all[name] += 1
            case e.ActionResolved(action_id=action, decision="allow" | "rerun"):
                at_all[actions[action]] += 1
                by_people[actions[action]] += 1
            case _:
                pass
    return at_all, by_people
