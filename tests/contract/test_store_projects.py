"""A project's store keeps the whole contract, beside another project full of the same names."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from perdure.core.errors import InvalidRequest, NotFound, PerdureError, StaleAppend
from perdure.ports.store import SessionRow, Store
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.projects import DEFAULT, ProjectStore, ProjectStores
from perdure.testing.broken_projects import BROKEN, NAMED
from perdure.testing.sim_store import StoreProxy
from perdure.testing.store_contract import StoreContract
from perdure.testing.store_contract_delete import ERROR
from perdure.testing.store_harness import Pen, StoreHarness, begin, refused
from tests.contract.stores import MemoryHarness, SqliteHarness

WAIT_S = 2
NUMBERED = [f"ses_{name}" for name in (*range(1, 6), "a", "b", "c", "other", "early", "late")]
SAME_NAMES = [*NUMBERED, "ses_empty", "ses_never", "ses_bare", "ses_later", "a", "a b", "b", "no"]


class OneProject(StoreProxy):
    """A project's store that closes the one beneath: a process that serves nothing else."""

    def __init__(self, stores: ProjectStores, store: ProjectStore) -> None:
        super().__init__(store)
        self.stores = stores

    async def close(self) -> None:
        await self.stores.close()


class ProjectHarness:
    """Projects on a store; before it is opened first, another project is filled."""

    def __init__(
        self, inner: MemoryHarness | SqliteHarness, project: str, kind: type[ProjectStore]
    ) -> None:
        self._inner = inner
        self._project = project
        self._kind = kind
        self._opened: list[OneProject] = []

    async def open(self) -> Store:
        if not self._opened:
            base = await self._inner.open()
            await fill(ProjectStores(base).of("noise"))
            await base.close()
        stores = ProjectStores(await self._inner.open(), self._kind)
        made = OneProject(stores, stores.of(self._project))
        self._opened.append(made)
        return made

    async def kill(self, store: Store) -> None:
        assert isinstance(store, OneProject)
        await self._inner.kill(store.stores.base)

    async def close(self) -> None:
        for each in self._opened:
            await each.close()


async def fill(store: Store) -> None:
    """Give a project everything, under the names that the contract uses."""
    for number, name in enumerate(SAME_NAMES):
        pen = Pen(await store.claim(name))
        row = SessionRow(id=name, title="noise", updated_at_us=number, wake_at_us=1)
        error = replace(ERROR, session=name, message="noise")
        await store.append(pen.batch(b"noise 1", b"noise 2", row=row)._replace(errors=[error]))
        await store.save_state(name, 2, b"noise")
        await store.post(name, "k", b"noise")
    for kind in ("rule", "schedule", "odd", "other"):
        for name in ("a", "b", "b/1", "b/2", "kept", "gone", "", "never"):
            await store.put_doc(kind, name, b"noise")


@pytest.fixture(params=["sqlite", "memory"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreHarness]:
    sqlite = request.param == "sqlite"
    inner = SqliteHarness(tmp_path / "perdure.db") if sqlite else MemoryHarness()
    made = ProjectHarness(inner, request.cls.project, ProjectStore)
    yield made
    await made.close()


class TestProjectStore(StoreContract):
    project = "shop"


class TestStoreOfTheDefaultProject(StoreContract):
    project = DEFAULT


async def failure(kind: type[ProjectStore]) -> str:
    """The name of the first test that such a project's store does not pass."""
    suite = StoreContract()
    for name in sorted(name for name in dir(suite) if name.startswith("test_")):
        harness = ProjectHarness(MemoryHarness(), "shop", kind)
        try:
            await asyncio.wait_for(getattr(suite, name)(harness), WAIT_S)
        except (AssertionError, LookupError, PerdureError, TimeoutError):
            return name
        finally:
            await harness.close()
    return ""


async def test_the_contract_accepts_a_project_that_is_right() -> None:
    assert await failure(ProjectStore) == ""


@pytest.mark.parametrize("method", BROKEN)
async def test_the_contract_catches_a_project_that_forgets_its_prefix_in(method: str) -> None:
    assert await failure(BROKEN[method])


def test_every_method_with_a_name_has_its_broken_variant() -> None:
    others = {"blobs", "changed", "close"}
    methods = {name for name in vars(Store) if not name.startswith("_")}
    assert methods - others == set(NAMED)


async def test_errors_speak_of_names_as_the_project_knows_them() -> None:
    store = ProjectStores(MemoryStore(MemoryDisk())).of("shop")
    pen = await begin(store)
    errors = [
        await refused(NotFound, store.post("ses_2", "k", b"")),
        await refused(NotFound, store.fork("ses_2", 1, "ses_3")),
        await refused(
            StaleAppend, store.append(pen.batch(b"2")._replace(records=(), expected_seq=5))
        ),
        await refused(PerdureError, store.put_doc("rule", "a", b"", expect=3)),
        await refused(PerdureError, store.fork("ses_1", 1, "ses_1")),
    ]
    for error in errors:
        assert "shop" not in f"{error} {error.message} {error.hint}", error.message
        assert "ses_" in error.message or "'a'" in error.message


async def test_the_separator_is_in_no_name() -> None:
    stores = ProjectStores(MemoryStore(MemoryDisk()))
    shop, default = stores.of("shop"), stores.of(DEFAULT)
    await begin(shop)
    await shop.put_doc("rule", "a", b"")
    foreign = "shop\x1fses_1"
    assert await default.read(foreign) == []
    assert await default.session(foreign) is None
    assert await default.doc("rule", "shop\x1fa") is None
    await default.delete_doc("rule", "shop\x1fa")
    await default.delete_session(foreign)
    await refused(NotFound, default.post(foreign, "k", b""))
    await refused(NotFound, default.fork(foreign, 1, "mine"))
    await refused(InvalidRequest, default.claim(foreign))
    await refused(InvalidRequest, default.fork("ses_1", 1, foreign))
    await refused(InvalidRequest, default.put_doc("rule", "shop\x1fa", b""))
    for prefix in ("shop", "shop\x1f", "shop\x1fs"):
        assert await default.sessions(prefix) == []
        assert await default.docs("rule", prefix=prefix) == []
    assert len(await shop.read("ses_1")) == 1
    assert len(await shop.docs("rule")) == 1


async def test_the_default_project_steps_over_the_documents_of_others() -> None:
    stores = ProjectStores(MemoryStore(MemoryDisk()))
    names = ["a", "m", "shop", "z"]
    for name in names:
        await stores.of(DEFAULT).put_doc("rule", name, b"")
    for project in ("b", "n", "shop", "shop2"):
        for number in range(40):
            await stores.of(project).put_doc("rule", f"d{number}", b"")
    store = stores.of(DEFAULT)
    assert [doc.name for doc in await store.docs("rule")] == names
    for limit in range(6):
        assert [doc.name for doc in await store.docs("rule", limit=limit)] == names[:limit]
    assert [doc.name for doc in await store.docs("rule", after="a", limit=2)] == ["m", "shop"]
