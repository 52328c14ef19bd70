"""The writes that wait for a commit together, whichever database commits them."""

from typing import Protocol

from perdure.ports.store import Batch, Claim
from perdure.stores.offload import Job


class Tables(Protocol):
    """The tables of a database as these writes need them, inside a transaction.

    Each method does what the method of the same name of `Store` promises; the others answer what
    is there, for a writer that must find out what a broken commit left.
    """

    def append(self, batch: Batch) -> None: ...
    def claim(self, name: str) -> Claim: ...
    def fork(self, source: str, at: int, name: str) -> None: ...
    def delete_session(self, name: str) -> None: ...
    def release(self, claim: Claim) -> None: ...
    def release_all(self) -> None: ...
    def post(self, name: str, key: str, body: bytes) -> bool: ...
    def save_state(self, session: str, seq: int, data: bytes) -> None: ...
    def put_doc(self, kind: str, name: str, data: bytes, expect: int | None) -> int: ...
    def delete_doc(self, kind: str, name: str) -> None: ...
    def has(self, batch: Batch) -> bool | None: ...
    def owns(self, claim: Claim) -> bool: ...
    def is_fork(self, source: str, at: int, name: str) -> bool: ...
    def exists(self, name: str) -> bool: ...
    def has_letter(self, name: str, key: str) -> bool: ...
    def doc_version(self, kind: str, name: str) -> int: ...


class Write(Job):
    """One write. `landed` is asked when a commit failed in doubt; None: cannot be seen.

    `size` is about how many bytes it carries.
    """

    size = 0

    def run(self, tables: Tables) -> object:
        """Do it, inside a transaction. A `PerdureError` fails this write alone."""
        raise NotImplementedError

    def landed(self, tables: Tables) -> bool | None:
        """Whether what `run` did is there now."""
        return None


class Append(Write):
    """`Store.append`."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch
        self.size = sum(len(record.data) for record in batch.records)

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.append(self.batch)
        return None

    def landed(self, tables: Tables) -> bool | None:
        """See `Write.landed`."""
        return tables.has(self.batch)


class MakeClaim(Write):
    """`Store.claim`."""

    def __init__(self, session: str) -> None:
        super().__init__()
        self._session = session

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        return tables.claim(self._session)

    def landed(self, tables: Tables) -> bool | None:
        """See `Write.landed`."""
        return tables.owns(self.outcome) if isinstance(self.outcome, Claim) else None


class Fork(Write):
    """`Store.fork`."""

    def __init__(self, source: str, at: int, session: str) -> None:
        super().__init__()
        self._source, self._at, self._session = source, at, session

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.fork(self._source, self._at, self._session)
        return None

    def landed(self, tables: Tables) -> bool | None:
        """See `Write.landed`."""
        return tables.is_fork(self._source, self._at, self._session)


class DeleteSession(Write):
    """`Store.delete_session`."""

    def __init__(self, session: str) -> None:
        super().__init__()
        self._session = session

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.delete_session(self._session)
        return None

    def landed(self, tables: Tables) -> bool | None:
        """See `Write.landed`."""
        # One that is there may have been made anew by the same group.
        return None if tables.exists(self._session) else True


class Release(Write):
    """`Store.release`."""

    def __init__(self, claim: Claim) -> None:
        super().__init__()
        self._claim = claim

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.release(self._claim)
        return None


class ReleaseAll(Write):
    """The last write of `Store.close`."""

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.release_all()
        return None


class Post(Write):
    """`Store.post`."""

    def __init__(self, session: str, key: str, body: bytes) -> None:
        super().__init__()
        self._session, self._key, self._body = session, key, body
        self.size = len(body)

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        return tables.post(self._session, self._key, self._body)

    def landed(self, tables: Tables) -> bool | None:
        """See `Write.landed`."""
        # A post that changed nothing is no witness for the others.
        return tables.has_letter(self._session, self._key) if self.outcome is True else None


class SaveState(Write):
    """`Store.save_state`."""

    def __init__(self, session: str, seq: int, data: bytes) -> None:
        super().__init__()
        self._session, self._seq, self._data = session, seq, data
        self.size = len(data)

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.save_state(self._session, self._seq, self._data)
        return None


class PutDoc(Write):
    """`Store.put_doc`."""

    def __init__(self, kind: str, name: str, data: bytes, expect: int | None) -> None:
        super().__init__()
        self._kind, self._name, self._data, self._expect = kind, name, data, expect
        self.size = len(data)

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        return tables.put_doc(self._kind, self._name, self._data, self._expect)

    def landed(self, tables: Tables) -> bool | None:
        """See `Write.landed`."""
        return tables.doc_version(self._kind, self._name) == self.outcome


class DeleteDoc(Write):
    """`Store.delete_doc`."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__()
        self._kind, self._name = kind, name

    def run(self, tables: Tables) -> object:
        """See `Write.run`."""
        tables.delete_doc(self._kind, self._name)
        return None
