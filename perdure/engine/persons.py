"""In which sessions a person had a part: they began it, said something, or decided something."""

from typing import Any

import msgspec

from perdure.core import journal
from perdure.core.codec import decode
from perdure.core.journal import Record
from perdure.ports.store import SessionRow, Store

_PAGE = 500
_SIGN = b'by":"'


class Part(msgspec.Struct, frozen=True):
    """A session that a person had a part in: how many of its events and waiting letters name them,
    and the first such event (0: only letters do).
    """

    row: SessionRow
    times: int
    first: int


async def parts_of(store: Store, person: str) -> list[Part]:
    """Return the sessions in whose events, or in whose inbox, `person` is the one it was done by,
    those of its origins included where it is a fork; last updated first. Reads every journal.
    """
    found = []
    for row in await store.sessions():
        part = await _part(store, row, person)
        if part.times:
            found.append(part)
    return found


async def _part(store: Store, row: SessionRow, person: str) -> Part:
    seq, times, first = 0, 0, 0
    while page := await store.read(row.id, seq, _PAGE):
        for record in page:
            if await _names(store, record, person):
                times += 1
                first = first or record.seq
        seq = page[-1].seq
    for letter in await store.inbox(row.id):
        times += person == _by(letter.body)
    return Part(row, times, first)


async def _names(store: Store, record: Record, person: str) -> bool:
    where = journal.aside(record) if b'"$blob"' in record.data else None
    blob = await store.blobs.get(where.blob) if where else None
    if _SIGN not in (record.data if blob is None else blob):
        return False  # most events are nobody's; they need not be read any further
    payload = journal.read(record, blob).payload
    return person in (getattr(payload, "by", ""), getattr(payload, "imported_by", ""))


def _by(body: bytes) -> Any:
    try:
        return decode(body, dict).get("by")
    except msgspec.DecodeError:
        return None
