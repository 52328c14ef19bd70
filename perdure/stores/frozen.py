"""Copies that nobody else can change: what a caller does to its lists later must not matter."""

from perdure.core.journal import Record
from perdure.ports.store import Batch


def frozen(batch: Batch) -> Batch:
    """Return the batch with everything mutable in it copied."""
    records = tuple(Record(r.seq, r.type, bytes(r.data), bytes(r.hash)) for r in batch.records)
    return batch._replace(records=records, taken=tuple(batch.taken), errors=tuple(batch.errors))
