"""What is sent and answered about a store as it is."""

import msgspec

from perdure.core.inbox import Post
from perdure.ports.store import ErrorRow, SessionRow


class RawRecord(msgspec.Struct, frozen=True):
    """An event as it is stored: `data` is what the chain covers, `hash` is hexadecimal."""

    seq: int
    type: str
    hash: str
    data: msgspec.Raw


class RawRecords(msgspec.Struct, frozen=True):
    """Records in order; fewer than asked for only at the end."""

    records: list[RawRecord]


class RawRow(msgspec.Struct, frozen=True):
    """A session's row, or none."""

    row: SessionRow | None


class RawRows(msgspec.Struct, frozen=True):
    """All sessions' rows, last updated first."""

    rows: list[SessionRow]


class RawLetter(msgspec.Struct, frozen=True):
    """A letter that waits: `body` is JSON."""

    key: str
    body: msgspec.Raw


class RawLetters(msgspec.Struct, frozen=True):
    """The letters that wait, in the order they came."""

    letters: list[RawLetter]


class PostLetter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A letter to a session. The same `key` posts it once."""

    key: str
    post: Post


class RawErrors(msgspec.Struct, frozen=True):
    """The index of errors."""

    errors: list[ErrorRow]


class Mailboxes(msgspec.Struct, frozen=True):
    """Sessions whose inbox is not empty."""

    sessions: list[str]
