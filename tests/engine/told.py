"""Sessions that were really run, for the tests of what is done with them afterwards."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from perdure.core.agent import AgentSpec, Limits, Rule, Verdict
from perdure.core.budget import Price
from perdure.core.events import Event
from perdure.core.inbox import Decide
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model
from perdure.ports.store import Store
from perdure.ports.tool import Tool
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.testing.clocks import FakeClock, SeededIds
from perdure.tools.python import tool

PRICES = {"scripted:*": Price(1.0, 2.0)}


class Shop:
    """What the tools do, counted: nothing here may move while something is replayed."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def tools(self, *, limit: int = 100, forbid: str = "") -> list[Tool]:
        @tool(effect="read")
        def look(thing: str) -> str:
            """Look at something."""
            self.calls.append(f"look {thing}")
            return f"{thing} is there"

        @tool(ask=f"amount > {limit}", deny=forbid or False)
        def refund(order: str, amount: int) -> str:
            """Give money back."""
            self.calls.append(f"refund {order} {amount}")
            return f"{amount} for {order} given back"

        @tool(effect="read")
        def fail(thing: str) -> str:
            """Fail."""
            self.calls.append(f"fail {thing}")
            raise LookupError(f"no {thing}")

        return [look, refund, fail]


class Named:
    """Finds scripts by the name of a model; every other name is the first one."""

    def __init__(self, parts: Mapping[str, Model]) -> None:
        self._parts = parts

    def get(self, name: str) -> tuple[Model, str]:
        return self._parts.get(name.partition(":")[2]) or next(iter(self._parts.values())), name


def script(*replies: Mapping[str, Any]) -> Scripted:
    return Scripted(msgspec.convert({"reply": replies}, Script))


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool": name, "arguments": arguments}


def clerk(
    shop: Shop,
    *,
    limit: int = 100,
    forbid: str = "",
    rules: Sequence[Rule] = (),
    limits: Limits | None = None,
    instructions: str = "Be kind.",
) -> Agent:
    """An agent that gives refunds."""
    return Agent(
        "clerk",
        "scripted:clerk",
        instructions,
        tools=shop.tools(limit=limit, forbid=forbid),
        permissions=rules,
        limits=limits or Limits(),
    )


def spec_of(agent: Agent) -> AgentSpec:
    """The definition of an agent whose tools are all plain ones."""
    return agent.spec([each.spec for each in agent.tools if isinstance(each, Tool)])


NO_LOOKING = Rule("look", Verdict.DENY, reason="look away")


def engine_on(store: Store, parts: Mapping[str, Model], clock: FakeClock | None = None) -> Engine:
    kit = Kit(
        store,
        clock or FakeClock(),
        SeededIds(1),
        Named(parts),
        prices=PRICES,
        bounds=Bounds(idle_s=0.0, poll_s=0.01),
    )
    return Engine(kit)


def memory() -> MemoryStore:
    return MemoryStore(MemoryDisk())


async def journal(store: Store, session: str = "s") -> list[Event]:
    return [event async for event, _ in events_of(store, session)]


REFUND = script(
    {"text": "Let me see.", "call": [call("look", thing="order 7"), call("fail", thing="stock")]},
    {"call": [call("refund", order="7", amount=500)]},
    {"text": "Done: {{last_result}}."},
    {"call": [call("look", thing="order 8")]},
    {"text": "Bye: {{last_result}}."},
)


async def refunded(
    session: Session, *, amount: int | None = None, deny: str = "", say: str = "go"
) -> State:
    """Ask for a refund and decide on it."""
    state = await session.send(say)
    while state.actions:
        action = next(iter(state.actions.values()))
        if action.kind == "resolve":
            await session.decide(Decide(action.id, "failed", "anna", "it did not arrive"))
        elif deny:
            await session.deny(action.id, by="anna", reason=deny)
        else:
            edited = None if amount is None else f'{{"order": "7", "amount": {amount}}}'
            await session.allow(action.id, by="anna", arguments=edited)
        async for _ in session.watch():
            pass
        state = await session.state()
    return state
