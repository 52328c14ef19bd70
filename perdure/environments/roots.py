"""A directory of one's own for each process of a store that many nodes share.

Such a store gives a session to another node when its owner has been silent for too long, and the
owner may only be slow: what it runs must not share files with what its heir runs. The kernel gives
a lock back when its process dies, however it dies.
"""

import fcntl
import os
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from perdure.environments.homes import session_folder


class OwnRoot:
    """The first directory `node-N` below `root` that no living process has; ours until `close`."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in count(1):
            self.path = root / f"node-{number}"
            self.path.mkdir(exist_ok=True, mode=0o700)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            self._fd = os.open(self.path, flags)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
            else:
                return

    def close(self) -> None:
        """Let the next process have it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def homes_of(root: Path, below: str, session: str) -> list[Path]:
    """Return every directory of a session on this machine: below the root itself, and below those
    of all processes.
    """
    folders = (session_folder(place / below, session) for place in (root, *root.glob("node-*")))
    return [folder for folder in folders if folder.is_dir()]
