"""Sessions go when they have been kept for long enough, and no others."""

import pytest

from perdure.core.errors import NotFound
from perdure.doors.projects import Projects
from perdure.engine.retention import RetentionSettings, expired, retain
from perdure.engine.runtime import Engine
from perdure.ports.store import SessionRow, Store
from perdure.serving.retaining import Retaining
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.projects import ProjectStores
from perdure.testing.clocks import FakeClock
from tests.engine.test_client_tools import DONE, QUESTION, at_work, engine_of, office
from tests.engine.told import script

DAY_US = 24 * 3600 * 1_000_000
NOW_US = 1000 * DAY_US


def row(name: str, status: str = "idle", days: float = 100, parent: str = "") -> SessionRow:
    updated_us = NOW_US - int(days * DAY_US)
    return SessionRow(id=name, status=status, parent=parent, updated_at_us=updated_us)


def names(rows: list[SessionRow], mailboxes: tuple[str, ...] = (), **rules: object) -> list[str]:
    settings = RetentionSettings(**rules)  # type: ignore[arg-type]
    return [each.session for each in expired(rows, settings, NOW_US, mailboxes)]


def test_only_what_is_at_rest_for_long_enough_goes() -> None:
    rows = [
        row(f"{status} {days}", status, days)
        for status in ("idle", "failed", "budget", "closed", "running", "waiting", "sleeping",
                       "paused", "parked")
        for days in (9, 11)
    ]  # fmt: skip
    assert names(rows) == []
    assert names(rows, closed_after_days=10) == ["closed 11"]
    assert sorted(names(rows, idle_after_days=10)) == [
        "budget 11", "closed 11", "failed 11", "idle 11",
    ]  # fmt: skip
    assert names(rows, closed_after_days=8.5, idle_after_days=100) == ["closed 11", "closed 9"]


def test_what_is_to_be_kept_is_kept() -> None:
    rows = [row("ses_1"), row("legal_1"), row("legal.child", parent="legal_1"), row("ses_2")]
    assert names(rows, idle_after_days=1, keep=("legal*",)) == ["ses_1", "ses_2"]
    assert names(rows, idle_after_days=1, keep=("*.child",)) == ["ses_1", "ses_2"]
    assert names(rows, ("ses_1",), idle_after_days=1) == ["legal_1", "ses_2"]


def test_a_tree_goes_as_a_whole_when_all_of_it_is_at_rest() -> None:
    old = [row("root"), row("child", parent="root"), row("below", parent="child")]
    assert names(old, idle_after_days=10) == ["root"]
    assert [r.id for r in expired(old, RetentionSettings(0, 10), NOW_US)[0].rows] == [
        "root", "child", "below",
    ]  # fmt: skip
    for busy in (row("below", "waiting", parent="child"), row("below", days=1, parent="child")):
        assert names([*old[:2], busy], idle_after_days=10) == []
    assert names([row("orphan", parent="root that is gone")], idle_after_days=10) == ["orphan"]


async def test_an_engine_deletes_what_has_expired_and_nothing_that_waits() -> None:
    disk, model = MemoryDisk(), script(DONE, QUESTION)
    async with at_work(disk, model) as engine:
        old = await engine.session("old", office())
        await old.send("go")
        asks = await engine.session("asks", office())
        await asks.send("go")
        await asks.send("ask")
        assert (await asks.state()).actions
        assert await retain(engine, RetentionSettings()) == []
        assert await retain(engine, RetentionSettings(idle_after_days=1)) == []
        clock = engine.kit.clock
        assert isinstance(clock, FakeClock)
        clock.advance(2 * 24 * 3600.0)
        assert await retain(engine, RetentionSettings(closed_after_days=1)) == []
        assert await retain(engine, RetentionSettings(idle_after_days=1)) == ["old"]
        with pytest.raises(NotFound):
            await old.state()
    assert [each.id for each in await MemoryStore(disk).sessions()] == ["asks"]


async def test_a_server_looks_through_all_projects() -> None:
    disk = MemoryDisk()
    stores = ProjectStores(MemoryStore(disk))

    async def make(project: str, store: Store) -> Engine:
        engine = engine_of(store, script(DONE, DONE))
        clock = engine.kit.clock
        assert isinstance(clock, FakeClock)
        clock.advance(days[0] * 24 * 3600.0)
        return engine

    days, forgotten = [0.0], list[tuple[str, str]]()
    projects = Projects(stores, make)
    for project in ("default", "shop"):
        engine = await projects.engine(project)
        await (await engine.session("ses_1", office())).send("go")
    await projects.close()
    days[0] = 8.0
    projects = Projects(ProjectStores(MemoryStore(disk)), make)
    settings = RetentionSettings(idle_after_days=7, keep=("ses_2",))
    duty = Retaining(projects.stores, projects, settings, lambda *who: forgotten.append(who))  # type: ignore[arg-type]
    assert await duty.once() == ["default/ses_1", "shop/ses_1"]
    assert forgotten == [("ses_1", "default"), ("ses_1", "shop")]
    assert await duty.once() == []
    await projects.close()
