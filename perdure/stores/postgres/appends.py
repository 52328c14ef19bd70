"""Batches: all that wait, of all sessions, are one statement, and that statement is the commit."""

from collections.abc import Iterable, Sequence
from typing import Final

from perdure.core.codec import encode
from perdure.core.journal import Record
from perdure.ports.store import Batch, ErrorRow, SessionRow
from perdure.stores.keys import packed
from perdure.stores.postgres.tables import Tables
from perdure.stores.writes import Append

BUSY: Final = "running"


class Run:
    """Batches of one session that follow each other, as one."""

    def __init__(self, job: Append) -> None:
        self.jobs = [job]
        self.first = job.batch
        self.seq = _end(job.batch)
        self.row = job.batch.row

    def take(self, job: Append) -> bool:
        """Add the batch, if it goes on where the run ends."""
        batch = job.batch
        if (batch.epoch, batch.expected_seq) != (self.first.epoch, self.seq):
            return False
        self.jobs.append(job)
        self.seq = _end(batch)
        self.row = batch.row or self.row
        return True

    @property
    def session(self) -> str:
        """Whose batches these are."""
        return self.first.session

    @property
    def records(self) -> list[Record]:
        """All records."""
        return [record for job in self.jobs for record in job.batch.records]

    @property
    def errors(self) -> list[ErrorRow]:
        """All errors for the index."""
        return [error for job in self.jobs for error in job.batch.errors]

    @property
    def taken(self) -> list[bytes]:
        """The keys of all letters that leave the inbox."""
        return [packed(key) for job in self.jobs for key in job.batch.taken]


def waves(jobs: Iterable[Append]) -> list[list[Run]]:
    """Arrange batches so that each wave has one run per session; waves follow each other."""
    found: list[dict[str, Run]] = [{}]
    for job in jobs:
        run = found[-1].get(job.batch.session)
        if run is not None and run.take(job):
            continue
        if run is not None:
            found.append({})
        found[-1][job.batch.session] = Run(job)
    return [list(wave.values()) for wave in found if wave]


def write(tables: Tables, runs: Sequence[Run], version: int) -> set[str]:
    """Append a wave, which is committed on return; return the sessions that were not refused."""
    if not any(run.errors for run in runs):
        return _append(tables, runs, version)
    with tables.connection.transaction():
        moved = _append(tables, runs, version)
        for run in runs:
            if run.session in moved:
                for error in run.errors:
                    tables.count(run.session, error)
    return moved


def _append(tables: Tables, runs: Sequence[Run], version: int) -> set[str]:
    events = [(run.session, record) for run in runs for record in run.records]
    taken = [(run.session, key) for run in runs for key in run.taken]
    rows = [run.row or SessionRow(id="") for run in runs]
    values = {
        "node": tables.node,
        "version": version,
        "sessions": [run.session for run in runs],
        "epochs": [run.first.epoch for run in runs],
        "expected": [run.first.expected_seq for run in runs],
        "seqs": [run.seq for run in runs],
        "hashes": [_hash(run) for run in runs],
        "rowed": [run.row is not None for run in runs],
        "rows": [encode(run.row) if run.row else b"" for run in runs],
        "busy": [is_busy(row) for row in rows],
        "children": [bool(row.parent) for row in rows],
        "wakes": [row.wake_at_us for row in rows],
        "updated": [row.updated_at_us for row in rows],
        "in_session": [session for session, _ in events],
        "in_seq": [record.seq for _, record in events],
        "in_type": [record.type for _, record in events],
        "in_data": [record.data for _, record in events],
        "in_hash": [record.hash for _, record in events],
        "of_session": [session for session, _ in taken],
        "of_key": [key for _, key in taken],
    }
    rows_moved = tables.connection.execute(tables.sql.append.encode(), values)
    return {row[0] for row in rows_moved}


def is_busy(row: SessionRow) -> bool:
    """Whether somebody should be at work on the session: a subagent is driven by its parent."""
    return row.status == BUSY and not row.parent


def _hash(run: Run) -> bytes:
    records = run.records
    return records[-1].hash if records else b""


def _end(batch: Batch) -> int:
    return batch.records[-1].seq if batch.records else batch.expected_seq
