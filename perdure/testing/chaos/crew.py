"""Nodes on a ground, users that talk to them, and the reckoning of what came of it."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

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
from perdure.testing.chaos.lateness import watch
from perdure.testing.chaos.node import Plan
from perdure.testing.chaos.processes import NodeProcess
from perdure.testing.chaos.strikes import Field, skew_of
from perdure.testing.chaos.users import Users
from perdure.testing.chaos.witness import watched

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

    history: History = field(repr=False)
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


class Crew:
    """Nodes at work in a directory of their own. Use it as an async context manager.

    `plan` is what all nodes are told beside their name and place: fields of `Plan`.
    """

    def __init__(self, ground: Ground, home: Path, options: Options, **plan: Any) -> None:
        self.ground = ground
        self.options = options
        self.chance = random.Random(options.seed)
        self.failed: list[str] = []
        self._home = home
        self._plan = plan
        self._numbers: Counter[str] = Counter()
        self._tail = h.Tail(home)
        self._began = time.monotonic()
        self._ends = contextlib.AsyncExitStack()
        self._talks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Open the ground and start the nodes. Raises `RuntimeError` when one does not start."""
        options = self.options
        places = [f"n{number}" for number in range(1, options.nodes + 1)]
        self._ends.push_async_callback(self.ground.close)
        try:
            await self.ground.open(places)
            self.notes = h.Notes(self._home / "runner.jsonl")
            self._ends.callback(self.notes.close)
            self.field = Field(self.ground, self.start, self.notes, options.lease_s, self.chance)
            self._ends.push_async_callback(self._kill_all)
            store, _ = await open_store(self.ground.url(CLIENT))
            kit = Kit(
                watched(store, self.notes, CLIENT), SystemClock(), RandomIds(), OneModel(),
                bounds=Bounds(poll_s=0.1), clerk=True,
            )  # fmt: skip
            self.engine = await self._ends.enter_async_context(Engine(kit))
            self.users = Users(self.engine, self.notes, self._tail, options.seed)
            self._ends.push_async_callback(self.users.close)
            world = h.Notes(self._home / "world.jsonl")
            self._ends.callback(world.close)
            await self.engine.register(agent(CLIENT, world))
            late = asyncio.create_task(watch(self.field))
            self._ends.callback(late.cancel)
            for place in places:
                self.field.nodes[place] = await self.start(place)
        except BaseException:
            await self._ends.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._ends.aclose()

    async def _kill_all(self) -> None:
        for node in self.field.nodes.values():
            if node.alive:
                node.resume()
                await node.kill()

    async def start(self, place: str) -> NodeProcess:
        """Start another node at a place, under a new name."""
        self._numbers[place] += 1
        number = self._numbers[place]
        plan = Plan(
            f"{place}.{number}",
            self.ground.url(place),
            str(self._home),
            skew_s=skew_of(place, number),
            poll_s=min(0.2, self.options.lease_s / 5),
            variant=self.options.variant,
        )
        plan = msgspec.structs.replace(plan, **self._plan)
        return await NodeProcess.start(plan, self.options.library)

    async def talk(self, session: str, *scripts: str) -> asyncio.Task[None]:
        """Make a session and begin to talk to it: once with one script, else until `rest`."""
        await self.engine.session(session, "chaos")
        task = asyncio.create_task(self.users.converse(session, scripts))
        self._talks.append(task)
        return task

    @property
    def takeovers(self) -> int:
        """How many there were so far."""
        self.users.look()
        return sum(
            not after.clean and after.node != before.node
            for each in self.users.claims.values()
            for before, after in pairwise(sorted(each, key=lambda claim: claim.epoch))
        )

    async def rest(self) -> Report:
        """Let every turn come to its end, every follower read to its end; then reckon."""
        self.users.stop()
        stuck = await self._come_to_rest()
        try:
            await self.users.readers.finish()
            await asyncio.gather(*(node.finish() for node in self.field.nodes.values()))
        except (RuntimeError, PerdureError) as error:
            self.failed.append(str(error))
        self.users.look()
        return await self._reckon(stuck)

    async def _come_to_rest(self) -> list[str]:
        """Wait until every turn is over; return the sessions of those that are not."""
        if self._talks:
            await asyncio.wait(self._talks, timeout=_REST_S)
        stuck: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REST_S / 4):
                while stuck := await _restless(self.engine.kit.store):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        return stuck

    async def _reckon(self, stuck: Sequence[str]) -> Report:
        store, _ = await open_store(self.ground.straight())
        try:
            journals = {row.id: await _journal(store, row.id) for row in await store.sessions()}
        finally:
            await store.close()
        history = History(self._tail.observations, journals)
        return Report(
            history=history,
            takeovers=history.takeovers,
            turns=self.users.turns,
            events=sum(map(len, journals.values())),
            tools=len(history.of(h.Began)),
            seen=len(history.of(h.Saw)),
            seconds=time.monotonic() - self._began,
            strikes=dict(self.field.counts),
            anomalies=check(history),
            stuck=stuck,
            failed=self.failed,
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
