"""Simulated runs in which people fork sessions and take them back, whoever dies meanwhile.

A fork is a session like any other from then on: it has a person, a follower, and a name of its
own for the model, so that what it read and what it was billed can be told from its origin's.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.content import ContextItem, ResultItem, UserItem, text_of
from perdure.core.errors import Conflict, InvalidRequest, PerdureError
from perdure.core.events import Event
from perdure.core.journal import Record
from perdure.core.state import State
from perdure.engine.session import Session
from perdure.testing.branch_checks import Lines, check_branches
from perdure.testing.faults import FaultPlan, Process
from perdure.testing.sim_disks import Disk
from perdure.testing.sim_user import User
from perdure.testing.simloop import SimLoop
from perdure.testing.simulation import Build, Simulation

SESSIONS_MAX: Final = 6
REWIND_S: Final = 900.0


@dataclass(frozen=True)
class Cut:
    """A fork that was acknowledged: of what, where, and what its origin held then."""

    origin: str
    asked: int
    records: Sequence[Record] = field(repr=False)


class BranchUser(User):
    """Somebody who now and then wants to have it differently."""

    def __init__(self, stage: "Branching", session: str, dice: Random, count: int) -> None:
        super().__init__(stage, session, dice)
        self._branching = stage
        self._count = count

    async def _act(self) -> None:
        match self._dice.randrange(5):
            case 0:
                await self._rewind()
            case 1 if len(self._branching.sessions) < SESSIONS_MAX:
                await self._fork()
            case _:
                await super()._act()

    def _moment(self) -> int:
        """Return an event, mostly one at which going on is awkward."""
        events = self._world.events(self.session)
        after = (e.ToolStarted, e.ToolFinished, e.ActionResolved, e.ModelResponded)
        awkward = [event.seq - 1 for event in events if isinstance(event.payload, after)]
        if awkward and self._dice.random() < 0.7:
            return self._dice.choice(awkward[-8:])
        return self._dice.randrange(1, len(events) + 1)

    async def _rewind(self) -> None:
        to = self._moment()
        self._world.note(f"user: rewind {self.session} to {to}")

        async def send(process: Process) -> Event:
            return await Session(process.running, self.session).rewind(to, by="user")

        try:
            async with asyncio.timeout(REWIND_S):
                answer = await self.request(send)
        except (InvalidRequest, TimeoutError):
            return
        known = self._world.events(self.session)
        if len(known) < answer.seq or known[answer.seq - 1] != answer:
            self._world.violated("acknowledged before durable", f"{self.session}: a rewind")

    async def _fork(self) -> None:
        stage, origin = self._branching, self.session
        name, at = stage.fresh(), self._moment()
        spec = stage.states(origin)[at].spec
        self._world.note(f"user: fork {origin} at {at} as {name}")
        cut = stage.cut(origin, at)

        async def send(process: Process) -> None:
            agent = replace(spec, model=f"sim:{name}")
            try:
                await Session(process.running, origin).fork(at, name=name, agent=agent, by="user")
            except Conflict as error:
                if error.code != "E-SESSION-EXISTS":
                    raise  # else it was made, and its maker died before saying so

        await self.request(send)
        await stage.adopt(name, cut)


class Branching(Simulation):
    """A run with forks and rewinds."""

    def __init__(
        self, seed: int, loop: SimLoop, disk: Disk, build: Build, faults: FaultPlan | None
    ) -> None:
        super().__init__(seed, loop, disk, build, faults)
        self.cuts: dict[str, Cut] = {}
        self._lines: dict[str, Lines] = {}
        self._forks = 0
        self._guests: list[asyncio.Task[None]] = []
        self.world.reading = self._reading

    def fresh(self) -> str:
        """Return a name for a fork."""
        self._forks += 1
        return f"f{self._forks}"

    def user(self, session: str) -> BranchUser:
        """Return the person at a session; no two of them ever say the same."""
        number = 1000 * (int(session[1:]) + (3 if session in self.cuts else 0))
        return BranchUser(self, session, Random(f"{self.seed}{session}"), number)

    def cut(self, origin: str, at: int) -> Cut:
        """Return what a fork of `origin` that is asked for now is made of."""
        assert self.world.disk is not None
        return Cut(origin, at, self.world.disk.records(origin, 0))

    async def adopt(self, name: str, cut: Cut) -> None:
        """Let a fork be part of the run: with somebody who goes on with it at once."""
        self.cuts[name] = cut
        self.sessions.append(name)
        self.read(name)
        user = self.user(name)
        self.users.append(user)
        self._guests.append(self.world.loop.create_task(user.live(self._dice.randrange(4))))

    async def live(self) -> None:
        """Let everybody do what they came for, and those who came later, too."""
        await super().live()
        while self._guests:
            await self._guests.pop()

    async def _catch_up(self) -> None:
        await super()._catch_up()
        for name in self.sessions:
            await self._compare(name)

    async def _compare(self, name: str) -> None:
        """What a process reads, caches and all, is what the journal folds to."""

        async def ask(process: Process) -> State:
            return await Session(process.running, name).state()

        user = next(u for u in self.users if u.session == name)
        try:
            known = await user.request(ask)
        except PerdureError as error:
            self.world.violated("journal", f"{name}: {error}")
            return
        if known != self.states(name)[known.seq]:
            self.world.violated("cache", f"{name}: what is cached is not what was written")

    def lines(self, session: str) -> Lines:
        """Return what of a session's past counts, at each event of it."""
        return self._lines.setdefault(session, Lines()).read(self.world.events(session))

    def _reading(self, session: str, items: Sequence[ContextItem]) -> list[str]:
        """Say what a model is shown that was taken back, or that was never said here."""
        lines = self.lines(session)
        shown = {text_of(item.content) for item in items if isinstance(item, UserItem)}
        called = {item.call_id for item in items if isinstance(item, ResultItem)}
        strange = sorted(shown - lines.texts.keys())
        wrong = [f"{x!r} was said elsewhere" for x in strange if self._said_elsewhere(x)]
        if self.world.fencing:
            return wrong  # whoever does not know that he owns it no more may show what was
        wrong += [f"{x!r} was read and is not shown" for x in sorted(lines.read_texts() - shown)]
        wrong += [f"{x!r} was taken back" for x in sorted(lines.undone_texts() & shown)]
        wrong += [f"{x} was taken back" for x in sorted(lines.undone_calls() & called)]
        return wrong

    def _said_elsewhere(self, text: str) -> bool:
        return any(text in self.lines(name).texts for name in self.sessions)

    def check(self) -> None:
        """Look for what must not be."""
        check_branches(self)
