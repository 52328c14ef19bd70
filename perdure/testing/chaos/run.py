"""A run of chaos: nodes that are struck while users talk to their sessions, then the reckoning."""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from perdure.app import open_store
from perdure.core.errors import PerdureError
from perdure.core.journal import Record
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.ports.store import Store
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.chaos import history as h
from perdure.testing.chaos.agents import OneModel, agent
from perdure.testing.chaos.checker import Anomaly, History, Kind, check
from perdure.testing.chaos.ground import CLIENT, Ground
from perdure.testing.chaos.node import Plan
from perdure.testing.chaos.processes import NodeProcess
from perdure.testing.chaos.strikes import Field, Strike, fail_over, skew_of, strikes_on
from perdure.testing.chaos.users import Users
from perdure.testing.chaos.witness import watched

_SCRIPTS: Final = (
    "look 0.1; look 0.2\npay 0.1",
    "book 0.3\npay 0.05; look 0.1",
    "pay 0.4",
    "grind 0.2; book 0.1\nlook 0.05\npay 0.1",
    "look 0.01\nlook 0.01\nbook 0.02\npay 0.02",
)
_REST_S: Final = 120.0
_PAGE: Final = 1000


@dataclass(frozen=True)
class Options:
    """How long and how hard. It strikes until there were `takeovers`, or for `seconds`.

    `calm_leases`: how many leases the tools of the first turns take, before anything is struck.
    `failovers`: after that many strikes each, the primary is replaced by its standby (0: never).
    `library`: libfaketime, where it is found. `variant`: a store that is wrong on purpose.
    """

    nodes: int = 3
    sessions: int = 24
    takeovers: int = 1000
    seconds: float = 1500.0
    lease_s: float = 2.0
    seed: int = 1
    calm_leases: float = 10.0
    failovers: int = 0
    library: str = ""
    variant: str = ""


@dataclass
class Report:
    """What came of it."""

    takeovers: int = 0
    turns: int = 0
    events: int = 0
    tools: int = 0
    seen: int = 0
    seconds: float = 0.0
    strikes: Mapping[str, int] = field(default_factory=dict)
    anomalies: Sequence[Anomaly] = ()
    stuck: Sequence[str] = ()
    failed: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Whether every promise was kept and every session came to rest."""
        return not (self.anomalies or self.stuck or self.failed)

    def count(self, *kinds: Kind) -> int:
        """How many anomalies of these kinds there are."""
        return sum(anomaly.kind in kinds for anomaly in self.anomalies)


class Run:
    """One run, in a directory of its own."""

    def __init__(
        self, ground: Ground, home: Path, options: Options, say: Callable[[str], object]
    ) -> None:
        self._ground = ground
        self._home = home
        self._options = options
        self._say = say
        self._chance = random.Random(options.seed)
        self._numbers: Counter[str] = Counter()
        self._tail = h.Tail(home)
        self._began = time.monotonic()
        self._failed: list[str] = []

    async def play(self) -> Report:
        """Play it through. Raises `RuntimeError` when a node does not start or does not end."""
        options = self._options
        places = [f"n{number}" for number in range(1, options.nodes + 1)]
        await self._ground.open(places)
        notes = h.Notes(self._home / "runner.jsonl")
        field_ = Field(self._ground, self._start, notes, options.lease_s, self._chance)
        store, _ = await open_store(self._ground.url(CLIENT))
        kit = Kit(
            watched(store, notes, CLIENT), SystemClock(), RandomIds(), OneModel(),
            bounds=Bounds(poll_s=0.1), clerk=True,
        )  # fmt: skip
        try:
            async with Engine(kit) as engine:
                users = Users(engine, notes, self._tail, options.seed)
                await engine.register(agent(CLIENT, h.Notes(self._home / "world.jsonl")))
                for place in places:
                    field_.nodes[place] = await self._start(place)
                report = await self._played(engine, users, field_)
                await users.close()
        finally:
            for node in field_.nodes.values():
                if node.alive:
                    node.resume()
                    await node.kill()
            await self._ground.close()
        return report

    async def _start(self, place: str) -> NodeProcess:
        self._numbers[place] += 1
        options, number = self._options, self._numbers[place]
        return await NodeProcess.start(
            Plan(
                f"{place}.{number}",
                self._ground.url(place),
                str(self._home),
                skew_s=skew_of(place, number),
                poll_s=min(0.2, options.lease_s / 5),
                variant=options.variant,
            ),
            options.library,
        )

    async def _played(self, engine: Engine, users: Users, field_: Field) -> Report:
        options = self._options
        tasks = await self._calm(engine, users)
        names = [f"s{number}" for number in range(1, options.sessions + 1)]
        for name in names:
            await engine.session(name, "chaos")
            tasks.append(asyncio.create_task(users.converse(name, _SCRIPTS)))
        await self._strike(field_, users)
        users.stop()
        stuck = await self._come_to_rest(tasks, engine.kit.store)
        await self._finish(field_, users)
        return await self._reckon(users, field_, stuck)

    async def _calm(self, engine: Engine, users: Users) -> list[asyncio.Task[None]]:
        """Let tools run much longer than the lease before anything is struck."""
        long_s = self._options.calm_leases * self._options.lease_s
        if not long_s:
            return []
        scripts = [f"look {long_s}; grind {long_s}; pay {long_s}", f"hog {long_s / 3}\nhog 0.1"]
        calm = []
        for number, script in enumerate(scripts, 1):
            await engine.session(f"calm{number}", "chaos")
            calm.append(asyncio.create_task(users.converse(f"calm{number}", [script])))
        await asyncio.wait(calm, timeout=4 * long_s + 30.0)
        if any(not task.done() for task in calm):
            self._failed.append(f"a turn of {long_s:g} s did not end, undisturbed")
        self._say(f"calm: tools of {long_s:g} s with a lease of {self._options.lease_s:g} s")
        return calm

    async def _strike(self, field_: Field, users: Users) -> None:
        options = self._options
        chosen = strikes_on(self._ground)
        began, told = time.monotonic(), time.monotonic()
        strikes = 0
        while time.monotonic() - began < options.seconds:
            strikes += 1
            await self._one(field_, self._next(strikes, chosen))
            await asyncio.sleep(options.lease_s * self._chance.uniform(0.3, 1.2))
            users.look()
            taken = self._takeovers()
            if time.monotonic() - told > 10.0:
                told = time.monotonic()
                self._say(f"{told - began:4.0f} s  {strikes} strikes, {taken} takeovers, "
                          f"{users.turns} turns")  # fmt: skip
            if taken >= options.takeovers:
                return

    def _next(self, number: int, chosen: Mapping[Strike, int]) -> Strike:
        every = self._options.failovers
        if every and number % every == 0:
            return fail_over
        return self._chance.choices(list(chosen), list(chosen.values()))[0]

    async def _one(self, field_: Field, strike: Strike) -> None:
        """Strike, and see to it that every place has a node that lives."""
        await strike(field_)
        for place, node in field_.nodes.items():
            if not node.alive:
                self._failed.append(f"{node.name} ended by itself: {node.said[-2000:]}")
                field_.struck(node.name, "its own end", None)
                field_.nodes[place] = await self._start(place)

    def _takeovers(self) -> int:
        claims: dict[str, list[h.Claimed]] = defaultdict(list)
        for each in self._tail.observations:
            if isinstance(each, h.Claimed):
                claims[each.session].append(each)
        return sum(
            not after.clean and after.node != before.node
            for each in claims.values()
            for before, after in pairwise(sorted(each, key=lambda claim: claim.epoch))
        )

    async def _come_to_rest(self, tasks: list[asyncio.Task[None]], store: Store) -> list[str]:
        """Wait until every turn is over; return the sessions of those that are not."""
        await asyncio.wait(tasks, timeout=_REST_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stuck: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REST_S / 4):
                while stuck := await _restless(store):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        return stuck

    async def _finish(self, field_: Field, users: Users) -> None:
        try:
            await users.readers.finish()
            await asyncio.gather(*(node.finish() for node in field_.nodes.values()))
        except (RuntimeError, PerdureError) as error:
            self._failed.append(str(error))

    async def _reckon(self, users: Users, field_: Field, stuck: Sequence[str]) -> Report:
        self._tail.poll()
        store, _ = await open_store(self._ground.straight())
        try:
            journals = {row.id: await _journal(store, row.id) for row in await store.sessions()}
        finally:
            await store.close()
        history = History(self._tail.observations, journals)
        return Report(
            takeovers=history.takeovers,
            turns=users.turns,
            events=sum(map(len, journals.values())),
            tools=len(history.of(h.Began)),
            seen=len(history.of(h.Saw)),
            seconds=time.monotonic() - self._began,
            strikes=dict(field_.counts),
            anomalies=check(history),
            stuck=stuck,
            failed=self._failed,
        )


async def _restless(store: Store) -> list[str]:
    try:
        busy = {row.id for row in await store.sessions() if row.status in {"running", "waiting"}}
        return sorted(busy | set(await store.mailboxes()))
    except PerdureError as error:
        return [error.code]


async def _journal(store: Store, session: str) -> list[Record]:
    records: list[Record] = []
    while page := await store.read(session, records[-1].seq if records else 0, _PAGE):
        records += page
    return records
