"""The one writer of a node: all batches that wait become one statement and one commit.

A connection that breaks leaves a commit in doubt. Each group leaves a number in the same
transaction, so after reconnecting one look tells whether it landed; then it is either answered or
done again. Nobody hears of a database that is away for a while: they wait.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import psycopg

from perdure.core.errors import PerdureError
from perdure.ports.store import Batch
from perdure.stores import refusals
from perdure.stores.faults import Faults
from perdure.stores.postgres import appends, failures
from perdure.stores.postgres.appends import Run
from perdure.stores.postgres.lease import Lease
from perdure.stores.postgres.link import Link
from perdure.stores.postgres.statements import Statements
from perdure.stores.postgres.tables import Tables
from perdure.stores.writes import Append, Write

T = TypeVar("T")


class Writer:
    """Commits groups. Called by one lane only. `ring` is called after each commit."""

    def __init__(
        self, link: Link, sql: Statements, lease: Lease, faults: Faults, ring: Callable[[], None]
    ) -> None:
        self._link = link
        self._sql = sql
        self._lease = lease
        self._faults = faults
        self._ring = ring
        self._version = 0
        self._left_in_doubt = False
        self.dead = False  # set by another thread: from now on nothing more may land

    def work(self, jobs: list[Write]) -> None:
        """Fill in the outcome of every job."""
        for batches, group in groupby(jobs, lambda job: isinstance(job, Append)):
            if batches:
                self._append([job for job in group if isinstance(job, Append)])
            else:
                self._together(list(group))

    def end(self) -> None:
        """Close the connection."""
        self.dead = True
        self._link.end()

    # -- batches

    def _append(self, jobs: list[Append]) -> None:
        for wave in appends.waves(self._dense(jobs)):
            self._wave(wave)

    def _dense(self, jobs: list[Append]) -> Iterator[Append]:
        for job in jobs:
            try:
                refusals.checked_gaps(job.batch)
            except PerdureError as error:
                job.error = error
            else:
                yield job

    def _wave(self, runs: list[Run]) -> None:
        batches = tuple(job.batch for run in runs for job in run.jobs)
        moved: set[str] | None = None
        try:
            self._faults.before_commit(batches)
            if self.dead:
                return
            moved = self._settled(
                lambda tables: appends.write(tables, runs, self._version + 1),
                lambda tables: {run.session for run in runs if _landed(tables, run)},
            )
            self._faults.after_commit(batches)
        except PerdureError as error:
            _fail([job for run in runs for job in run.jobs], error)
        except psycopg.Error as error:
            self._one_by_one(runs, error)
            return
        self._answer(runs, moved or set())

    def _one_by_one(self, runs: list[Run], error: psycopg.Error) -> None:
        """A statement failed for a reason of its own: only its batch may fail for it."""
        jobs = [job for run in runs for job in run.jobs]
        if len(jobs) == 1:
            jobs[0].error = failures.translate(error, self._link.address.shown)
            return
        for job in jobs:
            self._wave([Run(job)])

    def _answer(self, runs: Sequence[Run], moved: set[str]) -> None:
        lapsed = self._lease.is_over()
        for run in runs:
            if run.jobs[0].error is not None:
                continue
            if run.session not in moved:
                self._refuse(run)
            elif lapsed and not self._still(run.first):
                # It landed, but another node may have gone on with it: what follows is not ours.
                _fail(run.jobs, refusals.lease_lost(run.first))

    def _refuse(self, run: Run) -> None:
        if len(run.jobs) > 1:
            for job in run.jobs:
                self._wave([Run(job)])
            return
        job = run.jobs[0]
        try:
            job.error = self._asked(lambda tables: tables.refusal(job.batch))
        except PerdureError as error:
            job.error = error
        # It may have become possible in between: then whoever appends decides anew.
        job.error = job.error or refusals.stale(job.batch, job.batch.expected_seq)

    def _still(self, batch: Batch) -> bool:
        def ask(tables: Tables) -> bool:
            found = tables.find(batch.session)
            return found is not None and tables.holds(found, batch.epoch)

        try:
            return self._asked(ask)
        except (PerdureError, psycopg.Error):
            return False

    # -- everything else

    def _together(self, group: list[Write]) -> None:
        if self.dead:
            return
        try:
            self._settled(lambda tables: self._transact(tables, group), lambda _: None)
            self._faults.after_commit(())
        except PerdureError as error:
            _fail(group, error)
        except psycopg.Error as error:
            if len(group) == 1:
                group[0].error = failures.translate(error, self._link.address.shown)
                return
            for write in group:
                write.error = None
                self._together([write])

    def _transact(self, tables: Tables, group: list[Write]) -> None:
        with tables.connection.transaction():
            for write in group:
                write.error = None
                try:
                    write.outcome = write.run(tables)
                except PerdureError as error:
                    write.error = error
            tables.tell(self._version + 1)
            self._faults.before_commit(())
            if self.dead:
                raise psycopg.Rollback

    # -- commits in doubt

    def _settled(self, act: Callable[[Tables], T], landed: Callable[[Tables], T]) -> T:
        """Commit `act`, however often the connection breaks; `landed` says what it did when its
        answer was lost. Raises `Unavailable` (E-STORE-AWAY) when the database stays away.
        """
        pauses = self._link.pauses(self._link.address.outage_s)
        doubt = False
        while True:
            try:
                if self._left_in_doubt:  # by a group that was given up: its number is not ours
                    self._version = self._link.use(lambda c: self._tables(c).told())
                    self._left_in_doubt = False
                elif doubt:
                    known = self._link.use(lambda c: self._tables(c).told())
                    doubt = False
                    if known > self._version:
                        self._version = known
                        self._ring()
                        return self._link.use(lambda c: landed(self._tables(c)))
                answer = self._link.use(lambda c: act(self._tables(c)))
            except psycopg.Error as error:
                if failures.is_collision(error) and pauses.once():
                    continue
                if not self._link.is_away(error):
                    raise
                doubt = True
                if self.dead or not pauses.once():
                    self._left_in_doubt = True
                    raise failures.away(self._link.address.shown) from None
            else:
                self._version += 1
                self._ring()
                return answer

    def _asked(self, ask: Callable[[Tables], T]) -> T:
        """Look something up, where it is as new as our own commits."""
        pauses = self._link.pauses(self._link.address.outage_s)
        while True:
            try:
                return self._link.use(lambda c: ask(self._tables(c)))
            except psycopg.Error as error:
                if not self._link.is_away(error):
                    raise
                if self.dead or not pauses.once():
                    raise failures.away(self._link.address.shown) from None

    def _tables(self, connection: psycopg.Connection[tuple[object, ...]]) -> Tables:
        return Tables(connection, self._sql, self._lease.node)


def _landed(tables: Tables, run: Run) -> bool:
    return all(tables.has(job.batch) is not False for job in run.jobs)


def _fail(jobs: Sequence[Write], error: PerdureError) -> None:
    for job in jobs:
        job.error = job.error or error
