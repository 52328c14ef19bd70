"""What is said about the nodes of a store: which one is meant, and what becomes of its sessions."""

from collections.abc import Sequence

from perdure.core.errors import Conflict, NotFound
from perdure.ports.cluster import NodeRow


def meant(rows: Sequence[NodeRow], typed: str) -> str:
    """Return the node of that name, or the one whose name begins like that; the living come first.

    Raises `NotFound` (E-NODE-UNKNOWN) when there is none, or there are several.
    """
    begin = [row for row in rows if typed and row.name.startswith(typed)]
    fitting = [row for row in rows if row.name == typed]
    fitting = fitting or [row for row in begin if row.alive] or begin
    if len(fitting) == 1:
        return fitting[0].name
    said = f"There is no node {typed!r}."
    if fitting:
        names = ", ".join(row.name for row in fitting)
        said = f"{len(fitting)} nodes begin with {typed!r}: {names}."
    raise NotFound("E-NODE-UNKNOWN", said, "perdure nodes")


def ensure_alive(rows: Sequence[NodeRow], name: str) -> None:
    """Raise `Conflict` (E-NODE-DEAD) for a node that can be told nothing any more."""
    if any(row.name == name and not row.alive for row in rows):
        raise Conflict(
            "E-NODE-DEAD",
            f"{name} is dead already, so it was told nothing. {_heirs(rows, name, 'What it left')}",
            "perdure nodes",
        )


def after_draining(rows: Sequence[NodeRow], name: str) -> str:
    """Return what becomes of the sessions of a node that was told to drain."""
    return _heirs(rows, name, "What is not over by then")


def _heirs(rows: Sequence[NodeRow], name: str, what: str) -> str:
    others = [row for row in rows if row.name != name and row.alive and not row.draining]
    if others:
        return f"{what} goes on at the other nodes."
    return f"{what} waits: no other node is alive. Begin one: perdure up, or perdure work."
