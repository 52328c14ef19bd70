"""Engines on small scripts, with tools that fail as a test says."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from perdure.core.agent import EnvironmentSpec, Limits, RetryPolicy
from perdure.engine.agent import Agent
from perdure.engine.breaker import BreakerRules
from perdure.engine.journal import events_of
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model
from perdure.ports.sandbox import Environments
from perdure.ports.store import ErrorRow, Store
from perdure.ports.tool import OutcomeUnknown, Tool
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.index import rows_from_scratch
from perdure.tools.python import tool


class OneModel:
    """Finds the same model under every name."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get(self, name: str) -> tuple[Model, str]:
        return self._model, name


class World:
    """What the tools find outside: `broken` holds what does not work at the moment."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.paid: list[int] = []

    def tools(self) -> list[Tool]:
        @tool(effect="read")
        def look(thing: str) -> str:
            """Look at something."""
            if "look" in self.broken:
                raise LookupError(f"{thing} cannot be seen")
            return f"{thing} is there"

        @tool(effect="once")
        def pay(invoice: int) -> str:
            """Pay an invoice."""
            self.paid.append(invoice)
            if "pay" in self.broken:
                raise OutcomeUnknown("the bank does not answer")
            return f"paid {invoice}"

        @tool(effect="read", environment=True)
        def weigh(thing: str) -> str:
            """Weigh something that lies in the workspace."""
            return f"{thing} is heavy"

        return [look, pay, weigh]


@asynccontextmanager
async def running(
    store: Store,
    script: Script,
    world: World | None = None,
    environments: Mapping[str, Environments] | None = None,
) -> AsyncIterator[tuple[Engine, Agent]]:
    """Run an engine whose agent plays the script."""
    model = OneModel(Scripted(script))
    # Sessions that fail one after the other are what is looked at here: none of them is held up.
    bounds = Bounds(breaker=BreakerRules(failures=0))
    kit = Kit(store, SystemClock(), RandomIds(), model, environments or {}, bounds=bounds)
    tools: Sequence[Tool] = (world or World()).tools()
    limits = Limits(steps=6)
    retry = RetryPolicy(attempts=2, base_s=0.0)
    async with Engine(kit) as engine:
        yield (
            engine,
            Agent(
                "helper",
                "scripted:x",
                tools=tools,
                limits=limits,
                retry=retry,
                environment=EnvironmentSpec(kind="process"),
            ),
        )


async def scanned(store: Store) -> list[ErrorRow]:
    """Return the index of errors as the journals alone give it."""
    found: list[ErrorRow] = []
    for name in sorted(row.id for row in await store.sessions()):
        events = [event async for event, _ in events_of(store, name)]
        found += rows_from_scratch(name, events)
    return found
