"""A desk where refunds are asked for, and everything that is needed around it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from perdure.core import events as e
from perdure.core.agent import Rule
from perdure.core.grants import Grant
from perdure.core.state import State
from perdure.engine import grants
from perdure.engine.agent import Agent
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.tool import Tool
from perdure.stores.memory import MemoryDisk
from perdure.testing.clocks import FakeClock
from perdure.testing.grant_checks import check_store
from perdure.tools.python import tool
from tests.engine.told import journal
from tests.trees.family import house, part, says, uses

DAY_US = 24 * 3600 * 1_000_000
PEOPLE = ("anna", "bert")


def till(done: list[float], words: str = "Give money back.", deny: str = "eur > 500") -> Tool:
    @tool(ask="eur > 20", deny=deny, description=words)
    async def refund(eur: float) -> str:
        done.append(eur)
        return f"refunded {eur}"

    return refund


class Desk:
    """A clerk that refunds what it is told, with everything that is needed around it."""

    def __init__(self, *refunds: float, engine: type[Engine] = Engine) -> None:
        self.done: list[float] = []
        self.disk = MemoryDisk()
        self.clock = FakeClock()
        self.engine = engine
        self._seeds = count()
        replies = [uses("refund", eur=each) | {"text": f"Order {each} broke."} for each in refunds]
        self.parts = {"clerk": part(*replies, says("done"))}

    def agent(self, name: str = "clerk", **rest: Any) -> Agent:
        rules: Sequence[Rule] = rest.pop("rules", ())
        return Agent(name, "scripted:clerk", tools=[till(self.done, **rest)], permissions=rules)

    @asynccontextmanager
    async def open(self, node: str = "n1") -> AsyncIterator[Engine]:
        async with house(
            self.parts,
            self.disk,
            node=node,
            seed=next(self._seeds),
            clock=self.clock,
            engine_type=self.engine,
        ) as engine:
            yield engine

    async def checked(self, engine: Engine) -> None:
        """Nothing ran that nobody had allowed, and every journal replays exactly."""
        assert await check_store(engine.kit.store, PEOPLE) == []
        for row in await engine.sessions():
            report = await replay(await journal(engine.kit.store, row.id))
            assert report.identical, report


async def asked(session: Session, text: str = "go") -> State:
    """Send, and return the state in which the session asks or rests."""
    return await session.send(text)


async def go_on(session: Session) -> State:
    async for _ in session.watch():
        pass
    return await session.state()


async def requested(session: Session) -> list[e.ToolRequested]:
    return [x.payload async for x in session.events() if isinstance(x.payload, e.ToolRequested)]


def rule_for(state: State, action: str, *, by: str = "anna", when: str = "") -> Grant:
    grant = grants.made(
        state, action, scope="rule", by=by, when=when, until_us=None, now_us=state.updated_at_us
    )
    assert grant is not None
    return grant
