"""Performing RECOVER_TOOLS: calls that were in flight when their process died.

| effect     | what is done                                                               |
|------------|----------------------------------------------------------------------------|
| read       | run again                                                                  |
| idempotent | run again with the same key                                                |
| contained  | take the workspace back to the snapshot before the call, then run again    |
| once       | ask the tool's probe; where it cannot tell, a person decides               |
"""

import asyncio
from collections.abc import Mapping, Sequence

from perdure.core import events as e
from perdure.core.agent import Effect
from perdure.core.codec import arguments_of
from perdure.core.errors import PerdureError, error_info
from perdure.core.policy import approval_digest
from perdure.core.state import CallState, Phase
from perdure.engine.saying import said_with
from perdure.engine.tool_calls import ask_what_happened, run_call
from perdure.engine.work import Work, context_of
from perdure.ports.tool import Tool, ToolFailed, ToolOutput


async def recover_tools(work: Work, calls: tuple[CallState, ...]) -> None:
    """Do for each call what its effect allows, one after the other but for parallel ones."""
    tools = await work.tools()
    beside = [c for c in calls if c.phase is Phase.STARTED and _is_parallel(tools, c)]
    async with asyncio.TaskGroup() as group:
        for call in beside:
            group.create_task(run_call(work, tools[call.call.tool], call))
        await _one_by_one(work, tools, [call for call in calls if call not in beside])


def _is_parallel(tools: Mapping[str, Tool], call: CallState) -> bool:
    tool = tools.get(call.call.tool)
    return tool is not None and tool.spec.parallel and call.effect is not Effect.ONCE


async def _one_by_one(work: Work, tools: Mapping[str, Tool], calls: Sequence[CallState]) -> None:
    for call in calls:
        tool = _same(tools.get(call.call.tool), call)
        if call.phase is Phase.ASKING:
            _ask_again(work, call, await said_with(work, call.call.id))
        elif call.phase is Phase.UNKNOWN:
            ask_what_happened(work, call, await said_with(work, call.call.id))
        elif call.effect is Effect.ONCE or tool is None:
            await _recover_once(work, tool, call)
        elif call.effect is Effect.CONTAINED:
            await _recover_contained(work, tool, call)
        else:
            await run_call(work, tool, call)


def _same(tool: Tool | None, call: CallState) -> Tool | None:
    """Return the tool if it is still the one that the call was decided on.

    Another one can neither run the call again nor say what became of it: that is a person's.
    """
    if tool is None or call.phase is not Phase.STARTED:
        return tool
    return tool if approval_digest(tool.spec, call.call.arguments) == call.digest else None


def _ask_again(work: Work, call: CallState, said: str) -> None:
    """Put a question that was lost between the call and its action."""
    expires_us = work.kit.clock.now_us() + int(work.state.spec.approval_expires_s * 1_000_000)
    action_id = f"a{work.state.next_action}"
    question = f"{call.call.tool}({call.call.arguments})"
    work.journal.append(
        e.ActionRequested(
            action_id, "approve", call.call.id, question, call.digest, expires_us, said
        )
    )


async def _recover_once(work: Work, tool: Tool | None, call: CallState) -> None:
    try:
        known = await _probe(work, tool, call)
    except ToolFailed:
        # The far end says that it certainly did not happen, so running it is the first time.
        await run_call(work, tool, call)
        return
    except PerdureError as error:
        known = None
        work.journal.append(e.NoteRecorded(f"The probe of {call.call.id} failed: {error.message}"))
    if known is not None:
        work.journal.append(
            e.ToolFinished(
                call.call.id,
                "error" if known.error else "ok",
                known.text,
                known.error,
                meta={"probed": True},
            )
        )
        return
    why = "The process died after the call left and before a result came back."
    info = error_info("E-TOOL-UNKNOWN", "tool", why, subject=call.call.tool)
    said = await said_with(work, call.call.id)
    work.journal.append(e.ToolFinished(call.call.id, "unknown", error=info))
    ask_what_happened(work, call, said)


async def _probe(work: Work, tool: Tool | None, call: CallState) -> ToolOutput | None:
    if tool is None:
        return None
    sandbox = await work.place.sandbox() if tool.spec.environment else None
    context = context_of(work, call, call.attempt, sandbox)
    return await tool.probe(arguments_of(call.call.arguments), context)


async def _recover_contained(work: Work, tool: Tool, call: CallState) -> None:
    """Roll back and run again; where a person may have changed files since, ask first."""
    if call.snapshot:
        plan = await work.place.plan(call.snapshot)
        if plan.unsure:
            said = await said_with(work, call.call.id)
            _ask_about_rollback(work, call, plan.unsure, said)
            return
    await run_call(work, tool, call)


def _ask_about_rollback(work: Work, call: CallState, unsure: tuple[str, ...], said: str) -> None:
    shown = ", ".join(unsure[:5]) + ("…" if len(unsure) > 5 else "")
    question = (
        f"{call.call.tool} was interrupted, and {len(unsure)} files changed after it died: {shown}."
        " They will be left as they are. Run the command again (rerun), or not (failed)?"
    )
    work.journal.append(
        e.ActionRequested(
            f"a{work.state.next_action}",
            "rollback",
            call.call.id,
            question,
            call.digest,
            said=said,
        )
    )
