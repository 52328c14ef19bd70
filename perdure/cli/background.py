"""Starting a worker that nobody looks on at: for verbs that decide something and leave."""

from pathlib import Path

import msgspec

from perdure.cli.attend import Worker
from perdure.cli.elsewhere import engine_of
from perdure.cli.opened import Opened
from perdure.cli.places import Ref
from perdure.cli.resume import ref_of
from perdure.cli.run import order_of
from perdure.core.state import State
from perdure.doors.native.bodies import Create


async def drive(place: Opened, state: State, *, adopt: bool = False) -> str:
    """Start a worker for the session and leave it alone; return the session that it drives.

    A subagent is driven where the session on top of it is. Raises `NotFound` (E-AGENT-MISSING)
    where the agent's code is not known.
    """
    top, ref = await code_of(place, state)
    if place.project.remote:
        engine = await engine_of(place.runtime)
        if adopt:
            await engine.open(Create(ref.agent, top.id, adopt=True))
        engine.wake(top.id)
        return top.id
    place.places.prepare()
    order = order_of(ref, place.project, (), create=False, adopt=adopt)
    order = msgspec.structs.replace(order, after=top.seq)
    worker = Worker(order, Path(ref.directory), place.places.log(top.id))
    worker.close(0.0)
    return top.id


async def code_of(place: Opened, state: State) -> tuple[State, Ref]:
    """Return the session on top of this one, and how its agent's code is found.

    Raises `NotFound` (E-AGENT-MISSING).
    """
    while state.parent:
        state = await (await place.runtime.session(state.parent)).state()
    return state, ref_of(place, state)
