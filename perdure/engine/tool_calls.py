"""Performing REQUEST_TOOLS, SETTLE and RUN_TOOLS.

The order on disk is the contract: requested, started, (the effect), finished. An effect that can
hurt waits until `tool.started` is on disk; only reads do not.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from perdure.core import events as e
from perdure.core.agent import Effect, ToolSpec, Verdict
from perdure.core.codec import arguments_of
from perdure.core.errors import (
    ErrorInfo,
    InvalidRequest,
    PerdureError,
    error_info,
)
from perdure.core.policy import Decision, approval_digest, decide
from perdure.core.state import CallState, Phase
from perdure.engine.allowed import allowed_before
from perdure.engine.clients import hand_over
from perdure.engine.endings import cancelled_text
from perdure.engine.saying import said_with
from perdure.engine.tool_errors import after_failure, failed_for_good, is_held
from perdure.engine.waits import falls_asleep
from perdure.engine.work import Work, context_of
from perdure.ports.tool import OutcomeUnknown, Tool, ToolFailed, ToolOutput


async def request_tools(work: Work, calls: tuple[CallState, ...]) -> None:
    """Write down what the permissions say of each call, and ask where they say so."""
    tools = await work.tools()
    for call in calls:
        tool = tools.get(call.call.tool)
        if tool is None:
            known = ", ".join(sorted(tools)) or "none"
            text = f"There is no tool {call.call.tool!r}. The tools are: {known}."
            work.journal.append(_refused(call, "E-TOOL-MISSING", text))
            continue
        try:
            arguments = arguments_of(call.call.arguments)
        except InvalidRequest as error:
            work.journal.append(_refused(call, error.code, error.message))
            continue
        await _request(work, call, tool.spec, arguments)


async def _request(
    work: Work, call: CallState, spec: ToolSpec, arguments: Mapping[str, Any]
) -> None:
    decision = decide(spec, work.state.spec.permissions, arguments)
    digest = approval_digest(spec, call.call.arguments)
    grant = None
    if decision.verdict is Verdict.ASK:
        grant = await allowed_before(work, call, spec, arguments)
    if grant is not None:
        decision = Decision(Verdict.ALLOW, grant.shown)
    requested = e.ToolRequested(
        call.call.id, spec.name, spec.effect, decision.verdict, digest, decision.rule,
        decision.reason, grant,
    )  # fmt: skip
    if decision.verdict is not Verdict.ASK:
        work.journal.append(requested)
        return
    said = await said_with(work, call.call.id)
    expires_us = work.kit.clock.now_us() + int(work.state.spec.approval_expires_s * 1_000_000)
    question = f"{spec.name}({call.call.arguments})  — rule: {decision.rule}"
    action = e.ActionRequested(
        f"a{work.state.next_action}", "approve", call.call.id, question, digest, expires_us, said
    )
    work.journal.append(requested, action)


def settle(work: Work, calls: tuple[CallState, ...]) -> None:
    """Tell the model what was decided about calls that a rule or a person answered."""
    for call in calls:
        work.journal.append(_settled(call))


def _settled(call: CallState) -> e.ToolFinished:
    name = call.call.id
    if call.phase is Phase.REFUSED:
        why = call.reason or "not allowed"
        text = f"This call was not allowed and did not run: {why}."
        return e.ToolFinished(name, "denied", text, error_info("E-TOOL-DENIED", "tool", text))
    if call.failed:
        text = f"The call did not take effect. {call.reason}".strip()
        if call.failures:
            text = call.reason or "The call failed."
        return e.ToolFinished(name, "error", text, error_info("E-TOOL-FAILED", "tool", text))
    return e.ToolFinished(name, "ok", call.result or "(done)")


async def run_tools(work: Work, calls: tuple[CallState, ...]) -> None:
    """Run the calls: reads outside the environment and parallel ones together, all others in
    their order. Those that clients answer are put first, and wait while the others run.
    """
    tools = await work.tools()
    for call in [c for c in calls if _is_for_clients(tools, c)]:
        await run_call(work, tools.get(call.call.tool), call)
    calls = tuple([c for c in calls if not _is_for_clients(tools, c)])
    reads: list[CallState] = []
    parallel: list[CallState] = []
    rest: list[CallState] = []
    for call in calls:
        tool = tools.get(call.call.tool)
        free = tool and call.effect is Effect.READ and not tool.spec.environment
        beside = parallel if tool and tool.spec.parallel else rest
        (reads if free else beside).append(call)
    if len(calls) == 1:  # the usual case needs no group
        await run_call(work, tools.get(calls[0].call.tool), calls[0])
        return
    gate = asyncio.Semaphore(work.kit.bounds.parallel_reads)
    async with asyncio.TaskGroup() as group:
        for call in reads:
            group.create_task(_gated(gate, work, tools, call))
        for call in parallel:
            group.create_task(run_call(work, tools.get(call.call.tool), call))
        for call in rest:
            await run_call(work, tools.get(call.call.tool), call)


def _is_for_clients(tools: Mapping[str, Tool], call: CallState) -> bool:
    tool = tools.get(call.call.tool)
    return tool is not None and tool.spec.client


async def _gated(
    gate: asyncio.Semaphore, work: Work, tools: Mapping[str, Tool], call: CallState
) -> None:
    async with gate:
        await run_call(work, tools.get(call.call.tool), call)


async def run_call(work: Work, tool: Tool | None, call: CallState) -> None:
    """Run one call, on its first attempt or a later one."""
    if tool is None:
        work.journal.append(
            _refused(call, "E-TOOL-MISSING", f"The tool {call.call.tool!r} is gone.")
        )
        return
    try:
        arguments = arguments_of(call.call.arguments)
    except InvalidRequest as error:
        work.journal.append(_refused(call, error.code, error.message))
        return
    if approval_digest(tool.spec, call.call.arguments) != (call.approved or call.digest):
        # The tool or the arguments are not what was decided on: decide again.
        await _request(work, call, tool.spec, arguments)
        return
    if call.phase is Phase.READY and _forbidden(work, tool.spec, arguments):
        # A person may have edited the arguments into what a rule forbids: forbidding wins.
        await _request(work, call, tool.spec, arguments)
        return
    if not await _still_granted(work, call, tool.spec, arguments):
        await _request(work, call, tool.spec, arguments)
        return
    if tool.spec.client:
        await hand_over(work, tool.spec, call, arguments)
        return
    if falls_asleep(work, tool, call, arguments):
        return
    sandbox = await work.place.sandbox() if tool.spec.environment else None
    if call.attempt and tool.spec.mutates and call.snapshot and sandbox is not None:
        await work.place.back_to(call.snapshot, call.call.id)
    if work.stopping:
        return
    attempt = call.attempt + 1
    work.journal.append(
        e.ToolStarted(
            call.call.id,
            attempt,
            work.journal.claim.epoch,
            work.state.snapshot if tool.spec.mutates and sandbox is not None else "",
        )
    )
    if call.effect is not Effect.READ:
        # Idempotent calls wait too: their key must not come back with another reply's arguments.
        await work.journal.durable()
    await _perform(work, tool, call, arguments, attempt)


def _forbidden(work: Work, spec: ToolSpec, arguments: Mapping[str, Any]) -> bool:
    verdict = decide(spec, work.state.spec.permissions, arguments).verdict
    return verdict is Verdict.DENY


async def _still_granted(
    work: Work, call: CallState, spec: ToolSpec, arguments: Mapping[str, Any]
) -> bool:
    """Whether what allowed a call still does: while a session is paused it may be revoked."""
    if not call.granted or call.approved or call.attempt:
        return True
    return await allowed_before(work, call, spec, arguments) is not None


async def _perform(
    work: Work, tool: Tool, call: CallState, arguments: Mapping[str, Any], attempt: int
) -> None:
    context = context_of(work, call, attempt, work.place.open_sandbox)
    spec = tool.spec
    finished: e.ToolFinished | None
    try:
        async with asyncio.timeout(spec.timeout_s):
            output = await tool.call(arguments, context)
    except asyncio.CancelledError:
        if work.interrupting:
            await _interrupted(work, tool, call)
        raise
    except TimeoutError:
        finished = await after_failure(work, spec, call, _timed_out(call, spec), certain=False)
    except OutcomeUnknown as error:
        finished = _unknown(call, error.message)
    except ToolFailed as error:
        failed = e.ToolFinished(call.call.id, "error", error.message, error.info)
        finished = await after_failure(work, spec, call, failed, certain=error.info.retryable)
    except InvalidRequest as error:
        finished = _raised(call, spec, error)  # the model's own mistake is the model's to mend
    except PerdureError as error:
        finished = await after_failure(work, spec, call, _raised(call, spec, error), certain=False)
    except Exception as error:  # noqa: BLE001  # a tool's own fault must not end the session
        finished = await after_failure(work, spec, call, _crashed(call, spec, error), certain=False)
    else:
        finished = await _finished(work, call, output)
        finished = await after_failure(work, spec, call, finished, certain=False)
    if finished is not None:
        await _append(work, tool, call, finished)


async def _interrupted(work: Work, tool: Tool, call: CallState) -> None:
    """Write down a call that a person cut short; the end of the turn answers for the unknown."""
    if call.effect is Effect.ONCE:
        work.journal.append(_unknown(call, "Interrupted by a person while it ran."))
        return
    assert work.state.turn is not None
    started = work.state.turn.calls[call.call.id]
    if started.snapshot and tool.spec.mutates:
        await work.place.back_to(started.snapshot, call.call.id)
    text = cancelled_text(started, "Interrupted by the user")
    work.journal.append(e.ToolFinished(call.call.id, "cancelled", text))


async def _append(work: Work, tool: Tool, call: CallState, finished: e.ToolFinished) -> None:
    """Append how the call ended together with the workspace it left behind."""
    snapshots: tuple[e.EnvironmentSnapshotted, ...] = ()
    if tool.spec.mutates and tool.spec.environment:
        snapshots = await work.place.snapshot(call.call.id)
    said = await said_with(work, call.call.id) if finished.status == "unknown" else ""
    work.journal.append(finished, *snapshots)
    if finished.status == "unknown":
        ask_what_happened(work, call, said)


async def _finished(work: Work, call: CallState, output: ToolOutput) -> e.ToolFinished:
    full = await work.journal.keep(output.full) if output.full is not None else ""
    return e.ToolFinished(
        call.call.id,
        "error" if output.error else "ok",
        output.text,
        output.error,
        full,
        dict(output.meta),
    )


def _timed_out(call: CallState, spec: ToolSpec) -> e.ToolFinished:
    text = f"No answer within {spec.timeout_s:g} s."
    if call.effect is Effect.ONCE:
        return _unknown(call, text)
    info = error_info("E-TOOL-TIMEOUT", "tool", text, subject=spec.name, retryable=True)
    return e.ToolFinished(call.call.id, "error", text, info)


def _raised(call: CallState, spec: ToolSpec, error: PerdureError) -> e.ToolFinished:
    info = error_info(
        error.code,
        "tool",
        error.message,
        subject=spec.name,
        hint=error.hint,
        retryable=error.retryable,
        retry_after_s=getattr(error, "retry_after_s", None),
    )
    return e.ToolFinished(call.call.id, "error", f"{error.code}: {error.message}", info)


def _crashed(call: CallState, spec: ToolSpec, error: Exception) -> e.ToolFinished:
    """A tool broke its contract by raising something foreign: what it did nobody knows."""
    text = f"The tool failed in an unforeseen way: {type(error).__name__}: {error}"
    if call.effect is Effect.ONCE:
        return _unknown(call, text)
    info = error_info("E-TOOL-CRASHED", "tool", text, subject=spec.name)
    return e.ToolFinished(call.call.id, "error", text, info)


def _unknown(call: CallState, why: str) -> e.ToolFinished:
    info = error_info("E-TOOL-UNKNOWN", "tool", why, subject=call.call.tool)
    return e.ToolFinished(call.call.id, "unknown", "", info)


def ask_what_happened(work: Work, call: CallState, said: str) -> None:
    """Ask a person what became of a call whose outcome nobody knows, or that failed for good."""
    if is_held(call):
        work.journal.append(failed_for_good(work, call, call.failures, call.reason, said))
        return
    question = (
        f"We do not know whether {call.call.tool}({call.call.arguments}) happened: it left, "
        "and no result came back. It will not be called again by itself."
    )
    work.journal.append(
        e.ActionRequested(
            f"a{work.state.next_action}", "resolve", call.call.id, question, call.digest, said=said
        )
    )


def _refused(call: CallState, code: str, text: str) -> e.ToolFinished:
    info: ErrorInfo = error_info(code, "tool", text, subject=call.call.tool)
    return e.ToolFinished(call.call.id, "error", text, info)
