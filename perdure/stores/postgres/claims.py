"""Which sessions this node believes it owns, and what it has learned to the contrary."""

import threading
from collections.abc import Iterable, Mapping

from perdure.ports.store import Claim
from perdure.stores.postgres.tables import Tables
from perdure.stores.writes import Tables as AnyTables, Write


class Claims:
    """Told by the event loop what was claimed, by the lease's thread what is left of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epochs: dict[str, int] = {}
        self._lost: dict[str, int] = {}  # the highest epoch known to be over

    def note(self, claim: Claim) -> None:
        """It was claimed."""
        with self._lock:
            self._epochs[claim.session] = claim.epoch

    def forget(self, claim: Claim) -> None:
        """It was released."""
        with self._lock:
            if self._epochs.get(claim.session) == claim.epoch:
                del self._epochs[claim.session]
            self._lost.pop(claim.session, None)

    def lose(self, session: str, epoch: int) -> None:
        """That epoch is over."""
        with self._lock:
            self._lost[session] = max(epoch, self._lost.get(session, 0))

    def holds(self, claim: Claim) -> bool:
        """Whether nothing is known against it."""
        with self._lock:
            return self._lost.get(claim.session, 0) < claim.epoch

    def known(self) -> dict[str, int]:
        """Return what we believe we own, with its epochs."""
        with self._lock:
            return dict(self._epochs)

    def compare(self, known: Mapping[str, int], owned: Iterable[tuple[str, int]]) -> None:
        """Learn what the database says that we own; it was asked after what we knew then."""
        theirs = dict(owned)
        with self._lock:
            for session, epoch in known.items():
                if theirs.get(session, 0) < epoch:
                    self._lost[session] = max(epoch, self._lost.get(session, 0))


class DrainNode(Write):
    """Tell a node to drain; whether there is one of that name."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def run(self, tables: AnyTables) -> object:
        """See `Write.run`."""
        assert isinstance(tables, Tables)
        return tables.one(tables.sql.drain_node, {"node": self._node}) is not None
