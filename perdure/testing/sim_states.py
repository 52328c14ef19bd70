"""States of a simulated session, and who takes sessions up."""

from perdure.core.agent import Limits
from perdure.core.errors import Unavailable
from perdure.core.events import Event, SessionRewound
from perdure.core.evolve import evolve
from perdure.core.state import State
from perdure.core.timeline import rewound
from perdure.engine.runtime import Engine


def follow(states: list[State], event: Event) -> State:
    """Return the state after `event`, given those at all seqs before it."""
    if isinstance(event.payload, SessionRewound):
        return rewound(states[event.payload.to], states[-1], event)
    return evolve(states[-1], event)


def replace_limits(limits: Limits, tokens: int | None, usd: float | None) -> Limits:
    """Return the limits with other ones for the life of the session."""
    return Limits(limits.steps, limits.tool_calls, limits.wall_s, tokens, usd)


async def wake_all(engine: Engine) -> None:
    """Take up all sessions that nobody else works on."""
    try:
        for row in await engine.sessions():
            engine.wake(row.id)
    except Unavailable:
        pass  # it died meanwhile
