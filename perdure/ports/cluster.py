"""Which processes share a store. A store that knows its nodes offers this beside `Store`."""

from typing import Protocol, runtime_checkable

import msgspec


class NodeRow(msgspec.Struct, frozen=True):
    """A process that has the store open. Moments are the store's clock, in microseconds.

    `address` is where other nodes reach it (`http://host:port`, "" for one that serves nobody),
    `lease_left_s` how long it counts as alive without another word (negative: for how long it has
    been silent). `sessions` is how many it owns: of a dead one, how many it left, free to be taken.
    `behind` is how many letters wait in the inboxes of what it owns.
    """

    name: str
    address: str = ""
    version: str = ""
    host: str = ""
    started_at_us: int = 0
    seen_at_us: int = 0
    lease_left_s: float = 0.0
    alive: bool = True
    draining: bool = False
    sessions: int = 0
    schema: int = 0
    behind: int = 0


@runtime_checkable
class Cluster(Protocol):
    """The nodes of one store."""

    @property
    def node(self) -> str:
        """The name of this process among the nodes; used by no other, before or after it."""
        ...

    @property
    def draining(self) -> bool:
        """Whether this node was told, by itself or another, to give its sessions up and end."""
        ...

    async def announce(self, address: str) -> None:
        """Say where other nodes reach this one. Raises `Unavailable`."""
        ...

    async def nodes(self) -> list[NodeRow]:
        """Return the nodes that are known, by name. The dead are forgotten after a day."""
        ...

    async def drain_node(self, node: str) -> None:
        """Tell a node to drain. Raises `NotFound` (E-NODE-UNKNOWN)."""
        ...

    async def owner(self, session: str) -> NodeRow | None:
        """Return the live node that owns the session, or None. What it owns is not counted."""
        ...

    async def owned(self, node: str, limit: int = 1000) -> list[str]:
        """Return the sessions that a node owns, by name."""
        ...
