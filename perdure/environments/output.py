"""Keeping the beginning and the end of a long text, in bounded memory. Pure."""

from collections import deque


class Clip:
    """Keeps `limit` bytes of what is added: the first half as it came, the last half rolling."""

    def __init__(self, limit: int) -> None:
        self._head_max = limit // 2
        self._tail_max = limit - self._head_max
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self.total_bytes = 0

    @property
    def dropped_bytes(self) -> int:
        """How much was added and is not kept."""
        return self.total_bytes - len(self._head) - min(self._tail_bytes, self._tail_max)

    def add(self, data: bytes) -> None:
        """Take in the next piece."""
        self.total_bytes += len(data)
        room = self._head_max - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        data = data[-self._tail_max :] if self._tail_max else b""
        self._tail.append(data)
        self._tail_bytes += len(data)
        while self._tail and self._tail_bytes - len(self._tail[0]) >= self._tail_max:
            self._tail_bytes -= len(self._tail.popleft())

    def text(self) -> bytes:
        """Return what was kept; where the middle is missing, a line says how much."""
        tail = b"".join(self._tail)
        if not self.dropped_bytes:
            return bytes(self._head) + tail
        tail = tail[-self._tail_max :] if self._tail_max else b""
        note = b"\n[... %d bytes left out ...]\n" % self.dropped_bytes
        return bytes(self._head) + note + tail
