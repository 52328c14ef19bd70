"""A connection can be dead without anybody saying so: its other end is gone, or silent. Who waits
on it cannot leave it; this thread cuts it under him, and he finds an error that he can deal with.
"""

import threading
from collections.abc import Sequence
from typing import Final

from perdure.stores.postgres.link import Link

_LOOK_S: Final = 0.25


class Watchdog:
    """Looks after links; each says how long one use of it may take."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = links
        self._stop = threading.Event()
        # A daemon: a process that ends without close() has died, and must not hang instead.
        self._thread = threading.Thread(target=self._run, name="perdure-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for link in self._links:
                link.cut_if_stuck()
