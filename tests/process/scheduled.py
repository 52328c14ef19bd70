"""The process that is killed while it fires schedules and works on what they begin.

`python -m tests.process.scheduled` is a zygote as `tests.process.victim` is. Its deed names the
way in which firing is broken: `MovesOnFirst`, `NamesAtRandom`, `ForgetsTheKey`; empty: it is not.
"""

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from perdure.core.content import as_content
from perdure.core.schedules import Schedule
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.schedules import Schedules
from perdure.engine.session import Session
from perdure.models.scripted import Script, Scripted
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing import broken_schedules
from tests.process.stalled import pay_tool, to_rest
from tests.process.victim import KillAt, OneModel, Plan, zygote

PAST_US: Final = 1_700_000_000_000_000
PLANS: Final = (
    Schedule("monthly", "clerk", as_content("pay"), at_us=PAST_US),
    Schedule("log", "clerk", as_content("pay"), at_us=PAST_US, session="book"),
)


async def live(plan: Plan) -> None:
    """Fire what is due, and work until nothing is left to do."""
    home = Path(plan.home)
    store = await SqliteStore.open(home / "p.db", faults=KillAt(plan))
    model = OneModel(Scripted(msgspec.json.decode(plan.script, type=Script)))
    bounds = Bounds(recoveries=1000, poll_s=0.01)
    async with Engine(Kit(store, SystemClock(), RandomIds(), model, bounds=bounds)) as engine:
        if plan.deed:
            broken: type[Schedules] = getattr(broken_schedules, plan.deed)
            engine.schedules = broken(engine)
        await engine.register(Agent("clerk", "scripted:clerk", tools=[pay_tool(plan)]))
        for each in PLANS:
            await engine.schedules.add(each)
        firing = asyncio.create_task(engine.schedules.run())
        while any(each.due or each.next_us for each in await engine.schedules.all()):
            await store.changed(0.02)
        for row in await engine.sessions():
            await to_rest(home, Session(engine, row.id))
        firing.cancel()
        await asyncio.gather(firing, return_exceptions=True)


if __name__ == "__main__":
    zygote(live)
