"""Deleting sessions for good, with those of their subagents."""

from perdure.core.errors import Conflict, NotFound
from perdure.engine.kin import tree_of
from perdure.engine.runtime import Engine
from perdure.ports.store import SessionRow, Store


async def delete_session(engine: Engine, session_id: str) -> list[str]:
    """Delete a session and its subagents from the store; return their names. See
    `Store.delete_session` for what forks keep.

    Raises `NotFound`, `Conflict` (E-SESSION-WORKING) while this process works on it, `SessionBusy`
    while another one does, `Conflict` (E-SESSION-CHILD) for a subagent, which goes with its parent.
    """
    store = engine.kit.store
    rows = await tree_to_delete(store, session_id)
    for row in rows:
        if row.status == "running" and engine.drives(row.id):
            raise Conflict(
                "E-SESSION-WORKING",
                f"{row.id} is being worked on. Nothing was deleted.",
                f"perdure stop {session_id} --cancel, then delete it again",
            )
    for row in rows:
        await engine.let_go(row.id)
        await store.delete_session(row.id)
        engine.hub.fail(row.id, _unknown(row.id))
    return [row.id for row in rows]


async def tree_to_delete(store: Store, session_id: str) -> list[SessionRow]:
    """Return what goes with a session, itself last: while it is there, the rest can be found.

    Raises `NotFound`, `Conflict` (E-SESSION-CHILD).
    """
    rows = tree_of(await store.sessions(), session_id)
    if not rows:
        raise _unknown(session_id)
    parent = rows[0].parent
    if parent and await store.session(parent) is not None:
        raise Conflict(
            "E-SESSION-CHILD",
            f"{session_id} is a subagent of {parent} and goes with it. Nothing was deleted.",
            f"perdure admin purge {parent}",
        )
    return rows[::-1]


def _unknown(session_id: str) -> NotFound:
    return NotFound(
        "E-SESSION-UNKNOWN", f"There is no session {session_id!r}.", "perdure ls shows them all."
    )
