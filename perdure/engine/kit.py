"""What the engine is given: every collaborator that is not pure, and the bounds it keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from perdure.core.agent import AgentSpec, EnvironmentSpec
from perdure.core.budget import Price
from perdure.engine.breaker import BreakerRules, Breakers
from perdure.ports.clock import Clock, Ids
from perdure.ports.model import Models
from perdure.ports.sandbox import Environments
from perdure.ports.store import Store
from perdure.ports.tool import Tool


@dataclass(frozen=True)
class Bounds:
    """Limits of the engine itself. Times in seconds.

    `idle_s`: how long a session without work stays in memory. `recoveries`: how many owners in
    a row may die on a session before it is parked. `cache_every`: events between two cached
    states. `follower_backlog`: pieces kept for a slow follower before it must re-read.
    `poll_s`: the floor under every wake-up. `store_retry_s`, `store_retry_cap_s`: first and
    longest pause before a full store is tried again. `parallel_reads`: reads at a time.
    `close_s`: how long closing waits for a store that cannot write. `breaker`: when a provider
    that fails is left alone.
    """

    idle_s: float = 30.0
    recoveries: int = 3
    cache_every: int = 256
    follower_backlog: int = 2000
    poll_s: float = 1.0
    store_retry_s: float = 0.5
    store_retry_cap_s: float = 30.0
    parallel_reads: int = 16
    close_s: float = 5.0
    breaker: BreakerRules = field(default_factory=BreakerRules)


def no_tools(_environment: EnvironmentSpec) -> tuple[Tool, ...]:
    """Return no workspace tools: for kits without environments."""
    return ()


class AgentSource(Protocol):
    """Finds the code of agents that were made while the engine runs: by an API, say."""

    async def tools(self, spec: AgentSpec) -> Mapping[str, Tool] | None:
        """Return the tools of a pinned definition by name, or None for an agent not known here.

        They must be the tools that `spec` pins; the engine compares them.
        """
        ...


@dataclass(frozen=True)
class Kit:
    """The engine's collaborators.

    `workspace_tools` gives the tools of an environment: what isolates nothing cannot promise
    that a command's effects stay in the workspace. A `clerk` takes what is posted into journals
    that nobody owns, and leaves all work alone: for processes that decide and look on but do not
    have the agents' code. `agents` is asked for those that were never registered. `schedules`: the
    engine fires, while it is open, what is due of agents that are registered in it. `wakes`: it
    goes on with sessions of such agents when they are due, and lets go of those that sleep long.
    """

    store: Store
    clock: Clock
    ids: Ids
    models: Models
    environments: Mapping[str, Environments] = field(default_factory=dict)
    prices: Mapping[str, Price] = field(default_factory=dict)
    workspace_tools: Callable[[EnvironmentSpec], tuple[Tool, ...]] = no_tools
    bounds: Bounds = Bounds()
    breakers: Breakers = field(default_factory=Breakers)
    clerk: bool = False
    schedules: bool = False
    wakes: bool = True
    agents: AgentSource | None = None
