"""One at a time: requests that name the same thing wait for each other in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class OneAtATime:
    """Locks by name. A name is remembered as long as somebody holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._asking: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Wait until nobody else holds `name`, and hold it. "" is held by nobody."""
        if not name:
            yield
            return
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._asking[name] = self._asking.get(name, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._asking[name] -= 1
            if not self._asking[name]:
                del self._asking[name], self._locks[name]
