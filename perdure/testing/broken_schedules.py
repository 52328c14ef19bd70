"""Wrong ways to fire schedules, which the tests of crashes must catch."""

import msgspec

from perdure.core.inbox import Say
from perdure.core.schedules import Fire, Schedule
from perdure.engine.agent import Agent
from perdure.engine.schedules import Schedules, key_of, session_of
from perdure.engine.session import Session


class MovesOnFirst(Schedules):
    """Takes the fire time out of the document before its run has begun: a crash loses it."""

    async def _fire_due(self, schedule: Schedule) -> Schedule:
        due = schedule.due
        if not due or self._host.agent(schedule.agent) is None:
            return schedule
        moved = await self._change(schedule.name, lambda s: msgspec.structs.replace(s, due=()))
        for fire in due:
            await self._begin(schedule, fire, self._host.agent(schedule.agent))
        return moved


class NamesAtRandom(Schedules):
    """Gives each attempt a session of its own: a crash runs it twice."""

    async def _begin(self, schedule: Schedule, fire: Fire, agent: Agent | None) -> str:
        session = await self._host.session(None, agent, source=schedule.source)
        await session.post(Say("message", schedule.prompt), key_of(schedule, fire))
        return session.id


class ForgetsTheKey(Schedules):
    """Posts under a fresh key each time: a crash says it twice."""

    async def _begin(self, schedule: Schedule, fire: Fire, agent: Agent | None) -> str:
        name = session_of(schedule, fire)
        if await self._host.kit.store.session(name) is None:
            await self._host.session(name, agent)
        await Session(self._host, name).post(Say("message", schedule.prompt))
        return name


class OneKeyForAll(Schedules):
    """Leaves the fire time out of the key: in a shared session only the first one runs."""

    async def _begin(self, schedule: Schedule, fire: Fire, agent: Agent | None) -> str:
        session = await self._host.session(schedule.session or None, agent)
        await session.post(Say("message", schedule.prompt), f"schedule:{schedule.name}")
        return session.id
