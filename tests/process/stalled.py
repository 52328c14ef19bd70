"""The process that is killed while it moves sessions on that stopped for one cause.

`python -m tests.process.stalled` is a zygote as `tests.process.victim` is. Its deeds: `fail` makes
the sessions and lets them stop, `redrive:CAUSE` moves on those that stand there, and looks after
them until they rest.
"""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.inbox import Decide, Say
from perdure.core.state import ActionState, State
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.redrive import occurrences, redrive
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Script, Scripted
from perdure.ports.tool import Tool, ToolContext
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.python import tool
from tests.process.victim import KillAt, OneModel, Plan, die, world_of, zygote

STALLED: Final = ("s1", "s2", "s3", "s4")
OTHER: Final = "other"  # stopped too, for another cause
RATE: Final = 40.0


def pay_tool(plan: Plan) -> Tool:
    """The one tool: each call leaves a line in a file outside of everything Perdure keeps."""
    home = Path(plan.home)

    @tool(effect="once")
    def pay(invoice: int, context: ToolContext) -> str:
        """Pay an invoice. Nobody can ask afterwards whether it was paid."""
        if plan.effect == "pay:before":
            die()
        with (home / "world").open("a") as world:
            world.write(f"pay {context.session_id} {invoice}\n")
            world.flush()
            os.fsync(world.fileno())
        if plan.effect == "pay:after":
            die()
        return f"paid {invoice}"

    return pay


async def live(plan: Plan) -> None:
    """Do the plan's deed."""
    home = Path(plan.home)
    store = await SqliteStore.open(home / "p.db", faults=KillAt(plan))
    model = OneModel(Scripted(msgspec.json.decode(plan.script, type=Script)))
    bounds = Bounds(recoveries=1000, poll_s=0.05)
    kit = Kit(store, SystemClock(), RandomIds(), model, bounds=bounds)
    agent = Agent("clerk", "scripted:clerk", tools=[pay_tool(plan)])
    async with Engine(kit) as engine:
        await engine.register(agent)
        if plan.deed == "fail":
            for name in (*STALLED, OTHER):
                await (await engine.session(name, agent)).send(f"pay, {name}")
            return
        await _redrive(engine, plan)
        for name in STALLED:
            await to_rest(home, Session(engine, name))


async def _redrive(engine: Engine, plan: Plan) -> None:
    cause = plan.deed.partition(":")[2]
    began = time.monotonic()
    with (Path(plan.home) / "redriven").open("a") as told:
        moved = _carelessly(engine, cause) if plan.naive else _carefully(engine, cause)
        async for name, outcome in moved:
            passed = time.monotonic() - began
            told.write(f"{os.getpid()} {passed} {name} {outcome}\n")
            told.flush()


async def _carefully(engine: Engine, cause: str) -> AsyncIterator[tuple[str, str]]:
    async for each in redrive(engine, cause, rate_per_s=RATE):
        yield each.plan.session, each.outcome


async def _carelessly(engine: Engine, cause: str) -> AsyncIterator[tuple[str, str]]:
    """A broken redrive: no rate, and it does not know what it asked for before."""
    for each in await occurrences(engine.kit.store, cause):
        if each.waits:
            await Session(engine, each.row.session).post(Say("resume"))
            yield each.row.session, "resumed"


async def to_rest(home: Path, session: Session) -> None:
    while True:
        async for _ in session.watch():
            pass
        state = await session.state()
        if not state.actions:
            return
        for action in state.actions.values():
            await session.decide(_honest(home, state, action))


def _honest(home: Path, state: State, action: ActionState) -> Decide:
    assert state.turn is not None
    call = state.turn.calls[action.call_id].call
    invoice = msgspec.json.decode(call.arguments)["invoice"]
    if f"pay {state.id} {invoice}\n" in world_of(home):
        return Decide(action.id, "done", by="test", result=f"paid {invoice}")
    return Decide(action.id, "rerun", by="test")


if __name__ == "__main__":
    zygote(live)
