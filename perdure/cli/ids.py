"""From what people type for a session (`@last`, the beginning of an id) to its id."""

import asyncio
import difflib

from perdure.app import open_store
from perdure.config import Project
from perdure.core.errors import InvalidRequest, NotFound
from perdure.ports.store import SessionRow
from perdure.stores.projects import DEFAULT, named_in


def resolve(project: Project, typed: str) -> str:
    """Return the id. Raises `NotFound` (E-SESSION-UNKNOWN), `InvalidRequest` (E-SESSION-MANY)."""
    return matching(asyncio.run(all_rows_of(project)), typed)


def shown(name: str) -> str:
    """Return how people write a session's id: `PROJECT/ID` where it is another project's."""
    project, bare = named_in(name)
    return bare if project == DEFAULT else f"{project}/{bare}"


async def rows_of(project: Project) -> list[SessionRow]:
    """Return the sessions of the default project, last updated first; none where there is no store
    yet.
    """
    return [row for row in await all_rows_of(project) if named_in(row.id)[0] == DEFAULT]


async def all_rows_of(project: Project) -> list[SessionRow]:
    """Return the sessions of all projects that a server keeps there, last updated first."""
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
    known = {shown(row.id): row.id for row in rows}
    if typed in known:
        return known[typed]
    # Those of other projects are meant only where their project is named.
    ids = [name for name, each in known.items() if name == each or "/" in typed]
    if typed == "@last" and ids:
        return ids[0]
    found = [each for each in ids if typed and each.removeprefix("ses_").startswith(typed)]
    found += [each for each in ids if typed and each.startswith(typed) and each not in found]
    if len(found) == 1:
        return known[found[0]]
    if found:
        several = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
        raise InvalidRequest(
            "E-SESSION-MANY", f"{typed!r} is the beginning of {several}.", "Type more."
        )
    close = difflib.get_close_matches(typed, ids, n=1)
    hint = f"Did you mean {close[0]}?" if close else "perdure ls    shows them all"
    raise NotFound("E-SESSION-UNKNOWN", f"There is no session {typed}.", hint)
