"""What a writer tells of its commits, when somebody listens."""

from perdure.ports.clock import Clock
from perdure.ports.commits import Committed


class Meter:
    """Times the commits of one writer. Nothing is locked, and nothing kept."""

    def __init__(self) -> None:
        self._watched: tuple[Committed, Clock] | None = None

    def watch(self, told: Committed, clock: Clock) -> None:
        """See `Commits.tell_commits`."""
        self._watched = (told, clock)

    def begun(self) -> float | None:
        """Return when a commit begins (seconds), or None when nobody listens."""
        return self._watched[1].monotonic() if self._watched is not None else None

    def done(self, begun: float | None, batches: int) -> None:
        """Tell of a commit that is durable."""
        if self._watched is not None and begun is not None:
            told, clock = self._watched
            told(clock.monotonic() - begun, batches)
