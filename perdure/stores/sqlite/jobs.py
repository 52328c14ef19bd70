"""The writes that wait for a commit together. Knows nothing of apsw."""

from typing import TYPE_CHECKING

from perdure.ports.store import Batch, Claim
from perdure.stores.offload import Job

if TYPE_CHECKING:
    from perdure.stores.sqlite.tables import Tables


class Write(Job):
    """One write. `landed` is asked when a commit failed in doubt; None: cannot be seen."""

    def run(self, tables: "Tables") -> object:
        """Do it, inside a transaction. A `PerdureError` fails this write alone."""
        raise NotImplementedError

    def landed(self, tables: "Tables") -> bool | None:
        """Whether what `run` did is there now."""
        return None


class Aside(Write):
    """Something for the writing thread that wants no transaction."""


class Append(Write):
    """`Store.append`."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.append(self.batch)
        return None

    def landed(self, tables: "Tables") -> bool | None:
        """See `Write.landed`."""
        return tables.has(self.batch)


class MakeClaim(Write):
    """`Store.claim`."""

    def __init__(self, session: str) -> None:
        super().__init__()
        self._session = session

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        return tables.claim(self._session)

    def landed(self, tables: "Tables") -> bool | None:
        """See `Write.landed`."""
        return tables.owns(self.outcome) if isinstance(self.outcome, Claim) else None


class Fork(Write):
    """`Store.fork`."""

    def __init__(self, source: str, at: int, session: str) -> None:
        super().__init__()
        self._source, self._at, self._session = source, at, session

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.fork(self._source, self._at, self._session)
        return None

    def landed(self, tables: "Tables") -> bool | None:
        """See `Write.landed`."""
        return tables.is_fork(self._source, self._at, self._session)


class DeleteSession(Write):
    """`Store.delete_session`."""

    def __init__(self, session: str) -> None:
        super().__init__()
        self._session = session

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.delete_session(self._session)
        return None

    def landed(self, tables: "Tables") -> bool | None:
        """See `Write.landed`."""
        # One that is there may have been made anew by the same group.
        return None if tables.find(self._session) else True


class Release(Write):
    """`Store.release`."""

    def __init__(self, claim: Claim) -> None:
        super().__init__()
        self._claim = claim

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.release(self._claim)
        return None


class ReleaseAll(Write):
    """The last write of `Store.close`."""

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.release_all()
        return None


class Post(Write):
    """`Store.post`."""

    def __init__(self, session: str, key: str, body: bytes) -> None:
        super().__init__()
        self._session, self._key, self._body = session, key, body

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        return tables.post(self._session, self._key, self._body)

    def landed(self, tables: "Tables") -> bool | None:
        """See `Write.landed`."""
        # A post that changed nothing is no witness for the others.
        return tables.has_letter(self._session, self._key) if self.outcome is True else None


class SaveState(Write):
    """`Store.save_state`."""

    def __init__(self, session: str, seq: int, data: bytes) -> None:
        super().__init__()
        self._session, self._seq, self._data = session, seq, data

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.save_state(self._session, self._seq, self._data)
        return None


class PutDoc(Write):
    """`Store.put_doc`."""

    def __init__(self, kind: str, name: str, data: bytes, expect: int | None) -> None:
        super().__init__()
        self._kind, self._name, self._data, self._expect = kind, name, data, expect

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        return tables.put_doc(self._kind, self._name, self._data, self._expect)

    def landed(self, tables: "Tables") -> bool | None:
        """See `Write.landed`."""
        return tables.doc_version(self._kind, self._name) == self.outcome


class DeleteDoc(Write):
    """`Store.delete_doc`."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__()
        self._kind, self._name = kind, name

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.delete_doc(self._kind, self._name)
        return None


class DataVersion(Aside):
    """A number that changes when another connection has committed."""

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        return tables.connection.pragma("data_version")


class CheckpointRest(Aside):
    """Copy what came into the log while the background copied the rest: then it can start anew."""

    def run(self, tables: "Tables") -> object:
        """See `Write.run`."""
        tables.connection.wal_checkpoint()
        return None
