"""From what people type for a session (`@last`, the beginning of an id) to its id."""

import asyncio
import difflib

from perdure.app import open_store
from perdure.config import Project
from perdure.core.errors import InvalidRequest, NotFound
from perdure.ports.store import SessionRow


def resolve(project: Project, typed: str) -> str:
    """Return the id. Raises `NotFound` (E-SESSION-UNKNOWN), `InvalidRequest` (E-SESSION-MANY)."""
    return matching(asyncio.run(rows_of(project)), typed)


async def rows_of(project: Project) -> list[SessionRow]:
    """Return all sessions, last updated first; none where there is no store yet."""
    if project.remote:
        from perdure.cli.worker import runtime_of

        async with runtime_of(project, clerk=True) as runtime:
            return await runtime.sessions()
    path = project.store_path
    if path is not None and not path.exists():
        return []
    store, _ = await open_store(project.store_url)
    try:
        return await store.sessions()
    finally:
        await store.close()


def matching(rows: list[SessionRow], typed: str) -> str:
    """Return the one id that `typed` stands for."""
    ids = [row.id for row in rows]
    if typed in ids:
        return typed
    if typed == "@last" and rows:
        return rows[0].id
    found = [each for each in ids if typed and each.removeprefix("ses_").startswith(typed)]
    found += [each for each in ids if typed and each.startswith(typed) and each not in found]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
        raise InvalidRequest(
            "E-SESSION-MANY", f"{typed!r} is the beginning of {shown}.", "Type more."
        )
    close = difflib.get_close_matches(typed, ids, n=1)
    hint = f"Did you mean {close[0]}?" if close else "perdure ls    shows them all"
    raise NotFound("E-SESSION-UNKNOWN", f"There is no session {typed}.", hint)
