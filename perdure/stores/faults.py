"""Where a test can let a store fail: before a commit, and between a commit and its answer."""

from collections.abc import Sequence

from perdure.ports.store import Batch


class Faults:
    """Called once per commit with the batches it carries (none, when it has only other writes).

    A hook may raise `Unavailable` or `StoreFull`: before the commit nothing is applied; after it
    everything is, but nobody learns so. It may also call `kill()` of the store: then the process
    died at this very point. This class does nothing.
    """

    def before_commit(self, batches: Sequence[Batch]) -> None:
        """Everything is prepared; nothing is durable."""

    def after_commit(self, batches: Sequence[Batch]) -> None:
        """Everything is durable; nothing has been answered."""
