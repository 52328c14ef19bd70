"""The one writer of a node: all batches that wait become one statement and one commit.

A connection that breaks leaves a commit in doubt. Each group leaves a number in the same
transaction, so after reconnecting one look tells whether it landed; then it is either answered or
done again. Nobody hears of a database that is away for a while: they wait.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Final, TypeVar

import psycopg

from perdure.core.errors import PerdureError
from perdure.ports.store import Batch
from perdure.stores import refusals
from perdure.stores.commits import Meter
from perdure.stores.faults import Faults
from perdure.stores.postgres import appends, failures
from perdure.stores.postgres.appends import Run
from perdure.stores.postgres.lease import Lease
from perdure.stores.postgres.link import Link
from perdure.stores.postgres.statements import Statements
from perdure.stores.postgres.tables import Tables
from perdure.stores.writes import Append, Write

T = TypeVar("T")
W = TypeVar("W", bound=Write)

# What one transaction does at the most, so that the slowest way to a database carries it in time:
# a group that is cut off for taking too long would only be done again, and cut off again.
_MOST: Final = 100
_BYTES: Final = 16_000_000


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
        self._outage_s = 0.0
        self._doubted = False  # whether the connection broke around the group in hand
        self._away_since: float | None = None
        self.meter = Meter()
        self.dead = False  # set by another thread: from now on nothing more may land

    def work(self, jobs: list[Write]) -> None:
        """Fill in the outcome of every job."""
        self._outage_s = self._link.address.outage_s
        for batches, group in groupby(jobs, lambda job: isinstance(job, Append)):
            if batches:
                appended = [job for job in group if isinstance(job, Append)]
                for some in _portions(appended, len(appended)):
                    self._append(some)
            else:
                for each in _portions(list(group), _MOST):
                    self._together(each)

    def give_up(self, after_s: float) -> bool:
        """Fail what waits, and all that comes, if the database has been away for that long. By any
        thread; returns whether it was.
        """
        since = self._away_since
        if since is None or self._link.clock.monotonic() - since < after_s:
            return False
        self._link.abort()
        return True

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
            begun = self.meter.begun()
            moved = self._settled(
                lambda tables: appends.write(tables, runs, self._version + 1),
                lambda tables: {run.session for run in runs if _landed(tables, run)},
                _size([job for run in runs for job in run.jobs]),
            )
            self.meter.done(begun, len(batches))
            self._faults.after_commit(batches)
        except PerdureError as error:
            _fail([job for run in runs for job in run.jobs], error)
        except Exception as error:  # noqa: BLE001 - the driver's for a value, or a bug: one batch's
            self._one_by_one(runs, error)
            return
        self._answer(runs, moved or set())

    def _one_by_one(self, runs: list[Run], error: Exception) -> None:
        """A statement failed for a reason of its own: only its batch may fail for it."""
        jobs = [job for run in runs for job in run.jobs]
        if len(jobs) == 1:
            jobs[0].error = self._translated(error)
            return
        for job in jobs:
            self._wave([Run(job)])

    def _answer(self, runs: Sequence[Run], moved: set[str]) -> None:
        lapsed, doubted = self._lease.is_over(), self._doubted
        for run in runs:
            if run.jobs[0].error is not None:
                continue
            if run.session not in moved:
                if not (doubted and self._is_there(run)):
                    self._refuse(run)
            elif lapsed and not self._still(run.first):
                # It landed, but another node may have gone on with it: what follows is not ours.
                _fail(run.jobs, refusals.lease_lost(run.first))

    def _is_there(self, run: Run) -> bool:
        """Whether the server had it before we asked anew, and did it after all."""
        try:
            return self._asked(lambda tables: _is_there(tables, run))
        except (PerdureError, psycopg.Error):
            return False

    def _refuse(self, run: Run) -> None:
        if len(run.jobs) > 1:
            for job in run.jobs:
                self._wave([Run(job)])
            return
        job = run.jobs[0]
        try:
            job.error = self._asked(lambda tables: tables.refusal(job.batch))
        except Exception as error:  # noqa: BLE001 - as above
            job.error = self._translated(error)
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
            begun = self.meter.begun()
            work = partial(self._transact, group=group)
            self._settled(work, lambda _: None, _size(group))
            self.meter.done(begun, 0)
            self._faults.after_commit(())
        except PerdureError as error:
            _fail(group, error)
        except Exception as error:  # noqa: BLE001 - as for batches
            if len(group) == 1:
                group[0].error = self._translated(error)
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

    def _settled(self, act: Callable[[Tables], T], landed: Callable[[Tables], T], size: int) -> T:
        """Commit `act`, however often the connection breaks; `landed` says what it did when its
        answer was lost. Raises `Unavailable` (E-STORE-AWAY) when the database stays away.
        """
        pauses = self._link.pauses(self._outage_s)
        doubt = self._doubted = False
        while True:
            if self._link.has_ended:
                raise failures.away(self._link.address.shown)
            try:
                if self._left_in_doubt:  # by a group that was given up: its number is not ours
                    self._version = self._link.use(lambda c: self._tables(c).told())
                    self._left_in_doubt = False
                elif doubt:
                    known = self._link.use(lambda c: self._tables(c).told())
                    doubt = False
                    if known > self._version:
                        self._version = known
                        self._away_since = None
                        self._ring()
                        return self._link.use(lambda c: landed(self._tables(c)))
                answer = self._link.use(lambda c: act(self._tables(c)), size=size)
            except psycopg.Error as error:
                if failures.is_collision(error) and pauses.once():
                    continue
                if not self._link.is_away(error):
                    raise
                doubt = self._doubted = True
                self._away_since = self._away_since or self._link.clock.monotonic()
                if self.dead or not pauses.once():
                    self._left_in_doubt = True
                    self._outage_s = 0.0  # who waits behind these has waited as long
                    raise failures.away(self._link.address.shown) from None
            else:
                self._version += 1
                self._away_since = None
                self._ring()
                return answer

    def _asked(self, ask: Callable[[Tables], T]) -> T:
        """Look something up, where it is as new as our own commits."""
        pauses = self._link.pauses(self._outage_s)
        while True:
            try:
                return self._link.use(lambda c: ask(self._tables(c)))
            except psycopg.Error as error:
                if not self._link.is_away(error):
                    raise
                if self.dead or not pauses.once():
                    raise failures.away(self._link.address.shown) from None

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, psycopg.Error):
            return failures.translate(error, self._link.address.shown)
        return error

    def _tables(self, connection: psycopg.Connection[tuple[object, ...]]) -> Tables:
        return Tables(connection, self._sql, self._lease.node)


def _portions(jobs: list[W], most: int) -> Iterator[list[W]]:
    """Divide jobs, in order, into groups of at most so many, and of not too many bytes."""
    portion: list[W] = []
    size = 0
    for job in jobs:
        if portion and (len(portion) == most or size + job.size > _BYTES):
            yield portion
            portion, size = [], 0
        portion.append(job)
        size += job.size
    yield portion


def _size(jobs: Iterable[Write]) -> int:
    return sum(job.size for job in jobs)


def _landed(tables: Tables, run: Run) -> bool:
    """Whether it did, when its group did: what was refused is not in the journal."""
    there = [tables.has(job.batch) for job in run.jobs]
    if there == [None] * len(there):  # nothing but rows: who may write them still, wrote them
        return tables.refusal(run.first) is None
    return False not in there


def _is_there(tables: Tables, run: Run) -> bool:
    found = tables.find(run.session)
    if found is None or not tables.holds(found, run.first.epoch):
        return False
    there = [tables.has(job.batch) for job in run.jobs]
    return True in there and False not in there


def _fail(jobs: Sequence[Write], error: PerdureError) -> None:
    for job in jobs:
        job.error = job.error or error
