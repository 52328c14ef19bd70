"""Engines that are wrong on purpose, each in one way that somebody's runtime really was.

None of them is for use. The simulation must catch each one, or it proves nothing.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.agent import ToolSpec, Verdict
from perdure.core.content import ContextItem, ModelItem, ResultItem, Text, Usage, UserItem
from perdure.core.events import Payload
from perdure.core.state import State
from perdure.engine.driver import Driver
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.engine.tool_calls import run_tools
from perdure.engine.work import Work
from perdure.ports.store import Claim, Letter
from perdure.ports.tool import Tool, ToolContext, ToolOutput


class NeverWaits(Journal):
    """Lets effects go before what announces them is on disk."""

    async def durable(self) -> None:
        """Say yes at once."""


class StartsLate(NeverWaits):
    """Writes that a call was started only when it is over."""

    async def _flush(self) -> None:
        while self._waiting and isinstance(self._waiting[-1][0].payload, e.ToolStarted):  # noqa: ASYNC110 - broken
            await asyncio.sleep(0.01)
        await super()._flush()


class TellsEarly(Journal):
    """Shows events to followers before they are on disk."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and tell at once."""
        super().append(*payloads, taken=taken)
        self.published(self._undurable[-len(payloads) :], self.state)


class LeavesDangling(Journal):
    """Forgets to answer for calls that were cut short."""

    def items(self) -> list[ContextItem]:
        """Leave out what the engine answered in a tool's place."""
        made_up = ("Interrupted", "Stopped")
        return [
            item
            for item in super().items()
            if not (isinstance(item, ResultItem) and item.text.startswith(made_up))
        ]


class SteersAtOnce(Journal):
    """Puts a steering word into the transcript when it comes, wherever that is."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and let steers jump the queue."""
        super().append(*payloads, taken=taken)
        for p in payloads:
            if isinstance(p, e.InputAccepted) and p.kind == "steer" and self._transcript:
                self._transcript.items.append(UserItem(p.content))


class SplicesTorn(Journal):
    """Goes on from half a reply as if it had been said."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and keep the piece of a torn stream in the transcript."""
        super().append(*payloads, taken=taken)
        for p in payloads:
            if isinstance(p, e.ModelResponded) and p.partial and self._transcript:
                self._transcript.items.append(ModelItem((Text(p.partial),)))


class Rewrites(Journal):
    """Writes something else than it was told."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append what `instead` makes of each."""
        super().append(*(self.instead(p) for p in payloads), taken=taken)

    def instead(self, payload: Payload) -> Payload:
        """Return what is written."""
        return payload


class NoSnapshotBefore(Rewrites):
    """Snapshots the workspace after a command only: there is nothing to go back to."""

    def instead(self, payload: Payload) -> Payload:
        """Forget what the workspace was before."""
        return replace(payload, snapshot="") if isinstance(payload, e.ToolStarted) else payload


class RetriesForEver(Rewrites):
    """Has no bound on retries, and retries what can never succeed."""

    def instead(self, payload: Payload) -> Payload:
        """Make every failure retryable."""
        if not isinstance(payload, e.ModelResponded) or payload.error is None:
            return payload
        return replace(payload, retry_at_us=payload.retry_at_us or 1)


class LostCallsAreFree(Rewrites):
    """Books nothing for a model call whose answer was lost."""

    def instead(self, payload: Payload) -> Payload:
        """Pretend that a provider does not bill what it could not deliver."""
        if isinstance(payload, e.ModelResponded) and payload.status != "ok":
            return replace(payload, usage=Usage())
        return payload


class AsksNobody(Journal):
    """Takes every question for answered."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append verdicts as if they were all yes, and no questions."""
        yes = [
            replace(p, verdict=Verdict.ALLOW) if isinstance(p, e.ToolRequested) else p
            for p in payloads
            if not (isinstance(p, e.ActionRequested) and p.kind == "approve")
        ]
        super().append(*yes, taken=taken)


class ApprovesAgain(Journal):
    """Takes one approval of a tool as an approval of all that follow."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and answer a question about a tool that was allowed before."""
        for p in payloads:
            if isinstance(p, e.ActionResolved) and p.decision == "allow":
                self._allowed.add(_tool(self.state.actions[p.action_id].question))
        super().append(*payloads, taken=taken)
        for p in payloads:
            known = isinstance(p, e.ActionRequested) and _tool(p.question) in self._allowed
            if isinstance(p, e.ActionRequested) and p.kind == "approve" and known:
                super().append(e.ActionResolved(p.action_id, "allow", "before", p.digest))

    def __init__(self, kit: Kit, claim: Claim, state: State, cached: int) -> None:
        super().__init__(kit, claim, state, cached)
        self._allowed: set[str] = set()


def _tool(question: str) -> str:
    return question.partition("(")[0]


class ForgetsWhatItTook(Journal):
    """Believes the inbox even where its answer is older than what was taken meanwhile."""

    async def inbox(self) -> list[Letter]:
        """Return what the store says."""
        return await self._kit.store.inbox(self.claim.session)


class ChecksAfterwards(Journal):
    """Looks at a budget only when it is used up: check, then act."""

    def __init__(self, kit: Kit, claim: Claim, state: State, cached: int) -> None:
        self._true = state
        super().__init__(kit, claim, state, cached)

    @property
    def state(self) -> State:
        """The state, without limits that are not passed yet."""
        state = self._true
        if state.agent is None:
            return state
        limits = state.agent.limits
        tokens = limits.tokens if state.spent.tokens >= (limits.tokens or 0) else None
        usd = limits.usd if state.spent.micro_usd >= (limits.usd or 0) * 1e6 else None
        return replace(state, agent=replace(state.agent, limits=_spend(limits, tokens, usd)))

    @state.setter
    def state(self, state: State) -> None:
        limits = self._true.limits if self._true.agent else None
        unchanged = state.version == self._true.version and limits is not None
        if unchanged and state.agent is not None and not _is_update(state, self._true):
            state = replace(state, agent=self._true.agent)
        self._true = state


def _spend(limits: Any, tokens: int | None, usd: float | None) -> Any:
    return replace(limits, tokens=tokens, usd=usd)


def _is_update(after: State, before: State) -> bool:
    """Whether the limits themselves were changed by an event."""
    new, old = after.limits, before.limits
    return (new.tokens is not None and new.tokens != old.tokens) or (
        new.usd is not None and new.usd != old.usd
    )


class RunsAgain(Driver):
    """Runs a call again after a crash, whatever it did."""

    async def _perform(self, work: Work, step: due.Step) -> None:
        if isinstance(step, due.RecoverTools):
            await self._effectful(work, run_tools(work, step.calls))
        else:
            await super()._perform(work, step)


class CountsAfterwards(Driver):
    """Counts a dead owner only when its work has come to something."""

    async def _recover(self, work: Work, *, clean: bool) -> None:
        """Try first."""
        if not clean and work.state.turn is not None:
            step = due.next_step(work.state)
            if not isinstance(step, due.Rest | due.Ask | due.Sleep):
                await self._perform(work, step)


class LeavesRunning(Driver):
    """Calls a turn over when it is interrupted, and lets its tool run on."""

    async def _effectful(self, work: Work, effect: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(effect)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not task.done():
            await asyncio.wait({task}, timeout=0.1)
            await self._mail.drain(work)
            if work.state.turn is not None and work.state.turn.interrupted:
                return
        await task


class ChangesArguments(Driver):
    """Executes something else than was approved."""

    async def _tools(self) -> Mapping[str, Tool]:
        return {name: Changed(tool) for name, tool in (await super()._tools()).items()}


class FreshKeys(Driver):
    """Gives each attempt an idempotency key of its own."""

    async def _tools(self) -> Mapping[str, Tool]:
        return {name: FreshKeyed(tool) for name, tool in (await super()._tools()).items()}


class Changed:
    """A tool that is called with other arguments than those given."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool

    @property
    def spec(self) -> ToolSpec:
        """See `Tool.spec`."""
        return self._tool.spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Call with one more than was asked for."""
        number = arguments.get("n")
        more = {**arguments, "n": number + 1} if isinstance(number, int) else arguments
        return await self._tool.call(more, context)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """See `Tool.probe`."""
        return await self._tool.probe(arguments, context)


class FreshKeyed(Changed):
    """A tool that gets another key on each attempt."""

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Call with a key that counts attempts."""
        return await self._tool.call(arguments, _Keyed(context))


class _Keyed:
    def __init__(self, context: ToolContext) -> None:
        self._context = context

    @property
    def idempotency_key(self) -> str:
        return f"{self._context.idempotency_key}-{self._context.attempt}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def with_journal(journal: type[Journal]) -> type[Engine]:
    """Return an engine whose sessions have that journal."""

    class Broken(Driver):
        journal_type = journal

    return with_driver(Broken)


def with_driver(driver: type[Driver]) -> type[Engine]:
    """Return an engine that drives its sessions like that."""

    class Broken(Engine):
        driver_type = driver

    return Broken
