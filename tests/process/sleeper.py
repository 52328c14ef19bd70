"""A process that falls asleep or wakes what sleeps, and is killed where told; see `victim`."""

import asyncio
import contextlib
from pathlib import Path

import msgspec

from perdure.core.step import status
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Script, Scripted
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.waiting import sleep, wait_for
from tests.process.victim import KillAt, OneModel, Plan, die, tools, zygote


async def live(plan: Plan) -> None:
    """Do one deed: `sleep` (and be killed asleep), `signal`, or `wake` what is due."""
    store = await SqliteStore.open(Path(plan.home) / "p.db", faults=KillAt(plan))
    model = Scripted(msgspec.json.decode(plan.script, type=Script))
    bounds = Bounds(recoveries=1000, poll_s=0.02, idle_s=0.05 if plan.deed == "wake" else 60.0)
    kit = Kit(store, SystemClock(), RandomIds(), OneModel(model), bounds=bounds)
    agent = Agent("victim", "scripted:victim", tools=[*tools(plan), sleep, wait_for])
    async with Engine(kit) as engine:
        await engine.register(agent)  # nothing names the session: it must be found
        session = Session(engine, "s")
        if plan.deed == "sleep":
            await _fall_asleep(await engine.session("s", agent))
            die()
        if plan.deed == "signal":
            await session.signal("paid", "in cash", key="k")
        row = await store.session("s")
        if row is not None and row.status == "running":
            engine.wake("s")  # it was killed awake: that is not the waker's matter
        await _until(session, "idle")


async def _fall_asleep(session: Session) -> None:
    sending = asyncio.ensure_future(_send(session))
    await _until(session, "sleeping")
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending


async def _send(session: Session) -> None:
    await session.send("go", key="the one message")


async def _until(session: Session, wanted: str) -> None:
    async for _ in session.follow():
        if status(await session.state()) == wanted:
            return


if __name__ == "__main__":
    zygote(live)
