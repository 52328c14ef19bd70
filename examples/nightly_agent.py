"""An agent that reports every night at three, and what becomes of a night that was missed.

Time is told, not waited for: a clock that is set. In life leave the `kit` out and write
`Runtime("sqlite:///nightly.db", Options(schedules=True))`, or let `perdure work` fire it.
"""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from perdure import Agent, Runtime
from perdure.app import open_store
from perdure.engine.calendar import moment_of, us_of
from perdure.engine.kit import Kit
from perdure.models.registry import Models
from perdure.stores.system import RandomIds
from perdure.testing.clocks import FakeClock

SCRIPT = Path(__file__).parent / "scripts" / "nightly.toml"
reporter = Agent("reporter", model=f"scripted:{SCRIPT}", instructions="Two sentences at most.")


async def night(now: datetime) -> None:
    """One life of the process: it starts at `now`, fires what is due, and ends."""
    store, _ = await open_store("sqlite:///nightly.db")
    kit = Kit(store, FakeClock(us_of(now)), RandomIds(), Models({}))
    async with Runtime(kit=kit) as runtime:
        made = await runtime.schedule(
            "nightly",
            reporter,
            "What became of the orders?",
            cron="0 3 * * *",
            tz="Europe/Berlin",
            session="night-log",  # all nights in one session: the agent remembers the last one
            missed="last",  # of nights that were missed the newest, once
        )
        engine = await runtime.engine()
        await engine.schedules.tick()  # with Options(schedules=True) nobody has to say this
        print(f"{now:%a %d %H:%M} UTC")
        for past in (await runtime.schedule_runs(made.name))[:1]:
            session = await runtime.session(past.run.session)
            async for _ in session.watch():
                pass
            state = await session.state()
            fired = moment_of(past.run.at_us, made.tz)
            print(f"  the run of {fired:%a %d %H:%M} is {state.last_status}: {state.turns} so far")
        after = (await runtime.schedules())[0]
        if after.last_missed_us:
            print(f"  missed: {moment_of(after.last_missed_us, made.tz):%a %d %H:%M}")


async def main() -> None:
    await night(datetime(2026, 11, 20, 12, 0, tzinfo=UTC))  # the plan is made; nothing is due
    await night(datetime(2026, 11, 21, 2, 0, tzinfo=UTC))  # three o'clock in Berlin
    await night(datetime(2026, 11, 21, 2, 0, tzinfo=UTC))  # started again: nothing runs twice
    await night(datetime(2026, 11, 23, 9, 0, tzinfo=UTC))  # two nights later: one was missed


asyncio.run(main())
