"""Trees and ledgers that are wrong on purpose, each in one way. None of them is for use."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from contextlib import contextmanager
from typing import Any, Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.budget import Room
from perdure.core.content import as_content
from perdure.core.errors import ErrorInfo
from perdure.core.events import Payload
from perdure.core.inbox import Post, Say
from perdure.core.state import CallState, State
from perdure.engine.agent import Agent
from perdure.engine.driver import Driver
from perdure.engine.kit import Kit
from perdure.engine.ledger import Ledger
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.subagents import Subagent
from perdure.engine.trees import Trees
from perdure.engine.work import CallContext, Work
from perdure.ports.tool import Tool, ToolContext, ToolOutput
from perdure.testing.broken import SEEDS_MAX, Variant
from perdure.testing.broken_engines import LostCallsAreFree, Rewrites, with_driver, with_journal
from perdure.testing.sim_budgets import Budgets
from perdure.testing.sim_trees import Trees as TreeRun
from perdure.testing.simulation import Build, Report, Simulation, simulate


class SpawnsAgain(Subagent):
    """Gives each attempt of a call a child of its own."""

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Call the attempt by another name."""
        assert isinstance(context, CallContext)
        if context.attempt > 1:
            other = f"{context.call_id}a{context.attempt}"
            context = dataclasses.replace(context, call_id=other)
        return await super().call(arguments, context)


class LosesTrack(Subagent):
    """Does not look for the child that a dead process left behind."""

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Say something when it is not the first attempt."""
        if context.attempt > 1:
            return ToolOutput("it will have done it")
        return await super().call(arguments, context)


class DoesNotWait(Subagent):
    """Answers as soon as the child has its task."""

    async def _errand(self, trees: Trees, name: str, task: str, context: CallContext) -> ToolOutput:
        child = Session(trees.owner, name)
        await child.post(Say("message", as_content(task), f"session {context.session_id}"))
        return ToolOutput("it is at work")


class MayAll(Subagent):
    """Lets a child do what its own definition says, whatever its parent may."""

    def _created(self, work: Work, name: str, call_id: str) -> e.SessionCreated:
        assert self.pinned is not None
        return replace(super()._created(work, name, call_id), agent=self.pinned)


class LeavesChildren(Trees):
    """Lets the children of an interrupted session work on."""

    async def stop(self, child: str, by: str) -> bool:
        """Tell nobody."""
        return True


class KeepsPauses(Trees):
    """Pauses a session and lets its children work on."""

    async def relay(self, state: State, post: Post, key: str) -> None:
        """Pass nothing on."""


class CountsNobody(Trees):
    """Does not count how many children are at work."""

    @contextmanager
    def running(
        self,
        parent: str,
        child: str,
        *,
        fresh: bool,
        most: int,
        others: AbstractSet[str] = frozenset(),
    ) -> Iterator[None]:
        """Let everybody in."""
        with super().running(parent, child, fresh=fresh, most=1_000_000):
            yield


class StaysForEver(Driver):
    """Never lets a session go."""

    async def _wait(self, seconds: float | None) -> bool:
        return await super()._wait(None if seconds == self._kit.bounds.idle_s else seconds)


class ToEachHisOwn(Ledger):
    """Looks at a session's own figures only."""

    def _rooms(self, caller: Any, *, landed: bool) -> list[Room]:
        return super()._rooms(caller, landed=landed)[:1]


class BooksAfterwards(Ledger):
    """Does not count what is reserved and has not come back."""

    def _rooms(self, caller: Any, *, landed: bool) -> list[Room]:
        return super()._rooms(caller, landed=True)


class AdmitsAll(Ledger):
    """Counts tool calls in each session for itself."""

    def admit(self, session: str, calls: Iterable[CallState]) -> ErrorInfo | None:
        """Let all through."""
        return None


class ForgetsTheDead(Trees):
    """Begins the books of a tree anew in each process: who worked below it is not in them."""

    async def _rebuilt(self, root: State) -> Ledger:
        ledger = self.ledger_type()
        ledger.note(root)
        return ledger


class SaysNothing(Rewrites):
    """Ends at a limit without a word about what to do."""

    def instead(self, payload: Payload) -> Payload:
        """Leave the hint out."""
        if isinstance(payload, e.TurnEnded) and payload.error is not None:
            return replace(payload, error=replace(payload.error, hint="Think again."))
        return payload


class RaisesNothing(Rewrites):
    """Takes note of higher limits, and keeps the old ones."""

    def instead(self, payload: Payload) -> Payload:
        """Put the limits that are in force in the place of the new ones."""
        if isinstance(payload, e.SessionUpdated) and payload.limits is not None:
            return replace(payload, limits=self.state.limits)
        return payload


def with_tool(kind: type[Subagent]) -> type[Engine]:
    """Return an engine whose subagents are of this kind."""

    class Broken(Engine):
        async def _open_tools(self, agent: Agent) -> list[Tool]:
            tools = await super()._open_tools(agent)
            return [_as(kind, t) if isinstance(t, Subagent) else t for t in tools]

    return Broken


def _as(kind: type[Subagent], tool: Subagent) -> Subagent:
    return kind(**{f.name: getattr(tool, f.name) for f in dataclasses.fields(tool)})


def with_trees(trees: type[Trees], ledger: type[Ledger] = Ledger) -> type[Engine]:
    """Return an engine with such trees."""
    kind = type("Its", (trees,), {"ledger_type": ledger})

    class Broken(Engine):
        def __init__(self, kit: Kit) -> None:
            super().__init__(kit)
            self.trees = kind(self)

    return Broken


def _build(engine: type[Engine], *seen_by: str) -> Variant:
    return Variant(Build(engine=engine), seen_by)


TREE_VARIANTS: Final[Mapping[str, Variant]] = {
    "a child for each attempt": _build(with_tool(SpawnsAgain), "spawn"),
    "children not attached again": _build(with_tool(LosesTrack), "answer", "orphan"),
    "answered before the child is": _build(with_tool(DoesNotWait), "answer", "orphan", "spawn"),
    "children may do all": _build(with_tool(MayAll), "rights"),
    "children work on": _build(with_trees(LeavesChildren), "orphan"),
    "pauses stay above": _build(with_trees(KeepsPauses), "relay"),
    "children without number": _build(with_trees(CountsNobody), "bounds"),
    "drivers stay": _build(with_driver(StaysForEver), "drivers", "liveness"),
}
BUDGET_VARIANTS: Final[Mapping[str, Variant]] = {
    "each session its own budget": _build(with_trees(Trees, ToEachHisOwn), "tree budget"),
    "booked when it is paid": _build(with_trees(Trees, BooksAfterwards), "tree budget"),
    "calls counted apart": _build(with_trees(Trees, AdmitsAll), "tree budget"),
    "books begun anew": _build(with_trees(ForgetsTheDead), "tree budget"),
    "lost calls cost nothing": _build(with_journal(LostCallsAreFree), "booked", "prefixes"),
    "limits without a word": _build(with_journal(SaysNothing), "hint"),
    "limits that stay": _build(with_journal(RaisesNothing), "raise"),
}
VARIANTS_OF: Final[Mapping[str, tuple[type[Simulation], Mapping[str, Variant]]]] = {
    "trees": (TreeRun, TREE_VARIANTS),
    "budgets": (Budgets, BUDGET_VARIANTS),
}


def catch_tree(kind: str, name: str, seeds_max: int = SEEDS_MAX) -> Report | None:
    """Run a variant of a kind until it is seen; None when it was not."""
    run, variants = VARIANTS_OF[kind]
    for seed in range(seeds_max):
        report = simulate(seed, "memory", variants[name].build, kind=run)
        if any(each.partition(":")[0] in variants[name].seen_by for each in report.violations):
            return report
    return None
