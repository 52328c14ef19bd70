"""A run of chaos: nodes that are struck while users talk to their sessions, then the reckoning."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from perdure.testing.chaos.crew import Crew, Options, Report
from perdure.testing.chaos.ground import Ground
from perdure.testing.chaos.strikes import Strike, fail_over, strikes_on

_SCRIPTS: Final = (
    "look 0.2; look 0.6\npay 0.4",
    "book 0.9\npay 0.1; look 0.3",
    "pay 1.2",
    "grind 0.4; book 0.4\nlook 0.1\npay 0.3",
    "look 0.01\nlook 0.01\nbook 0.02\npay 0.02",
)
_TOLD_EVERY_S: Final = 10.0


async def play(
    ground: Ground, home: Path, options: Options, say: Callable[[str], object]
) -> Report:
    """Play a run through; `say` is told how it goes. Raises `RuntimeError` when a node does not
    start.
    """
    async with Crew(ground, home, options) as crew:
        await _calm(crew, say)
        for number in range(1, options.sessions + 1):
            await crew.talk(f"s{number}", *_SCRIPTS)
        await _strike(crew, say)
        return await crew.rest()


async def _calm(crew: Crew, say: Callable[[str], object]) -> None:
    """Let tools run much longer than the lease before anything is struck."""
    lease_s = crew.options.lease_s
    long_s = crew.options.calm_leases * lease_s
    if not long_s:
        return
    talks = [
        await crew.talk("calm1", f"look {long_s}; grind {long_s}; pay {long_s}"),
        await crew.talk("calm2", f"hog {long_s / 3}\nhog 0.1"),
    ]
    _, waiting = await asyncio.wait(talks, timeout=4 * long_s + 30.0)
    if waiting:
        crew.failed.append(f"a turn of {long_s:g} s did not end, undisturbed")
    say(f"calm: tools of {long_s:g} s with a lease of {lease_s:g} s")


async def _strike(crew: Crew, say: Callable[[str], object]) -> None:
    options = crew.options
    chosen = strikes_on(crew.ground)
    began = told = time.monotonic()
    strikes = 0
    while time.monotonic() - began < options.seconds:
        strikes += 1
        await _one(crew, _next(crew, strikes, chosen))
        await asyncio.sleep(options.lease_s * crew.chance.uniform(0.3, 1.2))
        taken = crew.takeovers
        if time.monotonic() - told > _TOLD_EVERY_S:
            told = time.monotonic()
            turns = crew.users.turns
            say(f"{told - began:4.0f} s  {strikes} strikes, {taken} takeovers, {turns} turns")
        if taken >= options.takeovers:
            return


def _next(crew: Crew, number: int, chosen: Mapping[Strike, int]) -> Strike:
    every = crew.options.failovers
    if every and number % every == 0:
        return fail_over
    return crew.chance.choices(list(chosen), list(chosen.values()))[0]


async def _one(crew: Crew, strike: Strike) -> None:
    """Strike, and see to it that every place has a node that lives."""
    field = crew.field
    await strike(field)
    for place, node in field.nodes.items():
        if not node.alive:
            crew.failed.append(f"{node.name} ended by itself: {node.said[-2000:]}")
            field.struck(node.name, "its own end", None)
            field.nodes[place] = await crew.start(place)
