"""Starting a worker that nobody looks on at: for verbs that decide something and leave."""

from pathlib import Path

import msgspec

from perdure.cli.attend import Worker
from perdure.cli.opened import Opened
from perdure.cli.resume import ref_of
from perdure.cli.run import order_of
from perdure.core.state import State


def drive(place: Opened, state: State) -> int:
    """Start a worker for the session and leave it alone; return its process id.

    Raises `NotFound` (E-AGENT-MISSING) where the agent's code is not known.
    """
    ref = ref_of(place, state)
    place.places.prepare()
    order = order_of(ref, place.project, (), create=False, adopt=False)
    order = msgspec.structs.replace(order, after=state.seq)
    worker = Worker(order, Path(ref.directory), place.places.log(state.id))
    worker.close(0.0)
    return worker.process.pid
