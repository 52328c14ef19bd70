"""What watches over grants is watched: broken engines are seen, and so are forged journals."""

import pytest
from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.content import ResultItem
from perdure.engine import grants
from perdure.engine.driver import Driver
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.replaying import replay_session_with
from perdure.testing import broken_grants
from perdure.testing.broken_engines import ApprovesAgain, with_driver, with_journal
from perdure.testing.grant_checks import check_store
from tests.engine.desk import PEOPLE, Desk, asked, go_on, rule_for
from tests.engine.told import journal
from tests.trees.family import Cast, part, says, uses


async def scene_definition(desk: Desk) -> list[str]:
    """A tool changes its definition after it was allowed for the session."""
    refund = [uses("refund", eur=each) for each in (30, 40)]
    desk.parts["clerk"] = part(refund[0], says("done"), refund[1], says("done"))
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="session", when="eur < 45")
        await go_on(session)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent(words="Give more back."), adopt=True)
        await asked(session, "and now?")
        return await check_store(engine.kit.store, PEOPLE)


async def scene_deny(desk: Desk) -> list[str]:
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="session")
        await go_on(session)
        return await check_store(engine.kit.store, PEOPLE)


async def scene_proposal(desk: Desk) -> list[str]:
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        grant = rule_for(await asked(session), "a1")
        await grants.propose(engine.kit.store, grant, "s", "a1")
        other = await engine.session("t", desk.agent())
        await asked(other)
        return await check_store(engine.kit.store, PEOPLE)


async def scene_once(desk: Desk) -> list[str]:
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna")
        await go_on(session)
        return await check_store(engine.kit.store, PEOPLE)


def _driver(driver: type[Driver]) -> type[Engine]:
    return with_driver(driver)


BROKEN = {
    "a grant that ignores the definition": (
        scene_definition, (30, 40, 40), _driver(broken_grants.AnyDefinition), "nobody had decided",
    ),
    "a grant that beats a deny": (
        scene_deny, (30, 600), _driver(broken_grants.BeatsDeny), "the rules say deny",
    ),
    "a proposal that counts": (
        scene_proposal, (30, 40), _driver(broken_grants.ProposalsCount), "nobody had decided",
    ),
    "an approval that is used twice": (
        scene_once, (30, 40), with_journal(ApprovesAgain), "nobody who may decide",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_the_check_sees_what_is_broken_on_purpose(name: str) -> None:
    scene, refunds, engine, finding = BROKEN[name]
    found = await scene(Desk(*refunds, engine=engine))
    assert any(finding in each for each in found), found


@pytest.mark.parametrize("name", BROKEN)
async def test_the_check_has_nothing_against_the_engine_as_it_is(name: str) -> None:
    scene, refunds, _, _ = BROKEN[name]
    assert await scene(Desk(*refunds)) == []


@pytest.mark.parametrize(
    "change",
    [{"digest": "other"}, {"when": "eur > 1000"}, {"tool": "pay"}, {"agent": "boss"}],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("scope", ["session", "rule"])
async def test_a_replay_checks_that_a_recorded_grant_covers_the_call(
    scope: grants.Scope, change: dict[str, str]
) -> None:
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope=scope)
        await go_on(session)
        events = await journal(engine.kit.store)
    forged = [_forged(event, change) for event in events]
    assert forged != events
    report = await replay(forged)
    assert report.divergence is not None
    assert isinstance(report.divergence.recorded, e.ToolRequested)


def _forged(event: e.Event, change: dict[str, str]) -> e.Event:
    p = event.payload
    if not isinstance(p, e.ToolRequested | e.ActionResolved) or p.grant is None:
        return event
    return replace(event, payload=replace(p, grant=replace(p.grant, **change)))


@pytest.mark.parametrize("granted_in", ["s", "t"])
async def test_another_model_has_what_was_granted_too(granted_in: str) -> None:
    """`t` was allowed by the rule that was made in `s`."""
    desk = Desk(30, 40)
    async with desk.open() as engine:
        session = await engine.session("s", desk.agent())
        await asked(session)
        await session.allow("a1", by="anna", scope="rule", when="eur < 50")
        await go_on(session)
        await asked(await engine.session("t", desk.agent()))
        other = part(uses("refund", eur=30), uses("refund", eur=40), says("so"))
        found = await replay_session_with(
            engine.kit.store, granted_in, Cast({"other": other}), model="scripted:other"
        )
    assert found.stopped is None
    texts = [i.text for i in found.rerun if isinstance(i, ResultItem)]
    assert texts == ["refunded 30.0", "refunded 40.0"]
