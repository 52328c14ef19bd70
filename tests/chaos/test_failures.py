"""The failures of the list that are about many nodes, each played once with real processes on a
real PostgreSQL, and reckoned by the checker of histories.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from perdure.core.content import as_content
from perdure.engine.calendar import Terms, plan
from perdure.testing.chaos import history as h
from perdure.testing.chaos.crew import Crew, Report
from perdure.testing.chaos.ground import CLIENT, PostgresGround
from perdure.testing.chaos.proxy import Link, Rule
from perdure.testing.chaos.strikes import COMMITS
from perdure.testing.postgres import PostgresServer
from tests.chaos.scenes import CALM_LEASE_S, LEASE_S, Witness, crew_on, place_of

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


async def at_rest(crew: Crew) -> Report:
    """Let all come to rest, and find nothing wrong."""
    report = await crew.rest()
    assert report.good, (report.anomalies, report.stuck, report.failed)
    return report


def runs(report: Report, tool: str) -> int:
    """How often a tool left a line in the world."""
    return sum(began.tool == tool for began in report.history.of(h.Began))


async def test_failure_13_three_nodes_want_one_session_and_one_gets_it(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path, nodes=3, lease_s=CALM_LEASE_S) as crew:
        witness = Witness(tmp_path)
        for number in range(4):
            await crew.talk(f"s{number}", "pay 0.2\npay 0.1")
        await witness.until(lambda: crew.users.turns == 4)
        report = await at_rest(crew)
        assert report.takeovers == 0, "nobody took what a living node was at"
        assert runs(report, "pay") == 8


async def test_failure_14_an_owner_that_stood_still_finds_itself_replaced(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path) as crew:
        witness = Witness(tmp_path)
        await crew.talk("s", "book 0.3\npay 0.1\nlook 0.1")
        await witness.until(lambda: witness.began("s", "book"))
        owner = crew.field.nodes[place_of(crew, witness.began("s", "book")[0].node)]
        owner.pause()
        crew.field.struck(owner.name, "SIGSTOP", None)
        await witness.until(lambda: crew.users.turns)
        owner.resume()
        report = await at_rest(crew)
        assert report.takeovers == 1
        assert (runs(report, "book"), runs(report, "pay")) == (2, 1)


async def test_failure_15_a_call_ten_times_longer_than_the_lease_is_run_once(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path, lease_s=CALM_LEASE_S) as crew:
        witness = Witness(tmp_path)
        await crew.talk("s1", f"book {10 * CALM_LEASE_S}; grind {5 * CALM_LEASE_S}")
        await crew.talk("s2", f"hog {3 * CALM_LEASE_S}\nhog 0.1")  # no coroutine runs for so long
        await witness.until(lambda: crew.users.turns == 2, 40 * CALM_LEASE_S)
        report = await at_rest(crew)
        assert report.takeovers == 0
        assert (runs(report, "book"), runs(report, "grind"), runs(report, "hog")) == (1, 1, 2)


async def test_failure_16_a_node_whose_word_does_not_come_through_stops_by_itself(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path) as crew:
        witness = Witness(tmp_path)
        await crew.talk("s", f"look {LEASE_S}\nlook {3 * LEASE_S}\npay 0.1")
        await witness.until(lambda: len(witness.began("s", "look")) == 2)
        name = witness.began("s", "look")[-1].node
        proxy = crew.ground.proxies[place_of(crew, name)]
        crew.field.struck(name, "its word is swallowed", None)
        proxy.silence(gives_its_word)
        await witness.until(lambda: witness.claims("s")[-1].node not in {name, CLIENT})
        await proxy.recover()
        await witness.until(lambda: crew.users.turns)
        report = await at_rest(crew)
        assert report.takeovers >= 1
        assert runs(report, "pay") == 1


def gives_its_word(link: Link) -> bool:
    return link.options.get("application_name", "").endswith(" lease")


async def test_failure_22_a_follower_elsewhere_sees_each_event_once(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path, nodes=3, lease_s=CALM_LEASE_S) as crew:
        witness = Witness(tmp_path)
        for number in range(6):
            await crew.talk(f"s{number}", "look 0.01; look 0.02\nbook 0.01\npay 0.01")
        await witness.until(lambda: crew.users.turns == 6)
        report = await at_rest(crew)
        read_to_the_end = report.history.of(h.Followed)
        assert len(read_to_the_end) == 6 * 4, "three nodes and a client, whoever was the owner"
        assert report.seen == 4 * report.events


async def test_failure_25_a_fire_time_of_three_nodes_runs_once(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path, nodes=3, lease_s=CALM_LEASE_S, schedules=True) as crew:
        witness = Witness(tmp_path)
        skews = {node.plan.skew_s for node in crew.field.nodes.values()}
        assert len(skews) == 3, "their clocks disagree"
        when = datetime.now(UTC) + timedelta(seconds=1)
        for number in range(5):
            terms: Terms = {"at": when}
            said = as_content("pay 0.1")
            await crew.engine.schedules.add(plan(f"r{number}", "chaos", said, "", terms))
        await witness.until(lambda: runs_seen(witness) == 5)
        report = await at_rest(crew)
        assert runs(report, "pay") == 5
        assert len(report.history.journals) == 5, "a session for each, and no other one"


def runs_seen(witness: Witness) -> int:
    return sum(isinstance(each, h.Ended) for each in witness.seen)


async def test_failure_33_commits_in_doubt_are_looked_up(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path, nodes=1) as crew:
        witness = Witness(tmp_path)
        rules = []
        for place in ("n1", CLIENT):
            for kind in ("drop_answer", "drop_request"):
                rule = Rule("drop_answer" if kind == "drop_answer" else "drop_request", COMMITS)
                rule.times, rule.skip = 3, 2
                rules.append(crew.ground.proxies[place].rule(rule))
        crew.field.struck("", "commits in doubt", None)
        for number in range(3):
            await crew.talk(f"s{number}", "book 0.1\npay 0.1\nlook 0.1\npay 0.1")
        await witness.until(lambda: crew.users.turns == 3)
        report = await at_rest(crew)
        assert [rule.struck for rule in rules] == [3, 3, 3, 3]
        assert runs(report, "pay") == 6


async def test_failure_34_a_standby_takes_over_and_nothing_is_lost(
    server: PostgresServer, tmp_path: Path
) -> None:
    with PostgresServer() as primary:  # it dies
        async with crew_on(primary, tmp_path) as crew:
            assert isinstance(crew.ground, PostgresGround)
            witness = Witness(tmp_path)
            await crew.ground.prepare_failover()
            for number in range(4):
                await crew.talk(f"s{number}", "book 0.2\npay 0.2\nlook 0.2\npay 0.1")
            await witness.until(lambda: witness.began("s0", "pay"))
            crew.field.struck("", "failover", None)
            await crew.ground.fail_over()
            await witness.until(lambda: crew.users.turns == 4, 60.0)
            report = await at_rest(crew)
            assert runs(report, "pay") <= 8
            assert len(report.history.of(h.Posted)) == 4


async def test_failure_34_an_outage_of_the_database_is_waited_out(
    server: PostgresServer, tmp_path: Path
) -> None:
    async with crew_on(server, tmp_path) as crew:
        witness = Witness(tmp_path)
        await crew.talk("s", "book 0.5\npay 0.2\nlook 0.1")
        await witness.until(lambda: witness.began("s", "book"))
        crew.field.struck("", "database away", None)
        ways = crew.ground.proxies.values()
        await asyncio.gather(*(way.outage(4 * LEASE_S) for way in ways))
        await witness.until(lambda: crew.users.turns)
        await at_rest(crew)
