"""Copies that nobody else can change: what a caller does to its lists later must not matter."""

from perdure.core.journal import Record
from perdure.ports.store import Batch


def frozen(batch: Batch) -> Batch:
    """Return the batch with everything mutable in it copied."""
    records = tuple(map(_frozen, batch.records))
    return batch._replace(records=records, taken=tuple(batch.taken), errors=tuple(batch.errors))


def _frozen(record: Record) -> Record:
    if type(record.data) is bytes and type(record.hash) is bytes:
        return record  # a named tuple of what cannot change
    return Record(record.seq, record.type, bytes(record.data), bytes(record.hash))
