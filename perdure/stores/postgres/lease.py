"""A node's word that it is alive, renewed by a thread of its own: a busy event loop, or a tool that
takes an hour, must not look like a death. Only the database's clock counts.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import NamedTuple

import psycopg

from perdure.stores.postgres.link import Connection, Link
from perdure.stores.postgres.statements import Statements


class Who(NamedTuple):
    """What a node says of itself."""

    node: str
    version: str
    host: str
    schema: int


class Lease:
    """`check` is called, by the thread, after a lease that ran out was renewed: others may have
    taken sessions meanwhile."""

    def __init__(
        self, link: Link, sql: Statements, who: Who, check: Callable[[Connection], None]
    ) -> None:
        self.node = who.node
        self.address = ""
        self.draining = False
        self._link = link
        self._sql = sql
        self._who = who
        self._clock = link.clock
        self._check = check
        self._lease_s = link.address.lease_s
        self._until = 0.0
        self._checks = 0
        self._stop = threading.Event()
        self._now = threading.Event()
        self._killed = False
        self._thread: threading.Thread | None = None

    def beat(self) -> None:
        """Renew. Raises `psycopg.Error`."""
        self._link.use(self._beat)

    def is_over(self) -> bool:
        """Whether, as far as we know, the lease has run out; by our monotonic clock, which began
        to count before the database's did.
        """
        return self._clock.monotonic() > self._until

    def start(self) -> None:
        """Renew from now on, in a thread."""
        # A daemon: a process that ends without close() has died, and must not hang instead.
        self._thread = threading.Thread(target=self._live, name="perdure-lease", daemon=True)
        self._thread.start()

    def renew_now(self) -> None:
        """Have the thread renew at once: what is said has changed."""
        self._now.set()

    def stop(self) -> None:
        """End the thread, and say that this node is gone."""
        self._end_thread()
        with contextlib.suppress(psycopg.Error):  # the lease runs out by itself
            self._link.use(lambda c: c.execute(self._sql.leave.encode(), {"node": self.node}))
        self._link.end()

    def kill(self) -> None:
        """End as a killed process does: without a word."""
        self._killed = True
        self._stop.set()
        self._now.set()
        self._link.abort()
        if self._thread is None:
            self._link.drop()

    def _end_thread(self) -> None:
        self._stop.set()
        self._now.set()
        if self._thread is not None:
            self._thread.join()

    def _live(self) -> None:
        self._run()
        if self._killed:
            self._link.drop()

    def _run(self) -> None:
        last = self._clock.monotonic()
        while not self._stop.is_set():
            self._now.wait(min(self._lease_s / 3, 0.5))
            if not self._now.is_set() and self._clock.monotonic() - last < self._lease_s / 3:
                continue
            self._now.clear()
            if self._stop.is_set():
                return
            try:
                self.beat()
            except psycopg.Error:
                self._link.drop()  # and again in a moment
            else:
                last = self._clock.monotonic()

    def _beat(self, connection: Connection) -> None:
        before = self._clock.monotonic()
        said = {
            "node": self.node,
            "address": self.address,
            "version": self._who.version,
            "host": self._who.host,
            "schema": self._who.schema,
            "lease_s": self._lease_s,
        }
        with connection.transaction():
            old = connection.execute(self._sql.lapsed.encode(), {"node": self.node}).fetchone()
            row = connection.execute(self._sql.beat.encode(), said).fetchone()
        assert row is not None
        # Who was forgotten has slept for a day, and his clock perhaps with him.
        lapsed = bool(old[0]) if old is not None else self._until > 0
        self.draining = self.draining or bool(row[0])
        # Whoever takes a session holds our line while he does, so after this word we see it. Twice
        # more all the same: it costs little.
        self._checks = 3 if lapsed or (self._until and before > self._until) else self._checks
        if self._checks:
            self._checks -= 1
            self._check(connection)
        self._until = before + self._lease_s
