"""Telling the other nodes at once that something has changed, and hearing it from them.

Only a hint, sent after the commit and on a connection of its own: a NOTIFY inside a transaction
would make all commits of the database wait for each other. Whoever misses it looks by itself after
a moment; so where LISTEN is not to be had nothing is lost but that moment.
"""

import threading
from collections.abc import Callable
from typing import Final

import psycopg

from perdure.stores.postgres.link import Connection, Link

_GAP_S: Final = 0.01
_LISTEN_S: Final = 2.0
_RETRY_S: Final = 1.0


class Bell:
    """Two threads: one rings, one hears. `heard` is called by the thread that hears."""

    def __init__(self, ringing: Link, hearing: Link, heard: Callable[[], None]) -> None:
        self._ringing = ringing
        self._hearing = hearing
        self._heard = heard
        self._channel = f"perdure_{ringing.address.schema}"
        self._due = threading.Event()
        self._stop = threading.Event()
        self._own = 0
        self._threads = [
            threading.Thread(target=self._ring_on, name="perdure-bell", daemon=True),
            threading.Thread(target=self._hear_on, name="perdure-ear", daemon=True),
        ]

    def start(self) -> None:
        """Ring and hear from now on."""
        for thread in self._threads:
            thread.start()

    def ring(self) -> None:
        """Tell the others soon. Many calls within a moment are one. By any thread."""
        self._due.set()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._due.set()
        self._hearing.abort()
        for thread in self._threads:
            thread.join()

    def kill(self) -> None:
        """End without waiting."""
        self._stop.set()
        self._due.set()
        self._hearing.abort()
        self._ringing.abort()

    def _ring_on(self) -> None:
        while not self._stop.is_set():
            self._due.wait()
            self._due.clear()
            if self._stop.is_set():
                break
            try:
                self._ringing.use(self._notify)
            except psycopg.Error:
                self._ringing.drop()  # they look by themselves
            self._stop.wait(_GAP_S)
        self._ringing.end()

    def _notify(self, connection: Connection) -> None:
        self._own = connection.info.backend_pid
        connection.execute("SELECT pg_notify(%s, '')", (self._channel,))

    def _hear_on(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen(self._hearing.connect())
            except psycopg.Error:
                self._hearing.drop()
                self._stop.wait(_RETRY_S)
        self._hearing.end()

    def _listen(self, connection: Connection) -> None:
        from psycopg import sql

        listen = sql.SQL("LISTEN {}").format(sql.Identifier(self._channel))
        connection.execute(listen)
        self._heard()  # what was said before we listened
        while not self._stop.is_set():
            for note in connection.notifies(timeout=_LISTEN_S):
                if note.pid != self._own:
                    self._heard()
                if self._stop.is_set():
                    return
