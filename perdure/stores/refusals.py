"""What every store says when it refuses: the same error, code and words, whichever engine."""

import errno
from pathlib import Path
from typing import Final

from perdure.core.errors import (
    Conflict,
    CorruptJournal,
    InvalidRequest,
    LeaseLost,
    NotFound,
    SessionBusy,
    StaleAppend,
    StoreFull,
    Unavailable,
)
from perdure.ports.store import Batch

# EFBIG: the process has a limit on the size of files; as good as a full disk, and as harmless.
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stale(batch: Batch, actual_seq: int) -> StaleAppend:
    """The journal does not end where the batch begins."""
    return StaleAppend(
        "E-APPEND-STALE",
        f"The journal of {batch.session} ends at {actual_seq}, not at {batch.expected_seq}.",
        "Read the journal again and decide anew.",
    )


def lease_lost(batch: Batch) -> LeaseLost:
    """The batch was written under an epoch that is over."""
    return LeaseLost(
        "E-LEASE-LOST",
        f"Epoch {batch.epoch} of {batch.session} is over. Nothing was written.",
        "Another process owns the session; post to its inbox instead.",
    )


def busy(session: str) -> SessionBusy:
    """Another live process owns the session."""
    return SessionBusy(
        "E-SESSION-BUSY",
        f"Another process is working on {session}.",
        "Send to the session instead: its owner will take it. Or end that process first.",
    )


def replaced(path: Path) -> Unavailable:
    """The file that is open has no name any more: a backup was put in its place, perhaps."""
    return Unavailable(
        "E-STORE-REPLACED",
        f"{path} is not the file that this process opened: it was moved or replaced meanwhile."
        " Nothing was written, because nobody would find it.",
        "End this process and start it again; whoever restores a backup ends all of them first.",
    )


def unknown(session: str) -> NotFound:
    """There is no such session, or it has no events."""
    return NotFound(
        "E-SESSION-UNKNOWN", f"There is no session {session!r}.", "perdure ls shows them all."
    )


def no_event(session: str, seq: int) -> NotFound:
    """The session has no event of that number, or there is no such session."""
    return NotFound(
        "E-EVENT-UNKNOWN", f"{session} has no event {seq}.", f"perdure show {session} --events"
    )


def exists(session: str) -> Conflict:
    """A fork cannot begin where something is."""
    return Conflict(
        "E-SESSION-EXISTS",
        f"There is a session {session} already. Nothing was changed.",
        "Choose another name.",
    )


def unfit_name(session: str) -> InvalidRequest:
    """The name cannot be stored as text."""
    return InvalidRequest(
        "E-SESSION-NAME", f"{session!r} cannot name a session.", "Use letters, digits, - and _."
    )


def reused(session: str, key: str) -> Conflict:
    """The key came before, with another body."""
    return Conflict(
        "E-KEY-REUSED",
        f"The key {key!r} was used in {session} before, for something else.",
        "Use a fresh key for a new request, and the old one only to repeat it.",
    )


def doc_changed(kind: str, name: str, expected: int, found: int) -> Conflict:
    """The document is not in the version that the writer has read."""
    what = f"is in version {found}" if found else "does not exist"
    wanted = f"version {expected} was expected" if expected else "it was to be new"
    return Conflict(
        "E-DOC-CHANGED",
        f"The {kind} {name!r} {what}; {wanted}. Nothing was written.",
        "Read it again: somebody else has changed it.",
    )


def gap(batch: Batch, due_seq: int, found_seq: int) -> CorruptJournal:
    """The batch itself skips a number. Refused: a journal with a gap cannot be read again."""
    return CorruptJournal(
        "E-JOURNAL-GAP",
        f"Event {due_seq} of {batch.session} is missing in what was to be appended;"
        f" event {found_seq} follows. Nothing was written.",
    )


def closed() -> Unavailable:
    """This connection was closed, or its process counts as dead."""
    return Unavailable("E-STORE-CLOSED", "The store is closed.", "Open it again.")


def full(where: str) -> StoreFull:
    """No room."""
    return StoreFull(
        "E-STORE-FULL",
        f"There is no room for {where}. What was acknowledged is safe; this was not written.",
        "Free some space; work goes on by itself.",
    )


def unwritable(path: Path, why: str) -> Unavailable:
    """The file or its directory cannot be written."""
    return Unavailable(
        "E-STORE-READONLY",
        f"{path} cannot be written: {why}. Nothing was changed.",
        f"Give this user write access to {path.parent} and what is in it, or use another place.",
    )


def disk_failed(path: Path, why: str) -> Unavailable:
    """The disk gave an error that is neither."""
    return Unavailable(
        "E-STORE-IO",
        f"The disk failed while {path} was used: {why}",
        "Look at the system's log for the disk; read the session again before going on.",
    )


def of_os_error(error: OSError, path: Path) -> Unavailable:
    """Return what to raise instead of what the system said."""
    why = error.strerror or str(error)
    if error.errno in NO_ROOM:
        return full(str(path))
    if error.errno == errno.EIO:
        return disk_failed(path, why)
    return unwritable(path, why)


def checked_gaps(batch: Batch) -> None:
    """Raise `CorruptJournal` unless the batch's records are dense from `expected_seq` + 1."""
    for due, record in enumerate(batch.records, batch.expected_seq + 1):
        if record.seq != due:
            raise gap(batch, due, record.seq)


def is_name(session: str) -> bool:
    """Whether a session can have this name: some text, valid Unicode, no NUL."""
    return (
        bool(session)
        and "\0" not in session
        and not any("\ud800" <= c <= "\udfff" for c in session)
    )
