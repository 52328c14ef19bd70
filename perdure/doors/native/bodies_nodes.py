"""What the native protocol says about the processes that share a store."""

import msgspec


class Node(msgspec.Struct, frozen=True):
    """A process that has the store open; `here`: the one that answers.

    `driven` are the sessions of your project that it works on, `pid` its number: of the one that
    answers only. `address` and `host` are shown to admins of the project `default`. `sessions` is
    how many it owns, in all projects (of a dead one: how many it left, free to be taken), `behind`
    how many letters wait for it in their inboxes;
    `lease_left_s` how long it counts as alive without another word (0: its store has no leases, a
    process is dead when it is gone). Moments are microseconds of the store's clock.
    """

    name: str
    here: bool
    version: str
    store: str
    pid: int = 0
    driven: list[str] = []
    address: str = ""
    host: str = ""
    started_at_us: int = 0
    seen_at_us: int = 0
    lease_left_s: float = 0.0
    alive: bool = True
    draining: bool = False
    sessions: int = 0
    schema: int = 0
    behind: int = 0


class Nodes(msgspec.Struct, frozen=True):
    """The processes that share the store."""

    nodes: list[Node]


class Placed(msgspec.Struct, frozen=True):
    """A session that a node owns."""

    project: str
    session: str


class NodeView(msgspec.Struct, frozen=True):
    """A node and what it owns, at most a thousand: of your project, or of all for an admin of the
    project `default`.
    """

    node: Node
    sessions: list[Placed]
