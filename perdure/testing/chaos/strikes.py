"""What befalls the nodes, one strike after the other. Each writes down whom, when and how long."""

import asyncio
import contextlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from perdure.testing.chaos import history as h
from perdure.testing.chaos.ground import Ground, PostgresGround
from perdure.testing.chaos.processes import NodeProcess
from perdure.testing.chaos.proxy import FaultProxy, Rule

# A COMMIT, or the one statement that is a commit of its own: that which appends.
COMMITS: Final = re.compile(r"^\s*COMMIT\b|\bINSERT INTO events\b", re.IGNORECASE)
SKEWS_S: Final = (0.0, 300.0, -300.0)
_MET_S: Final = 3.0
_LONG_OF: Final = 0.25  # of the outages of the database


@dataclass
class Field:
    """The nodes by their place, and how a new one is put there."""

    ground: Ground
    start: Callable[[str], Awaitable[NodeProcess]]
    notes: h.Notes
    lease_s: float
    chance: random.Random
    nodes: dict[str, NodeProcess] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def struck(self, node: str, kind: str, seconds: float | None, *, ago_s: float = 0.0) -> None:
        """Write a strike down, that began `ago_s` ago. What it may have caused goes on a while
        behind its end; `seconds` None is for ever.
        """
        now, until = h.now_ns() - int(ago_s * 1e9), h.FOREVER
        if seconds is not None:
            until = now + int((seconds + 3 * self.lease_s + 1.0) * 1e9)
        self.notes.write(h.Struck(node, kind, now, until))
        self.counts[kind] += 1

    def any_node(self) -> str:
        """Return the place of a node."""
        return self.chance.choice(sorted(self.nodes))

    @property
    def beyond_the_lease_s(self) -> float:
        """How long a node is silent that shall be taken for dead."""
        return self.lease_s * self.chance.uniform(1.3, 2.5)


Strike = Callable[[Field], Awaitable[None]]


async def kill(f: Field) -> None:
    """SIGKILL a node; another one begins in its place."""
    place = f.any_node()
    node = f.nodes[place]
    f.struck(node.name, "SIGKILL", None)
    await node.kill()
    f.nodes[place] = await f.start(place)


async def stop(f: Field) -> None:
    """SIGSTOP a node for longer than the lease, then SIGCONT: it does not know what it missed."""
    node, seconds = f.nodes[f.any_node()], f.beyond_the_lease_s
    f.struck(node.name, "SIGSTOP", seconds)
    node.pause()
    await asyncio.sleep(seconds)
    node.resume()


async def cut(f: Field) -> None:
    """All connections of a node break at once."""
    place, proxy = _way(f)
    f.struck(f.nodes[place].name, "cut", 0.0)
    proxy.cut()


async def lose_answer(f: Field) -> None:
    """A COMMIT lands, and its node does not hear of it. Some times in a row."""
    await _at_commit(f, Rule("drop_answer", COMMITS, times=f.chance.randint(1, 4)))


async def lose_request(f: Field) -> None:
    """A COMMIT does not reach the server. Some times in a row."""
    await _at_commit(f, Rule("drop_request", COMMITS, times=f.chance.randint(1, 4)))


async def _at_commit(f: Field, rule: Rule) -> None:
    place, proxy = _way(f)
    f.struck(f.nodes[place].name, rule.kind, _MET_S)
    proxy.rule(rule)
    with contextlib.suppress(TimeoutError):  # nobody committed so often
        async with asyncio.timeout(_MET_S):
            while rule.struck < rule.times:  # noqa: ASYNC110  # the rule knows no event loop
                await asyncio.sleep(0.05)
    f.counts[f"{rule.kind} (commits)"] += rule.struck
    await proxy.recover()


async def silence(f: Field) -> None:
    """A node's connections are half-open for longer than the lease."""
    place, proxy = _way(f)
    await _outage(f, f.nodes[place].name, "half-open", [proxy], silent=True)


async def refuse(f: Field) -> None:
    """A node is cut off, and gets no new connection, for longer than the lease."""
    place, proxy = _way(f)
    await _outage(f, f.nodes[place].name, "cut off", [proxy])


async def away(f: Field) -> None:
    """The database is away for all nodes and clients, for longer than the lease; at times for
    fifteen leases, which is half a minute.
    """
    times = 15.0 if f.chance.random() < _LONG_OF else 1.0
    await _outage(f, "", "database away", list(f.ground.proxies.values()), times=times)


async def _outage(
    f: Field,
    node: str,
    kind: str,
    proxies: list[FaultProxy],
    *,
    silent: bool = False,
    times: float = 1.0,
) -> None:
    seconds = f.lease_s * times if times > 1.0 else f.beyond_the_lease_s
    f.struck(node, kind, seconds)
    await asyncio.gather(*(proxy.outage(seconds, silent=silent) for proxy in proxies))


async def slow(f: Field) -> None:
    """Every piece takes a tenth of a lease longer on a node's way to the database."""
    place, proxy = _way(f)
    f.struck(f.nodes[place].name, "slow", f.lease_s)
    proxy.slow(f.lease_s / 10)
    await asyncio.sleep(f.lease_s)
    await proxy.recover()


async def fail_over(f: Field) -> None:
    """The primary is killed, and its synchronous standby takes its place."""
    assert isinstance(f.ground, PostgresGround)
    f.struck("", "standby made", 10.0)  # a copy of everything slows all nodes down
    await f.ground.prepare_failover()
    f.struck("", "failover", 5.0)
    await f.ground.fail_over()


def _way(f: Field) -> tuple[str, FaultProxy]:
    place = f.any_node()
    return place, f.ground.proxies[place]


# How often each comes, in parts.
EVERYWHERE: Final[Mapping[Strike, int]] = {kill: 6, stop: 4}
ON_A_WIRE: Final[Mapping[Strike, int]] = {
    cut: 2,
    lose_answer: 3,
    lose_request: 2,
    silence: 2,
    refuse: 2,
    slow: 1,
    away: 1,
}


def strikes_on(ground: Ground) -> dict[Strike, int]:
    """Return what can befall nodes on this ground, with the parts of each."""
    return {**EVERYWHERE, **(ON_A_WIRE if ground.proxies else {})}


def skew_of(place: str, number: int) -> float:
    """Return how wrong the clock of a node is: each place has a wrong one of its own."""
    return SKEWS_S[(sum(place.encode()) + number) % len(SKEWS_S)]
