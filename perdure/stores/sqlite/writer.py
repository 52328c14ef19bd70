"""The one writer of a process: all writes that wait become one transaction and one fsync."""

import apsw

from perdure.core.errors import PerdureError
from perdure.ports.store import Batch
from perdure.stores.commits import Meter
from perdure.stores.faults import Faults
from perdure.stores.sqlite import failures
from perdure.stores.sqlite.jobs import Aside
from perdure.stores.sqlite.tables import Tables
from perdure.stores.writes import Append, Write


class Writer:
    """Commits groups. Called by one lane only."""

    def __init__(self, tables: Tables, faults: Faults) -> None:
        self._tables = tables
        self._faults = faults
        self._page_bytes = tables.connection.pragma("page_size")
        self.wal_bytes = 0
        self.meter = Meter()
        self.dead = False  # set by another thread: from now on nothing more may land
        tables.connection.set_wal_hook(self._note_wal)

    def work(self, jobs: list[Write]) -> None:
        """Fill in the outcome of every job."""
        for job in jobs:
            if isinstance(job, Aside):
                self._do_aside(job)
        if group := [job for job in jobs if not isinstance(job, Aside)]:
            self._commit(group)

    def end(self) -> None:
        """Close the connection."""
        self.dead = True
        self._tables.connection.close()

    def _do_aside(self, job: Aside) -> None:
        try:
            job.outcome = job.ask(self._tables)
        except apsw.Error as error:
            job.error = self._translated(error)

    def _commit(self, group: list[Write]) -> None:
        begun = self.meter.begun()
        try:
            self._prepare(group)
        except PerdureError as error:
            self._undo(group, error)
            return
        except apsw.Error as error:
            self._undo(group, self._translated(error))
            if not failures.is_outside(error):
                self._one_by_one(group, error)
            return
        if self.dead:
            self._tables.rollback()
            return
        try:
            self._tables.commit()
            self.meter.done(begun, len(_batches(group)))
            self._faults.after_commit(_batches(group))
        except PerdureError as error:
            _fail(group, error)
        except apsw.Error as error:
            self._settle(group, error)

    def _prepare(self, group: list[Write]) -> None:
        self._tables.begin()
        for write in group:
            try:
                write.outcome = write.run(self._tables)
            except PerdureError as error:
                write.error = error
        self._tables.flush()
        self._tables.check_place()
        self._faults.before_commit(_batches(group))

    def _undo(self, group: list[Write], error: PerdureError) -> None:
        self._tables.rollback()
        _fail(group, error)

    def _one_by_one(self, group: list[Write], cause: apsw.Error) -> None:
        """A statement failed for a reason of its own: only its write may fail for it."""
        if len(group) == 1:
            return
        for write in group:
            write.error = None
            self._commit([write])

    def _settle(self, group: list[Write], error: apsw.Error) -> None:
        """The commit failed: find out whether it landed all the same, and say so."""
        translated = self._translated(error)
        full = failures.is_full(error, self._tables.connection.system_errno)
        try:
            self._tables.rollback()
            landed = not full and self._landed(group)
        except apsw.Error:
            landed = False
        if not landed:
            _fail(group, translated if full else failures.in_doubt(self._tables.path))

    def _landed(self, group: list[Write]) -> bool:
        # All of a transaction is there or nothing: one witness speaks for the group.
        seen = (write.landed(self._tables) for write in group if write.error is None)
        return next((answer for answer in seen if answer is not None), False)

    def _translated(self, error: apsw.Error) -> PerdureError:
        return failures.translate(error, self._tables.connection.system_errno, self._tables.path)

    def _note_wal(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_bytes = pages * self._page_bytes
        return apsw.SQLITE_OK


def _batches(group: list[Write]) -> tuple[Batch, ...]:
    return tuple(write.batch for write in group if isinstance(write, Append))


def _fail(group: list[Write], error: PerdureError) -> None:
    for write in group:
        write.error = write.error or error
