"""One connection that comes back: who uses it is told only of what the server itself refused."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.types.numeric import Int8BinaryDumper, Int8Dumper

from perdure.ports.clock import Clock
from perdure.stores.postgres import failures
from perdure.stores.postgres.address import Address

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]

_CONNECT_S: Final = 5
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_SLOWEST: Final = 1_000_000  # bytes per second that a way to the database carries, at the least
_STILL_S: Final = 10.0  # how long a transaction may stand still, at most
# A server that is gone without a word is noticed in about ten seconds.
_KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives": 1,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


class Link:
    """Used by one thread; `cut` by any. `patience_s` bounds how long one use may take before
    `cut_if_stuck` takes the connection for half open.
    """

    def __init__(
        self, address: Address, role: str, clock: Clock, *, patience_s: float = 0.0
    ) -> None:
        self.address = address
        self.clock = clock
        self.role = role
        self._patience_s = patience_s or address.patience_s
        self._connection: Connection | None = None
        self._busy_since: float | None = None
        self._ended = threading.Event()

    def connect(self) -> Connection:
        """Return the connection, making it anew where it is gone. Raises `psycopg.Error`."""
        if self._connection is None or self._connection.closed:
            with self._watched():
                # Known at once, so that it can be cut while it is still being made ready.
                self._connection = _connect(self.address, self.role)
                try:
                    _make_ready(self._connection, self.address)
                except psycopg.Error:
                    self.drop()
                    raise
        return self._connection

    def use(self, work: Callable[[Connection], T], *, size: int = 0) -> T:
        """Do something with the connection, which `size` bytes go over. Raises `psycopg.Error`;
        see `is_away`.
        """
        connection = self.connect()
        with self._watched(size):
            return work(connection)

    def is_away(self, error: psycopg.Error) -> bool:
        """Whether the error says that this connection is of no use; then it is dropped."""
        if not failures.is_away(error, self._connection):
            return False
        self.drop()
        return True

    def drop(self) -> None:
        """Close the connection; the next use makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def pauses(self, seconds: float) -> "Pauses":
        """Return the pauses between tries to reach a database that is away."""
        return Pauses(seconds, self.clock, self._ended)

    def end(self) -> None:
        """Close for good; whoever waits for the database to come back gives up."""
        self._ended.set()
        self.drop()

    @property
    def has_ended(self) -> bool:
        """Whether it was ended or aborted: it is not to come back."""
        return self._ended.is_set()

    def abort(self) -> None:
        """Die as a killed process does: the server sees a connection that is cut. By any thread."""
        self._ended.set()
        self.cut()

    def cut_if_stuck(self) -> None:
        """Cut it when the use in hand takes longer than anything real. By any thread."""
        since = self._busy_since
        if since is not None and self.clock.monotonic() - since > self._patience_s:
            self.cut()

    def cut(self) -> None:
        """Cut the connection under whoever uses it. By any thread."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        with contextlib.suppress(OSError, psycopg.Error):
            copy = socket.socket(fileno=os.dup(connection.fileno()))
            with copy:
                copy.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _watched(self, size: int = 0) -> Iterator[None]:
        # Patience begins when the bytes can be over there.
        self._busy_since = self.clock.monotonic() + size / _SLOWEST
        try:
            yield
        finally:
            self._busy_since = None


class Pauses:
    """Growing pauses, `seconds` of them in all, unless the link ends."""

    def __init__(self, seconds: float, clock: Clock, ended: threading.Event) -> None:
        self._clock = clock
        self._until = clock.monotonic() + seconds
        self._ended = ended
        self._next_s = _FIRST_PAUSE_S

    def once(self) -> bool:
        """Wait a little; False when it is time to give up."""
        left_s = self._until - self._clock.monotonic()
        if left_s <= 0 or self._ended.wait(min(self._next_s, left_s)):
            return False
        self._next_s = min(self._next_s * 2, _LONGEST_PAUSE_S)
        return True


def _connect(address: Address, role: str) -> Connection:
    options = dict(_KEEPALIVE)
    if "," in address.libpq:  # several hosts, of which one takes writes
        options["target_session_attrs"] = "read-write"
    return psycopg.connect(
        address.libpq,
        autocommit=True,
        connect_timeout=_CONNECT_S,
        application_name=f"perdure {role}"[:63],
        client_encoding="UTF8",
        **options,
    )


def _make_ready(connection: Connection, address: Address) -> None:
    # Integers of one width, so that a statement has one form and is prepared once.
    connection.adapters.register_dumper(int, Int8Dumper)
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    connection.prepare_threshold = 2
    path = sql.SQL("SET search_path = {}").format(sql.Identifier(address.schema))
    connection.execute(path)
    # A transaction of ours that stands still holds locks: on the word of the node that it asked
    # about, above all, which must be able to renew it in time.
    still = {"ms": str(int(min(_STILL_S, address.lease_s / 4) * 1000))}
    limit = "SELECT set_config('idle_in_transaction_session_timeout', %(ms)s, false)"
    connection.execute(limit, still)
    connection.execute("SET default_transaction_isolation = 'read committed'")
    # Where the server can: what waits for a lock ends when we are not there any more.
    with contextlib.suppress(errors.UndefinedObject, errors.InvalidParameterValue):
        connection.execute("SET client_connection_check_interval = '2s'")
