"""Schedules as documents of the store, and the firing of what is due.

The order of writes is what keeps the promise. First the fire time goes into the document's `due`,
if nobody changed the document since it was read. Then the session is made, under a name that
follows from the fire time. Then the message is posted, under a key that follows from it, too.
Last the fire time leaves `due`. A process may die between any two, and two may do all of it at
once: the store knows name and key, so there is one run for one fire time.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, Protocol

import msgspec

from perdure.core import schedules as plan
from perdure.core.codec import Reader, encode
from perdure.core.errors import Conflict, InvalidRequest, NotFound, PerdureError, SessionBusy
from perdure.core.inbox import Say
from perdure.core.schedules import Fire, Run, Schedule
from perdure.engine.agent import Agent
from perdure.engine.calendar import following_of, stamp
from perdure.engine.hub import Hub
from perdure.engine.kit import Kit
from perdure.engine.session import Session
from perdure.ports.store import SessionRow

KIND: Final = "schedule"
_READER: Final = Reader[Schedule](Schedule)
Change = Callable[[Schedule], Schedule]
Prepare = Callable[[Schedule, Session], Awaitable[None]]


class Past(NamedTuple):
    """A run, and how its session stands now: None when there is none any more."""

    run: Run
    row: SessionRow | None


class Host(Protocol):
    """What schedules need of the engine they belong to."""

    @property
    def kit(self) -> Kit: ...

    @property
    def hub(self) -> Hub: ...

    def wake(self, session_id: str) -> None:
        """See to it that somebody works on the session."""
        ...

    def agent(self, name: str) -> Agent | None:
        """Return the agent of that name, if its code is loaded here."""
        ...

    async def session(
        self, session_id: str | None, agent: Agent | None, *, source: str = ""
    ) -> Session:
        """Return the session of that id, making it when there is none."""
        ...


class Schedules:
    """The schedules of one store, as one process sees them.

    `prepare`, where given, is called with a run's session before its message is posted; after a
    crash it is called again. `told` is called with the session of each run that has begun,
    `blamed` with the name of a schedule that cannot fire, and why.
    """

    def __init__(self, host: Host) -> None:
        self.prepare: Prepare | None = None
        self.told: Callable[[str], object] | None = None
        self.blamed: Callable[[str, PerdureError], object] | None = None
        self._host = host
        self._over: set[tuple[str, int]] = set()  # runs that need no looking after any more

    async def add(self, schedule: Schedule) -> Schedule:
        """Keep a schedule; one that says the same already is returned as it stands.

        Raises `InvalidRequest` for what is wrong with it, `Conflict` (E-SCHEDULE-EXISTS) when the
        name has another meaning already.
        """
        now_us = self._host.kit.clock.now_us()
        following = following_of(plan.checked(schedule))
        next_us = following(now_us) if schedule.cron else schedule.at_us
        if next_us is None:
            raise InvalidRequest(
                "E-SCHEDULE-WHEN",
                f"{schedule.name} would never fire: no fire time comes before its end.",
                "Look at the day and the month, or at `until`.",
            )
        fresh = msgspec.structs.replace(schedule, made_at_us=now_us, next_us=next_us)
        try:
            await self._host.kit.store.put_doc(KIND, fresh.name, encode(fresh), expect=0)
        except Conflict:
            there = await self.get(fresh.name)
            if plan.same_plan(there, fresh):
                return there
            raise Conflict(
                "E-SCHEDULE-EXISTS",
                f"There is a schedule {fresh.name} already, and it says something else. It was "
                "left as it is.",
                f"perdure schedule show {fresh.name}, then: perdure schedule rm {fresh.name}",
            ) from None
        return fresh

    async def all(self) -> list[Schedule]:
        """Return all schedules by name. Raises `Unavailable`."""
        return [_READER.read(doc.data) for doc in await self._host.kit.store.docs(KIND)]

    async def get(self, name: str) -> Schedule:
        """Return one schedule. Raises `NotFound` (E-SCHEDULE-UNKNOWN)."""
        return (await self._versioned(name))[0]

    async def history(self, name: str) -> list[Past]:
        """Return the last runs of a schedule, newest first. Raises `NotFound`."""
        runs = reversed((await self.get(name)).runs)
        return [Past(run, await self._host.kit.store.session(run.session)) for run in runs]

    async def pause(self, name: str) -> Schedule:
        """Let the schedule fire no more until it is resumed. Raises `NotFound`."""
        return await self._change(name, plan.paused)

    async def resume(self, name: str) -> Schedule:
        """Let the schedule go on with its next fire time after now. Raises `NotFound`."""
        now_us = self._host.kit.clock.now_us()
        return await self._change(name, lambda s: plan.resumed(s, now_us, following_of(s)))

    async def remove(self, name: str) -> None:
        """Forget the schedule; its sessions stay. Raises `NotFound`."""
        await self._versioned(name)
        await self._host.kit.store.delete_doc(KIND, name)

    async def run_now(self, name: str) -> str:
        """Ask for one run outside the plan; return the session that it goes into.

        It begins at once where the agent's code is loaded here, else in the next process that
        fires schedules and has it. Raises `NotFound`.
        """
        now_us = self._host.kit.clock.now_us()
        schedule = await self._change(name, lambda s: plan.asked(s, now_us))
        with contextlib.suppress(SessionBusy):  # another process is at it
            await self._fire_due(schedule)
        return session_of(schedule, Fire(now_us, by_hand=True))

    async def run(self) -> None:
        """Fire what is due for as long as it is let. Never raises what a store does."""
        task = asyncio.current_task()
        # A store that fails while we are being cancelled must not make us forget it.
        while task is None or not task.cancelling():
            wait_s = self._host.kit.bounds.poll_s
            with contextlib.suppress(PerdureError):
                next_us = await self.tick()
                if next_us is not None:
                    ahead_us = next_us - self._host.kit.clock.now_us()
                    wait_s = min(wait_s, max(0.0, ahead_us / 1_000_000))
            await asyncio.sleep(max(wait_s, 0.001))

    async def tick(self) -> int | None:
        """Fire what is due now of the agents whose code is loaded here; see to unfinished runs.

        Returns when the next fire time of these agents is, if there is one. What goes wrong with
        one schedule is written into it and leaves the others alone. Raises `Unavailable`.
        """
        ahead: list[int] = []
        for doc in await self._host.kit.store.docs(KIND):
            with contextlib.suppress(msgspec.MsgspecError):
                schedule = _READER.read(doc.data)
                if self._host.agent(schedule.agent) is None:
                    continue
                ahead += await self._tend(schedule, doc.version)
        return min(ahead, default=None)

    async def _tend(self, schedule: Schedule, version: int) -> list[int]:
        try:
            schedule = await self._decide(schedule, version)
            schedule = await self._fire_due(schedule)
            await self._look_after(schedule)
        except SessionBusy:
            pass  # another process is at it, here or there: it is done, or we look again
        except Conflict as error:
            if error.code != "E-DOC-CHANGED":
                await self._blame(schedule, error)
        except PerdureError as error:
            await self._blame(schedule, error)
        upcoming = schedule.next_us
        return [] if upcoming is None or schedule.paused else [upcoming]

    async def _decide(self, schedule: Schedule, version: int) -> Schedule:
        """Write down what is to be run. Raises `Conflict` when another process was first."""
        now_us = self._host.kit.clock.now_us()
        if schedule.paused or schedule.next_us is None or schedule.next_us > now_us:
            return schedule
        busy = await self._unfinished(schedule)
        later = plan.decided(schedule, now_us, following_of(schedule), busy=busy)
        if later != schedule:
            store = self._host.kit.store
            await store.put_doc(KIND, schedule.name, encode(later), expect=version)
        return later

    async def _fire_due(self, schedule: Schedule) -> Schedule:
        """Begin the runs that were decided on, as far as they may begin."""
        agent = self._host.agent(schedule.agent)
        for fire in schedule.due if agent is not None else ():
            if not await self._may_begin(schedule, fire):
                continue
            name = await self._begin(schedule, fire, agent)
            now_us = self._host.kit.clock.now_us()
            schedule = await self._change(schedule.name, _begun(fire, name, now_us))
            if self.told is not None:
                self.told(name)
            await self._check_open(schedule, name)
        return schedule

    async def _may_begin(self, schedule: Schedule, fire: Fire) -> bool:
        """Whether a run need not wait: a session that is shared has a queue of its own."""
        if fire.by_hand or schedule.session or schedule.overlap == "skip":
            return True
        return not await self._unfinished(schedule)

    async def _begin(self, schedule: Schedule, fire: Fire, agent: Agent | None) -> str:
        """Make the session if there is none, and post the message if it was not posted before."""
        name = session_of(schedule, fire)
        if await self._host.kit.store.session(name) is None:
            await self._host.session(name, agent, source=schedule.source)
        session = Session(self._host, name)
        if self.prepare is not None:
            await self.prepare(schedule, session)
        say = Say("message", schedule.prompt, by=f"schedule {schedule.name}")
        try:
            await session.post(say, key_of(schedule, fire))
        except Conflict as error:
            # The fire time ran when a schedule of this name said something else.
            if error.code != "E-KEY-REUSED":
                raise
        return name

    async def _check_open(self, schedule: Schedule, name: str) -> None:
        """Say so where nothing will come of a run: the message is a note in a closed journal."""
        row = await self._host.kit.store.session(name)
        if row is not None and row.status == "closed":
            message = f"{name} is closed, so nothing comes of the runs that go into it."
            hint = f"perdure schedule rm {schedule.name}"
            await self._blame(schedule, Conflict("E-SESSION-CLOSED", message, hint))

    async def _unfinished(self, schedule: Schedule) -> bool:
        """Whether the schedule's last run, or what its own session does, is not over."""
        name = schedule.session or (schedule.runs[-1].session if schedule.runs else "")
        return bool(name) and await self._working(name) != "over"

    async def _working(self, name: str) -> str:
        """Return over, waiting (for a person, a moment), or due: somebody should work on it."""
        store = self._host.kit.store
        letters = await store.inbox(name)  # first: what is taken from it meanwhile shows in the row
        row = await store.session(name)
        if row is None or row.status in ("paused", "parked", "closed"):
            return "over"
        if row.status in ("waiting", "sleeping"):
            return "waiting"
        return "due" if row.status == "running" or letters else "over"

    async def _look_after(self, schedule: Schedule) -> None:
        """Have unfinished runs worked on here, unless another process does: theirs may be gone."""
        for run in schedule.runs:
            if (run.session, run.at_us) in self._over:
                continue
            stands = await self._working(run.session)
            if stands == "due":
                self._host.wake(run.session)
            elif stands == "over":
                self._over.add((run.session, run.at_us))

    async def _blame(self, schedule: Schedule, error: PerdureError) -> None:
        """Write down, once, why a schedule cannot fire."""
        if self.blamed is not None:
            self.blamed(schedule.name, error)
        text = f"{error.code}  {error.message}"
        with contextlib.suppress(PerdureError):
            await self._change(
                schedule.name,
                lambda s: s if s.error == text else msgspec.structs.replace(s, error=text),
            )

    async def _versioned(self, name: str) -> tuple[Schedule, int]:
        for doc in await self._host.kit.store.docs(KIND):
            if doc.name == name:
                return _READER.read(doc.data), doc.version
        raise NotFound(
            "E-SCHEDULE-UNKNOWN", f"There is no schedule {name!r}.", "perdure schedule ls"
        )

    async def _change(self, name: str, change: Change) -> Schedule:
        """Apply a change to the schedule as it is now, whoever else is changing it."""
        while True:
            there, version = await self._versioned(name)
            later = change(there)
            if later == there:
                return there
            try:
                await self._host.kit.store.put_doc(KIND, name, encode(later), expect=version)
            except Conflict:
                continue
            return later


def session_of(schedule: Schedule, fire: Fire) -> str:
    """Return the session of a fire time: the schedule's own, or one named after the moment."""
    by_hand = "now-" if fire.by_hand else ""
    return schedule.session or f"{schedule.name}-{by_hand}{stamp(fire.at_us)}"


def key_of(schedule: Schedule, fire: Fire) -> str:
    """Return the key under which a fire time's message is posted: once, whoever posts it."""
    by_hand = "now:" if fire.by_hand else ""
    return f"schedule:{schedule.name}:{by_hand}{fire.at_us}"


def _begun(fire: Fire, session: str, now_us: int) -> Change:
    return lambda schedule: plan.begun(schedule, fire, session, now_us)
