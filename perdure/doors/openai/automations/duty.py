"""Firing automations: in the order of writes that keeps one delivery to one fire time.

First the fire time goes into the automation's document, if nobody changed that since it was read.
Then its invocation is written, under a name that follows from the fire time. Then the session is
made, or the message posted, under names that follow from it, too. Last the fire time leaves the
document. A process may die between any two, and two may do all of it at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e, schedules as plan
from perdure.core.content import as_content
from perdure.core.errors import Conflict, NotFound, PerdureError, SessionBusy, Unavailable
from perdure.core.inbox import Say
from perdure.core.schedules import Fire
from perdure.doors.openai.agents.making import Sessions
from perdure.doors.openai.automations.records import (
    AutomationRecord,
    InvocationRecord,
    automation_json,
    automations,
    invocation_id,
    invocations,
)
from perdure.doors.services import Services
from perdure.engine.calendar import following_of
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.store import Letter

_LOG: Final = logging.getLogger("perdure.server")
_US: Final = 1_000_000
_BY: Final = "automation"

Change = Callable[[AutomationRecord], AutomationRecord]
Open = Callable[[], Awaitable[dict[str, Engine]]]


class Deliveries:
    """The automations of one project, as one process sees to them."""

    def __init__(self, engine: Engine, services: Services, project: str) -> None:
        self._engine = engine
        self._services = services
        self._project = project
        self._all = automations(engine.kit.store)
        self._invocations = invocations(engine.kit.store)

    async def tick(self) -> int | None:
        """Fire what is due now; return the next fire time (microseconds), if there is one.

        What goes wrong with one automation leaves the others alone. Raises what the store raises.
        """
        ahead: list[int] = []
        async for name, _ in self._all.each():
            try:
                next_us = await self._tend(name)
            except (SessionBusy, NotFound):
                continue  # another process is at it, or it was deleted just now
            except PerdureError as error:
                if error.code != "E-DOC-CHANGED":
                    _LOG.warning("automation.failed id=%s code=%s", name, error.code)
                continue
            except Exception:  # noqa: BLE001  # the log has it; the others go on
                _LOG.exception("automation.failed id=%s", name)
                continue
            if next_us is not None:
                ahead.append(next_us)
        return min(ahead, default=None)

    async def invoke(self, name: str) -> InvocationRecord:
        """Deliver once outside the plan; return the invocation. Raises `NotFound`."""
        now_us = self._services.clock.now_us()
        fire = Fire(now_us, by_hand=True)
        made = InvocationRecord(invocation_id(name, fire), name, now_us // _US)
        await self._invocations.add(made.key, made)
        await self.change(name, lambda r: replace(r, schedule=plan.asked(r.schedule, now_us)))
        await self._fire_due(name)
        return await self._invocations.get(made.key)

    async def change(self, name: str, change: Change) -> AutomationRecord:
        """Change an automation as it is now, whoever else is changing it. Raises `NotFound`."""
        while True:
            record, version = await self._all.versioned(name)
            later = change(record)
            if later == record:
                return record
            try:
                await self._all.put(name, later, expect=version)
            except Conflict:
                continue
            return later

    async def _tend(self, name: str) -> int | None:
        record, version = await self._all.versioned(name)
        now_us = self._services.clock.now_us()
        schedule = record.schedule
        if not schedule.paused and schedule.next_us is not None and schedule.next_us <= now_us:
            decided = plan.decided(schedule, now_us, following_of(schedule), busy=False)
            await self._all.put(name, replace(record, schedule=decided), expect=version)
            schedule = decided
        if schedule.due:
            await self._fire_due(name)
        return None if schedule.paused else schedule.next_us

    async def _fire_due(self, name: str) -> None:
        record = await self._all.get(name)
        for fire in record.schedule.due:
            await self._fire(record, fire)
            now_us = self._services.clock.now_us()
            record = await self.change(name, _begun(fire, now_us))

    async def _fire(self, record: AutomationRecord, fire: Fire) -> None:
        made = InvocationRecord(
            id=invocation_id(record.id, fire),
            automation_id=record.id,
            created_at=self._services.seconds(),
            scheduled_at=None if fire.by_hand else fire.at_us // _US,
            automation=None if fire.by_hand else automation_json(record),
        )
        await self._invocations.add(made.key, made)
        made = await self._invocations.get(made.key)
        if made.status != "queued":
            return  # it was delivered, and only the note of it was missing
        try:
            made = await self._deliver(record, made)
        except (SessionBusy, Unavailable):
            raise  # it passes: the fire time stays due
        except PerdureError as error:
            said = {"code": error.code, "message": error.message}
            made = replace(made, status="failed", error=said)
        await self._invocations.put(made.key, made)

    async def _deliver(self, record: AutomationRecord, made: InvocationRecord) -> InvocationRecord:
        """Deliver once, however often it is tried."""
        target = record.target
        if target["type"] == "new_session":
            name = f"sess_{made.id.removeprefix('autoinv_')}"
            sessions = Sessions(self._engine, self._services, self._project, _BY)
            session = await sessions.make(target["request"], name)
            state = await Session(self._engine, session.id).state()
            if state.turn is None and state.parked is not None:  # its environment could not be made
                said = {"code": state.parked.code, "message": state.parked.message}
                return replace(made, status="failed", session_id=session.id, error=said)
            return replace(made, status="completed", session_id=session.id)
        return await self._write_to(record, made, str(target["session_id"]))

    async def _write_to(
        self, record: AutomationRecord, made: InvocationRecord, name: str
    ) -> InvocationRecord:
        made = replace(made, session_id=name)
        store = self._engine.kit.store
        key = f"{_BY}:{record.id}:{made.id}"
        letters = await store.inbox(name)  # first: what is taken from it meanwhile shows in the row
        row = await store.session(name)
        if row is None or row.status in ("parked", "closed"):
            await self.change(record.id, _given_up)
            said = {"code": "target_session_failed", "message": f"Session {name} takes nothing."}
            return replace(made, status="failed", error=said)
        if await self._waits(name, f"{_BY}:{record.id}:", letters, key):
            return replace(made, status="skipped")  # what was said before was not even read
        words = as_content(str(record.target["instructions"]))
        await Session(self._engine, name).post(Say("message", words, f"{_BY} {record.id}"), key)
        return replace(made, status="completed")

    async def _waits(self, name: str, start: str, letters: list[Letter], key: str) -> bool:
        """Whether words of the same automation, other than these, wait for the session."""
        session = Session(self._engine, name)
        keys = [letter.key for letter in letters]
        for queued in (await session.state()).queue:
            there = [event.payload async for event in session.events(queued.seq - 1, queued.seq)]
            keys += [said.key for said in there if isinstance(said, e.InputAccepted)]
        return any(each.startswith(start) and each != key for each in keys)


class Duty:
    """Fires the automations of all projects for as long as it runs, each project's beside the
    others': one that waits for a slow server keeps nobody else waiting. `engines` opens those that
    have any.
    """

    def __init__(self, services: Services, engines: Open, poll_s: float) -> None:
        self._services = services
        self._engines = engines
        self._poll_s = poll_s
        self._minding: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Fire what is due until cancelled. Never raises what a store does."""
        try:
            while True:
                try:
                    engines = await self._engines()
                except PerdureError as error:
                    _LOG.warning("automations.delayed code=%s", error.code)
                    engines = {}
                for project, engine in engines.items():
                    if project not in self._minding:
                        minding = asyncio.create_task(self._mind(project, engine))
                        self._minding[project] = minding
                await asyncio.sleep(max(self._poll_s, 0.001))
        finally:
            tasks = set(self._minding.values())
            self._minding.clear()
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _mind(self, project: str, engine: Engine) -> None:
        """Fire what is due in one project until cancelled."""
        deliveries = Deliveries(engine, self._services, project)
        while True:
            wait_s = self._poll_s
            try:
                next_us = await deliveries.tick()
            except PerdureError as error:
                _LOG.warning("automations.delayed project=%s code=%s", project, error.code)
                next_us = None
            except Exception:  # noqa: BLE001  # the log has it; the others go on
                _LOG.exception("automations.delayed project=%s", project)
                next_us = None
            if next_us is not None:
                ahead_s = (next_us - self._services.clock.now_us()) / _US
                wait_s = min(wait_s, max(0.0, ahead_s))
            await asyncio.sleep(max(wait_s, 0.001))


def _begun(fire: Fire, now_us: int) -> Change:
    return lambda record: replace(record, schedule=plan.begun(record.schedule, fire, "", now_us))


def _given_up(record: AutomationRecord) -> AutomationRecord:
    paused = plan.paused(record.schedule)
    return replace(record, schedule=paused, pause_reason="target_session_failed")
