"""A function in a thread of its own, with an honest answer when its caller is cancelled.

A thread cannot be killed. So a cancelled caller waits for it a little: what came back in that
time is the outcome, however late; what did not come back is unknown, and is told when it does.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import NamedTuple

from perdure.ports.tool import OutcomeUnknown


class Outcome(NamedTuple):
    """How a function ended: with a value, or with an error."""

    value: object = None
    error: BaseException | None = None


async def run(
    function: Callable[[], object], *, grace_s: float, late: Callable[[Outcome], None]
) -> Outcome:
    """Run `function` in a new daemon thread and return its outcome.

    When the awaiting task is cancelled, wait `grace_s` for the thread. An outcome in that time is
    returned and the cancellation is not raised; otherwise `OutcomeUnknown` is raised, and `late`
    is called in the event loop if the thread ends while there still is one.
    """
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    context = contextvars.copy_context()
    # One thread a call, and a daemon: a stuck function takes no slot of a pool, nor blocks an exit.
    threading.Thread(
        target=_body, args=(function, context, done), daemon=True, name="perdure-tool"
    ).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        return await _grace(done, grace_s, late)


async def _grace(
    done: "asyncio.Future[Outcome]", grace_s: float, late: Callable[[Outcome], None]
) -> Outcome:
    with contextlib.suppress(asyncio.CancelledError):  # cancelled again: wait no longer
        await asyncio.wait({done}, timeout=grace_s)
    if done.done():
        return done.result()
    done.add_done_callback(lambda ended: late(ended.result()))
    raise OutcomeUnknown(
        "The call was cancelled and its function has not come back: it may still be running."
    )


def _body(
    function: Callable[[], object],
    context: contextvars.Context,
    done: "asyncio.Future[Outcome]",
) -> None:
    try:
        outcome = Outcome(context.run(function))
    except BaseException as error:  # noqa: BLE001 - carried over to the caller, whatever it is
        outcome = Outcome(error=error)
    with contextlib.suppress(RuntimeError):  # the loop is gone, and with it whoever would hear it
        done.get_loop().call_soon_threadsafe(done.set_result, outcome)
