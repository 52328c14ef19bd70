"""A store that has everything a store can have, and what there is to compare of two of them."""

from hashlib import sha256
from typing import Any

from perdure.core.events import NoteRecorded, ToolFinished
from perdure.ports.store import Batch, Claim, ErrorRow, SessionRow
from perdure.stores.carrying.reading import CarriableStore
from perdure.stores.verify import Finding, verify
from tests.contract.journals import diary, record

BIG = "big " * 30_000
FULL = b"the whole of a long result"
SHOP = "shop\x1f"
NAMES = (
    "ses_1",
    "ses_full",
    "ses_long",
    "ses_fork",
    "ses_late",
    "ses_deep",
    "ses_twin",
    SHOP + "ses_1",
    "b",
)
BLOB = sha256(b"an uploaded file").hexdigest()


async def furnish(store: CarriableStore) -> None:
    """Fill an empty store: forks of forks, forks of what was deleted, letters taken and waiting."""
    claim = await diary(store, "ses_1", "one", BIG)
    for key in ("b", "a", "odd \ud800"):
        await store.post("ses_1", key, key.encode("utf-8", "surrogatepass"))
    await _told(store, claim, "ses_1")
    await store.blobs.put(FULL)
    full = ToolFinished("call_1", "ok", full=sha256(FULL).hexdigest())
    await diary(store, "ses_long", *map(str, range(450)))
    await record(store, await diary(store, "ses_full"), full)
    for origin, at, session, notes in (
        ("ses_long", 300, "ses_fork", 3),
        ("ses_fork", 302, "ses_deep", 2),
        ("ses_gone", 3, "ses_twin", 1),
        ("ses_gone", 5, "ses_late", 2),
    ):
        if origin == "ses_gone" and await store.session(origin) is None:
            await diary(store, origin, *"abcdef")
        await store.fork(origin, at, session)
        texts = (NoteRecorded(f"{session} {number}") for number in range(notes))
        await record(store, await store.claim(session), *texts)
    await store.delete_session("ses_gone")
    await diary(store, SHOP + "ses_1", "of another project")
    await store.post(SHOP + "ses_1", "b", b"waits")
    await diary(store, "b")
    await store.claim("ses_empty")
    await store.blobs.put(b"an uploaded file")
    await store.put_doc(
        "file", SHOP + "f", b'{"digest":"%s","none":"%s"}' % (BLOB.encode(), b"0" * 64)
    )
    for data in (b"1", b"2", b"sealed \x01\xff"):
        await store.put_doc("secret", "s", data)
    await store.put_doc("rule", "gone", b"1")
    await store.delete_doc("rule", "gone")


async def _told(store: CarriableStore, claim: Claim, session: str) -> None:
    """Take a letter; write a row with everything, and two errors."""
    error = ErrorRow("f1", session, "E-TOOL-RAISED", "tool", "no such file", 3, 10, 10, turn=1)
    row = SessionRow(id=session, seq=claim.seq, title="odd \ud800", wake_at_us=7, tokens=9)
    for errors in ((error,), (error,)):
        await store.append(
            Batch(session, claim.epoch, claim.seq, (), taken=("a",), row=row, errors=errors)
        )


async def content(store: CarriableStore) -> dict[str, Any]:
    """Return all that is to be the same in a copy."""
    found: dict[str, Any] = {}
    for row in await store.sessions():
        kept = await store.kept(row.id)
        assert kept is not None
        whole = (kept.seq, kept.hash, kept.row, kept.letters, kept.errors)
        found[row.id] = (*whole, await store.read(row.id, 0, 10_000))
    for doc in await store.kept_docs(None, 10_000):
        if doc.kind != "carried":
            found[f"doc {doc.kind} {doc.name}"] = doc
    for digest in (BLOB, sha256(FULL).hexdigest()):
        found[digest] = await store.blobs.get(digest)
    return found


async def faults(store: CarriableStore) -> list[Finding]:
    """Return what is wrong, but for the one session whose event has no turn around it."""
    return [found for found in await verify(store) if found.session != "ses_full"]


async def stretches(store: CarriableStore, session: str) -> list[tuple[str, int]]:
    """Where a session's events lie; what was deleted is called gone."""
    kept = await store.kept(session)
    assert kept is not None
    return [("gone" if h.startswith("\0") else h, until) for h, until in kept.past]
