"""Subagents: an agent as a tool of another one. Each call is a session of its own.

The child's id follows from the call, so a process that takes the parent over finds the child
that is already there and goes on with it: run again means attach again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import msgspec

from perdure.core import events as e
from perdure.core.agent import AgentSpec, Effect, ToolSpec
from perdure.core.codec import encode
from perdure.core.content import Text, as_content
from perdure.core.errors import (
    Conflict,
    ErrorInfo,
    Forbidden,
    InvalidRequest,
    Unavailable,
    error_info,
)
from perdure.core.events import Event, TurnEnded
from perdure.core.inbox import Say
from perdure.core.rights import narrowed
from perdure.core.state import State
from perdure.engine.agent import Agent
from perdure.engine.journal import follow
from perdure.engine.kin import SOURCE, child_name, stuck
from perdure.engine.session import Session
from perdure.engine.trees import Trees
from perdure.engine.work import CallContext, Work
from perdure.ports.tool import ToolContext, ToolOutput

T = TypeVar("T")

_SCHEMA: Final = msgspec.Raw(
    encode(
        {
            "type": "object",
            "properties": {"task": {"type": "string", "description": "what is to be done"}},
            "required": ["task"],
            "additionalProperties": False,
        }
    )
)
_LETTERS: Final = (e.InputAccepted, e.ActionResolved, e.SignalReceived)
_TIMEOUT_S: Final = 365 * 24 * 3600.0  # the subagent's own limits end it, not the tool's


@dataclass(frozen=True)
class Subagent:
    """An agent that others may call. Made by `subagent`; implements the `Tool` port."""

    agent: Agent
    name: str
    description: str
    max_depth: int
    max_children: int
    trees: Trees | None = None
    pinned: AgentSpec | None = None

    @property
    def spec(self) -> ToolSpec:
        """Its source names the agent's version: another definition makes another tool."""
        version = f":{self.pinned.version}" if self.pinned else ""
        return ToolSpec(
            name=self.name,
            description=self.description,
            input_schema=_SCHEMA,
            effect=Effect.IDEMPOTENT,
            timeout_s=_TIMEOUT_S,
            source=f"{SOURCE}{self.agent.name}{version}",
            parallel=True,
        )

    def bound(self, trees: Trees, pinned: AgentSpec) -> "Subagent":
        """Return this tool as one engine runs it."""
        return replace(self, trees=trees, pinned=pinned)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Start the child or find it, and wait until it has done its task."""
        task = _task(arguments)
        if self.trees is None or not isinstance(context, CallContext):
            raise Unavailable("E-SUBAGENT-ENGINE", "A subagent runs only inside an engine.")
        trees, work = self.trees, context.work
        name = child_name(work.state.id, context.call_id)
        try:
            return await self._served(trees, name, task, context)
        except asyncio.CancelledError:
            if not work.interrupting:
                raise  # this process lets go: the child is taken up again
            if not await trees.stop(name, work.state.id):
                work.interrupting = False  # nothing is written down: it is not stopped
                raise
            return _stopped(self.name, name)

    async def _served(self, trees: Trees, name: str, task: str, context: CallContext) -> ToolOutput:
        """Attend to the child while the store is away or full, too: it may be at work already,
        and no error of ours may take the place of its answer.
        """
        parent, store = context.work.state, trees.owner.kit.store
        most = _least(self.max_children, parent.width)
        fresh = await _patiently(trees, lambda: store.session(name)) is None
        # After a crash the others may not have been taken up again yet: they count all the same.
        others = set[str]()
        if fresh and context.attempt > 1:
            others = await _patiently(trees, lambda: trees.children_of(context.work.state))
        with trees.running(parent.id, name, fresh=fresh, most=most, others=others):
            return await _patiently(trees, lambda: self._attended(trees, name, task, context))

    async def _attended(
        self, trees: Trees, name: str, task: str, context: CallContext
    ) -> ToolOutput:
        if await trees.owner.kit.store.session(name) is None:
            await trees.owner.create(self._created(context.work, name, context.call_id))
        return await self._errand(trees, name, task, context)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Nothing to ask: a call is simply run again."""
        return None

    def _created(self, work: Work, name: str, call_id: str) -> e.SessionCreated:
        """Return the child's first event: its agent, narrowed to what the parent may do now."""
        assert self.pinned is not None
        state = work.state
        levels = _least(self.max_depth, state.levels)
        if levels < 1:
            raise Forbidden(
                "E-SUBAGENT-DEPTH",
                "Subagents may not be nested deeper than this. Nothing was started; "
                "do the task yourself.",
            )
        left = work.ledger.left(state.id, work.kit.clock.now_us())
        spec = narrowed(state.spec, left, self.pinned)
        shares = spec.environment.kind != "none" and state.spec.environment.kind != "none"
        return e.SessionCreated(
            name,
            spec,
            state.source if shares else "",
            parent=state.id,
            parent_call=call_id,
            levels=levels - 1,
            width=_least(self.max_children, state.width),
            asked=self.pinned.limits,
        )

    async def _errand(self, trees: Trees, name: str, task: str, context: CallContext) -> ToolOutput:
        work, child = context.work, Session(trees.owner, name)
        row = await trees.owner.kit.store.session(name)
        if row is None or row.parent != work.state.id:
            raise Conflict("E-SUBAGENT-NAME", f"There is another session named {name} already.")
        said = Say("message", as_content(task), f"session {work.state.id}")
        await child.post(said, context.call_id)
        if work.state.paused:
            await child.pause(by=f"session {work.state.id}")
        errand, state = _Errand(self.name, context), State()
        while True:
            try:
                async with aclosing(child.follow(state.seq)) as items:
                    async for item in items:
                        if isinstance(item, Event):
                            state = await follow(trees.owner.kit.store, name, state, item)
                            if (output := await errand.take(state, item)) is not None:
                                return output
                            if isinstance(item.payload, _LETTERS):
                                # Another process may have taken the letter; the work is ours.
                                trees.owner.wake(name)
            except Unavailable:
                # The store is away: the child is taken up again like any other session.
                await asyncio.sleep(trees.owner.kit.bounds.poll_s)


class _Errand:
    """Reads a child's events for the one turn that answers the call."""

    def __init__(self, tool: str, context: CallContext) -> None:
        self._tool = tool
        self._context = context
        self._input = 0
        self._turn = 0
        self._text = ""
        self._told = ""
        self._aside = False

    async def take(self, state: State, event: Event) -> ToolOutput | None:
        """Take the next event; return the call's output once it is known."""
        match event.payload:
            case e.InputAccepted(kind="message", key=key) if key == self._context.call_id:
                self._input = event.seq
            case e.TurnStarted(input=seq) if seq == self._input:
                self._turn = event.turn
            case e.ModelRequested(purpose=purpose):
                self._aside = bool(purpose)
            case e.ModelResponded(status="ok") if self._aside:
                pass  # a summary, and no part of what it says
            case e.ModelResponded(status="ok", items=items) if event.turn == self._turn:
                self._text = "".join(i.text for i in items if isinstance(i, Text)) or self._text
            case TurnEnded() as end if event.turn == self._turn and self._turn:
                return self._output(state, end)
            case e.SessionClosed():
                return self._output(state, TurnEnded("cancelled"))
            case _:
                await self._tell(state)
        return None

    async def _tell(self, state: State) -> None:
        """Write into the parent's journal that only a person can move its subagent on."""
        store = self._context.work.kit.store
        row = await store.session(state.id)
        why = ""
        if row is not None and row.seq <= state.seq:
            why = await stuck(store, state)
        if why and why != self._told:
            verb = "waits for a person" if why == "waiting" else f"is {why}"
            self._context.note(f"Subagent {state.id} {verb}: perdure show {state.id}")
        self._told = why

    def _output(self, state: State, end: TurnEnded) -> ToolOutput:
        meta = {
            "session": state.id,
            "status": end.status,
            "tokens": state.spent.tokens,
            "micro_usd": state.spent.micro_usd,
        }
        if end.status == "completed":
            return ToolOutput(self._text or "(done, without a word)", meta=meta)
        info = _ended(self._tool, state.id, end)
        said = f"\nWhat it said last: {self._text}" if self._text else ""
        return ToolOutput(info.message + said, error=info, meta=meta)


def subagent(
    agent: Agent,
    *,
    name: str | None = None,
    description: str = "",
    max_depth: int = 3,
    max_children: int = 32,
) -> Subagent:
    """Make a tool of an agent: a call gives it a task and returns its last words.

    Each call is a session of its own, `<parent>.<call id>`, that may do no more than its parent
    and spends from the same budget. `max_depth` is how many levels of subagents there may be
    below a session that uses this tool, `max_children` how many of its subagents may be at work
    at once; what holds above a session holds below it too.
    """
    if max_depth < 1 or max_children < 1:
        raise InvalidRequest(
            "E-SUBAGENT-LIMITS", "max_depth and max_children of a subagent are at least 1."
        )
    words = description or f"Give a task to the agent {agent.name} and get its answer."
    return Subagent(agent, name or agent.name, words, max_depth, max_children)


async def _patiently(trees: Trees, work: Callable[[], Awaitable[T]]) -> T:
    """Do something again and again while the store is away or full."""
    while True:
        try:
            return await work()
        except Unavailable as error:
            if error.code == "E-STORE-CLOSED":
                raise  # this process has let go; the next one attends to the child
            mine = asyncio.current_task()
            if mine is not None and mine.cancelling():
                raise asyncio.CancelledError from error  # it came while the store was away
            await asyncio.sleep(trees.owner.kit.bounds.poll_s)


def _task(arguments: Mapping[str, Any]) -> str:
    task = arguments.get("task")
    if not isinstance(task, str) or not task.strip() or len(arguments) != 1:
        raise InvalidRequest("E-TOOL-ARGUMENTS", "A subagent takes one argument: task, a text.")
    return task


def _least(own: int, above: int | None) -> int:
    return own if above is None else min(own, above)


def _ended(tool: str, session: str, end: TurnEnded) -> ErrorInfo:
    cause = end.error
    why = f"{cause.code}: {cause.message}" if cause else "it was interrupted"
    code, verb = {
        "budget": ("E-SUBAGENT-BUDGET", "stopped at a limit"),
        "failed": ("E-SUBAGENT-FAILED", "failed"),
    }.get(end.status, ("E-SUBAGENT-CANCELLED", "was stopped"))
    text = f"The subagent {tool} ({session}) {verb}. {why}"
    kind = "budget" if end.status == "budget" else "tool"
    return error_info(code, kind, text, subject=tool, hint=cause.hint if cause else "")


def _stopped(tool: str, session: str) -> ToolOutput:
    info = _ended(tool, session, TurnEnded("cancelled"))
    return ToolOutput(info.message, error=info, meta={"session": session, "status": "cancelled"})
