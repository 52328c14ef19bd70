"""Counterfactual replay: what would another model, or other instructions, have done?

A fresh session in memory gets the recorded inputs. The model is really called; tools and people
answer from the recording. No tool is run and no workspace is touched. Where a call has no recorded
counterpart the run stops there, or the model reads a stub that says so.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace as with_changes
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import AgentSpec, EnvironmentSpec
from perdure.core.content import Content, ContextItem, ModelItem, Text, ToolCall
from perdure.core.context import Transcript
from perdure.core.errors import InvalidRequest, error_info
from perdure.core.events import Event
from perdure.core.evolve import fold
from perdure.core.inbox import Decide
from perdure.core.state import ActionState, Spent, State
from perdure.core.timeline import effective
from perdure.engine.agent import Agent
from perdure.engine.grants import Scope
from perdure.engine.kit import Bounds, Kit, no_tools
from perdure.engine.recall import Asked, Recall, RecalledTool, Unknown, key_of
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.ports.tool import ToolOutput

Mode = Literal["stop", "stub"]
NAME: Final = "replay"
BY: Final = "replay"


class Rerun(msgspec.Struct, frozen=True):
    """How it went. `recorded` and `rerun` are the two transcripts; `differs_at` is the first item
    that says something else (None: they are the same).

    `stopped` is the call that ended the run, `stubs` are those that got a stub, `skipped` are
    recorded inputs that cannot be given again (an interrupt came at a moment that is gone).
    """

    recorded: tuple[ContextItem, ...]
    rerun: tuple[ContextItem, ...]
    differs_at: int | None
    stopped: Asked | None
    stubs: tuple[Asked, ...]
    skipped: tuple[str, ...]
    spent_recorded: Spent
    spent: Spent
    events: tuple[Event, ...]


async def replay_with(
    kit: Kit,
    events: Sequence[Event],
    *,
    model: str = "",
    instructions: str | None = None,
    mode: Mode = "stop",
) -> Rerun:
    """Run the inputs of a recorded session again under another model or other instructions.

    `kit` brings the models and an empty store in memory, which is closed at the end. Without
    `model` the session's own is called. Raises `InvalidRequest` (E-REPLAY-EMPTY) where there is
    nothing to run.
    """
    state = fold(events)
    inputs, skipped = _inputs(events)
    if not inputs:
        raise InvalidRequest("E-REPLAY-EMPTY", f"{state.id or 'The journal'} holds no message.")
    if await kit.store.sessions():
        raise InvalidRequest(
            "E-REPLAY-STORE", "A replay gets a store of its own; this one holds sessions."
        )
    unknown = _Ends(mode)
    recall = Recall.of(events)
    tools = [RecalledTool(spec, recall, unknown) for spec in state.spec.tools]
    agent = _agent(state.spec, model, instructions, tools)
    stage = with_changes(
        kit,
        environments={},
        workspace_tools=no_tools,
        clerk=False,
        bounds=Bounds(idle_s=0.0),
    )
    async with Engine(stage) as engine:
        session = await engine.session(NAME, agent)
        await _run(session, inputs, recall, unknown)
        known = [event async for event in session.events()]
    return _report(events, known, skipped, unknown)


def _report(
    events: Sequence[Event], known: Sequence[Event], skipped: Sequence[str], unknown: "_Ends"
) -> Rerun:
    before = tuple(Transcript(effective(events)).items)
    after = tuple(Transcript(known).items)
    return Rerun(
        recorded=before,
        rerun=after,
        differs_at=first_difference(before, after),
        stopped=unknown.stopped,
        stubs=tuple(unknown.stubs),
        skipped=tuple(skipped),
        spent_recorded=fold(events).spent,
        spent=fold(known).spent,
        events=tuple(known),
    )


def first_difference(a: Sequence[ContextItem], b: Sequence[ContextItem]) -> int | None:
    """Return the first place at which two transcripts do not say the same, or None."""
    for place, (mine, other) in enumerate(zip(a, b, strict=False)):
        if said(mine) != said(other):
            return place
    return None if len(a) == len(b) else min(len(a), len(b))


def said(item: ContextItem) -> object:
    """Return what an item says to a reader: its text and its calls, without ids and reasoning."""
    if not isinstance(item, ModelItem):
        return replace(item, call_id="", vendor_id="") if hasattr(item, "call_id") else item
    texts = "".join(i.text for i in item.items if isinstance(i, Text))
    calls = [key_of(i.tool, i.arguments) for i in item.items if isinstance(i, ToolCall)]
    return texts, calls


class _Input(msgspec.Struct, frozen=True):
    content: Content
    steer: bool


def _inputs(events: Sequence[Event]) -> tuple[list[_Input], list[str]]:
    """Return what was said to the session, and what cannot be said again."""
    found: list[_Input] = []
    skipped: list[str] = []
    for event in effective(events):
        match event.payload:
            case e.InputAccepted(kind="message" | "steer" as kind, content=content):
                found.append(_Input(content, kind == "steer"))
            case e.InputAccepted(kind="interrupt" | "pause" | "resume" as kind):
                skipped.append(f"{kind} at event {event.seq}")
            case _:
                pass
    return found, skipped


def _agent(
    spec: AgentSpec, model: str, instructions: str | None, tools: Sequence[RecalledTool]
) -> Agent:
    return Agent(
        spec.name,
        model or spec.model,
        spec.instructions if instructions is None else instructions,
        tools=tools,
        permissions=spec.permissions,
        limits=spec.limits,
        retry=spec.retry,
        environment=EnvironmentSpec(),
        max_output_tokens=spec.max_output_tokens,
        approval_expires_s=spec.approval_expires_s,
    )


async def _run(
    session: Session, inputs: Sequence[_Input], recall: Recall, unknown: "_Ends"
) -> None:
    """Say everything, one after the other, until the end or until a call has no counterpart."""
    saying = asyncio.create_task(_say_all(session, inputs, recall, unknown))
    ending = asyncio.create_task(unknown.over.wait())
    done, left = await asyncio.wait({saying, ending}, return_when=asyncio.FIRST_COMPLETED)
    for task in left:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    if saying in done:
        saying.result()


async def _say_all(
    session: Session, inputs: Sequence[_Input], recall: Recall, unknown: "_Ends"
) -> None:
    for said_then in inputs:
        state = await session.send(said_then.content, by=BY)
        while state.actions:
            for action in tuple(state.actions.values()):
                await _decide(session, state, action, recall, unknown)
            async for _ in session.watch():
                pass
            state = await session.state()


async def _decide(
    session: Session, state: State, action: ActionState, recall: Recall, unknown: "_Ends"
) -> None:
    """Decide as it was decided then; what was not decided then is refused, or ends the run."""
    assert state.turn is not None
    call = state.turn.calls[action.call_id].call
    then = recall.decisions.next(key_of(call.tool, call.arguments))
    if then is None:
        asked = Asked(call.id, call.tool, call.arguments, "decision")
        await unknown.decision(asked)
        await session.decide(Decide(action.id, "deny", BY, "the recording has no decision on it"))
    elif then.decision == "allow":
        # What was allowed beyond the call is allowed here too, for other arguments that fit.
        scope: Scope = "session" if then.grant else "once"
        when = then.grant.when if then.grant else ""
        await session.allow(action.id, by=BY, arguments=then.arguments, scope=scope, when=when)
    else:
        await session.deny(action.id, by=BY, reason=then.reason or then.decision)


class _Ends(Unknown):
    """Ends the run at the first call without counterpart, or goes on with a stub."""

    def __init__(self, mode: Mode) -> None:
        self.stopped: Asked | None = None
        self.stubs: list[Asked] = []
        self.over = asyncio.Event()
        self._mode = mode

    async def result(self, asked: Asked) -> ToolOutput:
        """See `Unknown.result`."""
        await self._meet(asked)
        text = (
            "No result was recorded for this call, and in a replay nothing is run. "
            "Go on without it."
        )
        info = error_info("E-REPLAY-STUB", "tool", text, subject=asked.tool)
        return ToolOutput(text, info)

    async def decision(self, asked: Asked) -> None:
        """Take note of a question that nobody answered then."""
        await self._meet(asked)

    async def _meet(self, asked: Asked) -> None:
        if self._mode == "stub":
            self.stubs.append(asked)
            return
        self.stopped = self.stopped or asked
        self.over.set()
        await asyncio.Event().wait()  # until the engine is closed
