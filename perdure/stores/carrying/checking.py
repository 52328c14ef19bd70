"""Whether a backup would restore: every chain of hashes, every payload, without a store."""

from hashlib import sha256

from perdure.core.errors import CorruptJournal
from perdure.core.journal import GENESIS, check
from perdure.stores.carrying.archive import Archive
from perdure.stores.carrying.entries import Begins, Blob, Ends, Events, Summary, errors_of, row_of

_Place = tuple[str, int]


def check_archive(archive: Archive) -> Summary:
    """Read all of a backup; return what it holds. Raises `CorruptJournal` for what is wrong in it.

    A fork begins with the hash of an event of another session, so where there are forks the file is
    read a second time: for those hashes alone.
    """
    summary = Summary()
    begun: dict[str, Begins] = {}
    now: Begins | None = None
    at, end = 0, GENESIS
    for entry in archive.parts():
        summary.count(entry)
        match entry:
            case Begins():
                _check_texts(entry)
                now, at, end = entry, entry.at, entry.base or GENESIS
            case Events(records=records) if now is not None:
                for record in records:
                    check(record, end, at + 1)
                    at, end = record.seq, record.hash
            case Ends(dropped=dropped) if now is not None:
                if not dropped:
                    if (at, end) != (now.seq, now.hash):
                        raise _wrong(now.session, f"it does not end at event {now.seq}")
                    begun[now.session] = _lean(now)
                now = None
            case Blob(digest=digest, data=data) if sha256(data).hexdigest() != digest:
                raise CorruptJournal("E-BLOB-CORRUPT", f"The payload {digest} is another one.")
            case _:
                pass
    _check_forks(archive, begun)
    return summary


def _lean(entry: Begins) -> Begins:
    """Return it without what takes room: there may be a million of them."""
    return Begins(entry.session, entry.seq, entry.hash, entry.of, entry.at, entry.base)


def _check_forks(archive: Archive, begun: dict[str, Begins]) -> None:
    wanted: dict[_Place, list[Begins]] = {}
    for fork in begun.values():
        if fork.of:
            place = fork.of, fork.at
            while (origin := begun.get(place[0])) is not None and place[1] <= origin.at:
                place = origin.of, place[1]  # it lies where that one has it from
            wanted.setdefault(place, []).append(fork)
    if not wanted:
        return
    now = ""
    for entry in archive.parts():
        if isinstance(entry, Begins):
            now = entry.session
        elif isinstance(entry, Events):
            for record in entry.records:
                for fork in wanted.pop((now, record.seq), ()):
                    if fork.base != record.hash:
                        raise _wrong(fork.session, f"it is no fork of {fork.of}")
    if wanted:
        fork = next(iter(wanted.values()))[0]
        raise _wrong(fork.session, f"event {fork.at} of {fork.of} is missing")


def _check_texts(entry: Begins) -> None:
    row_of(entry)
    errors_of(entry)


def _wrong(session: str, why: str) -> CorruptJournal:
    return CorruptJournal("E-BACKUP-CORRUPT", f"{session}: {why}.", "Use another backup.")
