"""What is done about a tool call that failed: it is tried again, or somebody hears of it.

| effect                      | may be tried again when                                        |
|-----------------------------|----------------------------------------------------------------|
| read, idempotent, contained | the error says that it can pass (`retryable`)                  |
| once                        | the tool itself *raised* such an error: nothing happened then  |

A call whose outcome is unknown has not failed, and never comes here. What a contained call did is
taken back before its failure is written down, so that whatever runs meanwhile builds on whole
files, and keeps them.
"""

from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Effect, RetryPolicy, ToolSpec
from perdure.core.errors import ErrorInfo
from perdure.core.state import CallState, Phase
from perdure.engine import retry
from perdure.engine.saying import said_with
from perdure.engine.work import Work

CHOICES: Final = (
    "run it again (rerun), let the model read the error (failed), or say what its result is (done)?"
)
QUOTED: Final = 500  # characters of an error that a question repeats


async def after_failure(
    work: Work, spec: ToolSpec, call: CallState, failed: e.ToolFinished, *, certain: bool
) -> e.ToolFinished | None:
    """Write down a failure that is not the end of the call; return what is its end.

    `certain`: the tool itself says that what it failed with had no effect. Results that are no
    failures come back as they are.
    """
    error = failed.error
    if error is None or failed.status != "error":
        return failed
    wait_s = None
    if certain or call.effect is not Effect.ONCE:
        wait_s = _wait_s(work, spec, call, error)
    if wait_s is not None:
        await _take_back(work, spec, call)
        due_us = work.kit.clock.now_us() + int(wait_s * 1_000_000)
        meta = {**failed.meta, "attempt": call.failures + 2, "of": _policy(work, spec).attempts}
        work.journal.append(replace(failed, status="retry", retry_at_us=due_us, meta=meta))
        return None
    if spec.on_error == "ask":
        said = await said_with(work, call.call.id)
        await _take_back(work, spec, call)
        held = replace(failed, status="held")
        work.journal.append(
            held, failed_for_good(work, call, call.failures + 1, _said_of(error), said)
        )
        return None
    return replace(failed, fatal=spec.on_error == "fail")


def _wait_s(work: Work, spec: ToolSpec, call: CallState, error: ErrorInfo) -> float | None:
    """Return how long to wait before the next attempt; None: there is none."""
    return retry.delay_s(_policy(work, spec), call.failures + 1, error, work.kit.ids.random())


def _policy(work: Work, spec: ToolSpec) -> RetryPolicy:
    return spec.retry or work.state.spec.tool_retry or RetryPolicy(attempts=1)


async def _take_back(work: Work, spec: ToolSpec, call: CallState) -> None:
    """Undo what a call did to the workspace before it failed."""
    assert work.state.turn is not None
    started = work.state.turn.calls[call.call.id]
    if started.snapshot and spec.mutates and call.effect is not Effect.ONCE:
        await work.place.back_to(started.snapshot, call.call.id)


def failed_for_good(
    work: Work, call: CallState, failures: int, error: str, said: str
) -> e.ActionRequested:
    """Return the question what is to be done about a call that failed for good."""
    often = f" {failures} times" if failures > 1 else ""
    text = f"{call.call.tool}({call.call.arguments}) FAILED{often}: {error} — {CHOICES}"
    action_id = f"a{work.state.next_action}"
    return e.ActionRequested(action_id, "resolve", call.call.id, text, call.digest, said=said)


def is_held(call: CallState) -> bool:
    """Whether it is known that the call failed, and a person decides what comes of that."""
    return call.phase is Phase.UNKNOWN and bool(call.failures)


def _said_of(error: ErrorInfo) -> str:
    return f"{error.code}: {error.message}"[:QUOTED]
