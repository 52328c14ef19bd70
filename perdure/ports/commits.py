"""The port for stores that tell how long their commits take."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from perdure.ports.clock import Clock

Committed = Callable[[float, int], object]
"""Called after a commit with the seconds from its beginning until it was durable, and with the
number of batches that it carried. It is called by the thread that writes, so it must be quick and
must wait for nothing.
"""


@runtime_checkable
class Commits(Protocol):
    """A store whose commits can be watched."""

    def tell_commits(self, told: Committed, clock: Clock) -> None:
        """Call `told` after each commit that begins from now on. `clock` measures them."""
        ...
