"""Each store that is wrong on purpose is caught, and the right one is not, by the same scene."""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.errors import LeaseLost
from perdure.core.inbox import Say
from perdure.stores.postgres.store import PostgresStore
from perdure.testing.broken_nodes import VARIANTS, opened
from perdure.testing.chaos import history as h
from perdure.testing.chaos.checker import History, Kind, check
from perdure.testing.chaos.crew import Crew
from perdure.testing.chaos.proxy import Link
from perdure.testing.chaos.witness import watched
from perdure.testing.postgres import PostgresServer
from perdure.testing.store_harness import Pen
from tests.chaos.scenes import CALM_LEASE_S, LEASE_S, Witness, crew_on, place_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

Scene = Callable[[PostgresServer, Path, str], Awaitable[set[str]]]


async def kinds_of(crew: Crew) -> set[str]:
    report = await crew.rest()
    assert not report.failed, report.failed
    return {anomaly.kind for anomaly in report.anomalies}


async def an_old_owner_writes(server: PostgresServer, home: Path, variant: str) -> set[str]:
    """Another owner has taken the session, and has written nothing yet, when the old one writes."""
    url = server.make_database(f"old_{abs(hash(home))}")
    notes = h.Notes(home / "seen.jsonl")
    one = await (opened(variant, url, 0.0) if variant else PostgresStore.open(url))
    two = await PostgresStore.open(url)
    old, new = watched(one, notes, "old"), watched(two, notes, "new")
    claim = await old.claim("s")
    pen = Pen(claim)
    await old.append(pen.batch(b"its own"))
    await old.release(claim)
    await new.claim("s")
    with contextlib.suppress(LeaseLost):
        await old.append(pen.batch(b"too late"))
    journals = {"s": await two.read("s")}
    for store in (one, two):
        await store.close()
    notes.close()
    return {anomaly.kind for anomaly in check(History(h.Tail(home).poll(), journals))}


async def clocks_disagree(server: PostgresServer, home: Path, variant: str) -> set[str]:
    """Two nodes whose clocks are ten minutes apart; that of the owner is behind, and it is at a
    call that takes two leases when the other one begins to look.
    """
    async with crew_on(
        server, home, nodes=2, variant=variant, lease_s=CALM_LEASE_S, follow=False
    ) as crew:
        witness = Witness(home)
        behind, ahead = sorted(crew.field.nodes.values(), key=lambda node: node.plan.skew_s)
        assert ahead.plan.skew_s - behind.plan.skew_s == 600.0
        ahead.pause()
        await crew.talk("s", f"book {2 * CALM_LEASE_S}")
        await witness.until(lambda: witness.began("s", "book"))
        ahead.resume()
        found = await kinds_of(crew)
        return found | ({"a living owner was replaced"} if crew.takeovers else set())


async def a_word_is_broken(server: PostgresServer, home: Path, variant: str) -> set[str]:
    """A node hears nothing of its database any more, and is killed."""
    async with crew_on(server, home, nodes=2, variant=variant, follow=False) as crew:
        witness = Witness(home)
        await crew.talk("s", "look 0.3\nlook 0.1\nlook 0.1\nlook 3.0")
        await witness.until(lambda: witness.began("s", "look"))
        name = witness.began("s", "look")[0].node
        place = place_of(crew, name)
        crew.ground.proxies[place].silence()
        crew.field.struck(name, "half-open, then SIGKILL", None)
        known = len(witness.acknowledged(name))
        try:
            await witness.until(lambda: len(witness.acknowledged(name)) > known, 2 * LEASE_S)
        except TimeoutError:
            assert not variant, "it was to acknowledge what nobody can have told it"
        await crew.field.nodes[place].kill()
        await crew.ground.proxies[place].recover()
        crew.field.nodes[place] = await crew.start(place)
        return await kinds_of(crew)


async def a_notice_is_lost(server: PostgresServer, home: Path, variant: str) -> set[str]:
    """A node that owns a session, at rest, does not hear that a letter came for it."""
    async with crew_on(server, home, nodes=1, variant=variant, follow=False, idle_s=600.0) as crew:
        witness = Witness(home)
        await (await crew.talk("s", "look 0.1"))
        crew.ground.proxies["n1"].silence(listens)
        body = encode(Say("message", as_content("look 0.1")))
        await crew.engine.kit.store.post("s", "late", body)
        try:
            await witness.until(lambda: len(witness.began("s", "look")) == 2, 5.0)
        except TimeoutError:
            return {"never woke"}
        return await kinds_of(crew)


def listens(link: Link) -> bool:
    return link.options.get("application_name", "").endswith(" ear")


SCENES: dict[str, tuple[Scene, set[Kind | str]]] = {
    "no epoch check": (an_old_owner_writes, {"stale write", "two owners"}),
    "lease on the node's clock": (clocks_disagree, {"a living owner was replaced"}),
    "acknowledges before commit": (a_word_is_broken, {"lost event"}),
    "no polling floor": (a_notice_is_lost, {"never woke"}),
}


def test_every_variant_has_a_scene() -> None:
    assert set(SCENES) == set(VARIANTS)


@pytest.mark.parametrize("name", SCENES)
async def test_the_wrong_store_is_caught(server: PostgresServer, tmp_path: Path, name: str) -> None:
    scene, expected = SCENES[name]
    assert expected <= await scene(server, tmp_path, name)


@pytest.mark.parametrize("name", SCENES)
async def test_the_right_store_is_not(server: PostgresServer, tmp_path: Path, name: str) -> None:
    scene, _ = SCENES[name]
    assert await scene(server, tmp_path, "") == set()
