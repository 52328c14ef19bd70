"""What nothing refers to any more goes; what anything refers to stays."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from perdure import Runtime
from perdure.core.errors import CorruptJournal, InvalidRequest, PerdureError
from perdure.environments.depot import KIND, manifest_of
from perdure.environments.snapshots import Snapshots
from perdure.ports.blobs import Shelf
from perdure.ports.carrying import KeptDoc
from perdure.serving.collecting import GRACE_S, Collected, Collector
from perdure.stores.blobs import MemoryBlobs
from perdure.stores.carrying.reading import carriable
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.postgres.address import parse
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import SystemClock
from perdure.stores.verify import verify
from tests.contract.postgres import database, postgres
from tests.engine.test_shared_places import AGENT, FIRST, THIRD, allowed, bash, runtime

__all__ = ["database", "postgres"]  # fixtures

DAY_US = 24 * 3600 * 1_000_000


class Later:
    """The clock of a collection a little more than a day from now."""

    def __init__(self, us: int = DAY_US + 60_000_000) -> None:
        self.us = us

    def now_us(self) -> int:
        return SystemClock().now_us() + self.us

    def monotonic(self) -> float:
        return 0.0


class Site:
    """A store with sessions on it: `gone` is deleted, its fork and others stay."""

    def __init__(self, folder: Path, *, shared: bool) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/perdure.db"
        self.blobs = f"file://{folder}/blobs" if shared else ""

    def open(self, work: str, *replies: object) -> Runtime:
        return runtime(self.url, self.folder / work, *replies, blobs=self.blobs)  # type: ignore[arg-type]

    async def fill(self) -> None:
        async with self.open("a", *FIRST, *THIRD) as engine:
            gone = await engine.session("gone", AGENT)
            await allowed(gone, "go")
            await gone.fork(name="fork")
            await allowed(gone, "more, that nobody will miss")
        ours = (bash("echo ours >notes.txt; echo kept >kept"), {"text": "our own " * 20_000})
        async with self.open("a", *ours, *THIRD) as engine:
            await allowed(await engine.session("ours", AGENT), "go")
        lost = (bash("seq 100000 >lost.txt"), {"text": "lost " * 30_000})
        async with self.open("a", *lost) as engine:
            await allowed(await engine.session("lost", AGENT), "go")
            store = (await engine.engine()).kit.store
            await store.put_doc("upload", "u", b'{"blob":"%s"}' % await self._upload(store))
        async with self.open("a") as engine:
            store = (await engine.engine()).kit.store
            await store.delete_session("gone")
            await store.delete_session("lost")

    @staticmethod
    async def _upload(store: object) -> bytes:
        digest: str = await store.blobs.put(b"uploaded " * 1000)  # type: ignore[attr-defined]
        return digest.encode()

    async def collect(
        self, kind: type[Collector] = Collector, clock: Later | None = None, *, dry: bool = False
    ) -> Collected:
        async with self.store() as store:
            return await kind(store, clock or Later()).run(dry=dry)

    def store(self) -> "_Opened":
        return _Opened(self)

    async def whole(self) -> str:
        """Return what is wrong with what is left, on a machine that has nothing of its own."""
        async with self.store() as store:
            report = await verify(store)
            try:
                doc = await store.doc("upload", "u")
                assert doc is not None
                await store.blobs.get(doc.data.decode()[9:-2])
                async for _ in _payloads(store):
                    pass
            except CorruptJournal as error:
                return str(error)
            if report:
                return str(report[0])
        for name, text in (("fork", "one\nthree\n"), ("ours", "ours\nthree\n")):
            try:
                fresh = f"fresh-{name}"
                async with self.open(fresh, *FIRST, *THIRD) as engine:
                    session = await engine.session(name, AGENT)
                    await session.resume()
                    await allowed(session, "go on")
                    if (parked := (await session.state()).parked) is not None:
                        return str(parked)
                place = self.folder / fresh / "sessions" / name / "workspace/notes.txt"
                assert place.read_text() == text
            except PerdureError as error:
                return str(error)
        return ""


class _Opened:
    def __init__(self, site: Site) -> None:
        self._site = site

    async def __aenter__(self) -> SqliteStore:
        from perdure.app import open_store

        store, _ = await open_store(self._site.url, self._site.blobs)
        assert isinstance(store, SqliteStore)
        self._store = store
        return store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()


async def _payloads(store: SqliteStore) -> AsyncIterator[bytes]:
    from perdure.core.journal import aside

    for row in await store.sessions():
        for record in await store.read(row.id, 0, 10_000):
            if (where := aside(record)) is not None:
                yield await store.blobs.get(where.blob)


class SkipsPasts(Collector):
    """Reads what is a session's own, and not what it shares."""

    async def _events(self, name: str, at: int, until: int) -> AsyncIterator[bytes]:
        kept = await self._store.kept(name)
        own = kept.past[-2].until if kept and len(kept.past) > 1 else 0
        async for data in super()._events(name, max(at, own), until):
            yield data


class SkipsDocuments(Collector):
    """Takes what only documents name."""

    async def _documents(self) -> tuple[list[KeptDoc], dict[str, KeptDoc]]:
        manifests, parted = await super()._documents()
        for doc in await self._store.docs("upload"):
            self._old[doc.data.decode()[9:-2]] = 0
        return manifests, parted


class SkipsManifests(Collector):
    """Keeps the documents of live snapshots, and not what they need."""

    async def _snapshots(
        self, manifests: list[KeptDoc], parted: dict[str, KeptDoc], *, dry: bool
    ) -> int:
        return 0


async def test_what_is_left_is_whole_and_what_is_lost_is_gone(tmp_path: Path) -> None:
    site = Site(tmp_path, shared=True)
    await site.fill()
    before = set((tmp_path / "blobs").glob("??/*"))
    would = await site.collect(dry=True)
    assert set((tmp_path / "blobs").glob("??/*")) == before
    done = await site.collect()
    assert (done.blobs, done.snapshots) == (would.blobs, would.snapshots)
    after = set((tmp_path / "blobs").glob("??/*"))
    assert len(before) - len(after) == done.blobs
    assert done.blobs >= 2, "the lost text, and the pack of its workspace"
    assert done.stored_bytes > 100_000
    again = await site.collect()
    assert (again.blobs, again.snapshots) == (0, 0)
    assert await site.whole() == ""


@pytest.mark.parametrize("kind", [SkipsPasts, SkipsDocuments, SkipsManifests])
async def test_a_collection_that_overlooks_something_is_seen(
    tmp_path: Path, kind: type[Collector]
) -> None:
    site = Site(tmp_path, shared=True)
    await site.fill()
    await site.collect(kind)
    assert await site.whole() != ""


async def test_what_is_young_is_spared_and_what_is_put_again_is_young(tmp_path: Path) -> None:
    site = Site(tmp_path, shared=True)
    await site.fill()
    now = await site.collect(clock=Later(0))
    assert (now.blobs, now.snapshots) == (0, 0)
    old_s = SystemClock().now_us() / 1e6 - 2 * GRACE_S
    blobs = sorted((tmp_path / "blobs").glob("??/*"))
    for path in blobs:
        os.utime(path, (old_s, old_s))
    async with site.store() as store:
        for path in blobs:
            await store.blobs.put(await store.blobs.get(path.name))
    assert (await site.collect(clock=Later(0))).blobs == 0


async def test_a_snapshot_that_is_pushed_meanwhile_stays(tmp_path: Path) -> None:
    """Between the look at its document and the end of it."""
    site = Site(tmp_path, shared=True)
    await site.fill()

    class Pushed(Collector):
        async def _forget(self, doc: KeptDoc) -> bool:
            if doc.kind == KIND:
                assert doc.data is not None
                await self._store.put_doc(KIND, doc.name, doc.data)
            return await super()._forget(doc)

    found = await site.collect(Pushed)
    assert found.snapshots == 0
    async with site.store() as store:
        for doc in await store.docs(KIND):
            manifest = manifest_of(doc)
            assert manifest is not None
            for kept in manifest.packs:
                assert await store.blobs.get(kept.blob)


async def test_snapshots_of_one_machine_go_too(tmp_path: Path) -> None:
    site = Site(tmp_path, shared=False)
    await site.fill()
    found = await site.collect()
    snapshots = Snapshots(tmp_path / "a" / "snapshots")
    before = len(snapshots.ids())
    later_us = Later().now_us() - DAY_US
    assert snapshots.sweep(found.live, 0, dry=False) == (0, 0), "young ones are spared"
    would = snapshots.sweep(found.live, later_us, dry=True)
    assert snapshots.sweep(found.live, later_us, dry=False) == would
    assert would.packs >= 1
    left = Snapshots(tmp_path / "a" / "snapshots")
    assert len(left.ids()) == before - would.packs
    assert left.verify() == []
    assert found.live <= set(left.ids())


async def test_what_has_no_age_is_not_collected() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Collector(MemoryStore(MemoryDisk()), SystemClock())
    assert caught.value.code == "E-GC-STORE"
    assert isinstance(MemoryStore(MemoryDisk()).blobs, MemoryBlobs)


async def test_less_than_a_day_is_refused(tmp_path: Path) -> None:
    async with Site(tmp_path, shared=True).store() as store:
        with pytest.raises(InvalidRequest) as caught:
            Collector(store, SystemClock(), grace_s=GRACE_S - 1)
    assert caught.value.code == "E-GC-GRACE"


@pytest.mark.postgres
async def test_a_table_of_blobs_is_collected(tmp_path: Path, database: str) -> None:
    async with runtime(database, tmp_path / "a", *FIRST) as engine:
        await allowed(await engine.session("gone", AGENT), "go")
        await (await engine.session("gone", AGENT)).fork(name="fork")
    async with runtime(database, tmp_path / "a", bash("seq 50000 >lost"), {"text": "x"}) as engine:
        await allowed(await engine.session("lost", AGENT), "go")
        await (await engine.engine()).kit.store.delete_session("lost")
    async with runtime(database, tmp_path / "a") as engine:
        store = carriable((await engine.engine()).kit.store)
        await store.delete_session("gone")
        assert (await Collector(store, SystemClock()).run()).blobs == 0
        found = await Collector(store, Later()).run()
        assert found.blobs >= 1
        assert found.stored_bytes > 100_000
        assert await verify(store) == []
    async with runtime(database, tmp_path / "b", *FIRST, *THIRD) as engine:
        session = await engine.session("fork", AGENT)
        await session.resume()
        await allowed(session, "go on")
    notes = tmp_path / "b/node-1/sessions/fork/workspace/notes.txt"
    assert notes.read_text() == "one\nthree\n"


@pytest.mark.postgres
async def test_what_is_put_again_into_a_table_is_young(tmp_path: Path, database: str) -> None:
    async with runtime(database, tmp_path / "a") as engine:
        blobs = (await engine.engine()).kit.store.blobs
        assert isinstance(blobs, Shelf)
        digests = [await blobs.put(data) for data in (b"one", b"two", b"three")]
        address = parse(database)
        with psycopg.connect(address.libpq, autocommit=True) as connection:
            table = sql.Identifier(address.schema, "blobs")
            connection.execute(
                sql.SQL("UPDATE {} SET put = put - interval '7 hours'").format(table)
            )
        await blobs.put(b"two")
        by_age = sorted([each async for each in blobs.shelved()], key=lambda each: each.put_us)
        assert by_age[-1].digest == digests[1]
        assert by_age[-1].put_us - by_age[0].put_us > 6 * 3600 * 1_000_000
        assert not await blobs.remove(digests[1], by_age[0].put_us + 3600 * 1_000_000)
        assert await blobs.remove(digests[0], by_age[-1].put_us)
        assert not await blobs.remove(digests[0], by_age[-1].put_us)
        assert await blobs.get(digests[1]) == b"two"
