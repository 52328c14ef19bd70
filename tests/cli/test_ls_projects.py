"""`perdure ls` in the store of a server: the sessions of the default project, or of all."""

import asyncio
from collections.abc import AsyncIterator

from perdure.engine.export import import_session
from perdure.stores.projects import ProjectStores
from perdure.stores.sqlite import SqliteStore
from tests.cli.shell import Shell


async def into(shell: Shell, project: str, lines: list[bytes]) -> None:
    async def given() -> AsyncIterator[bytes]:
        for line in lines:
            yield line

    store = await SqliteStore.open(shell.folder / ".perdure" / "perdure.db")
    try:
        await import_session(ProjectStores(store).of(project), given())
    finally:
        await store.close()


def test_other_projects_are_shown_when_asked_for_and_found_by_their_name(shell: Shell) -> None:
    shell.agent("Hello.")
    shell.perdure("run", "agent.py", "hi", "--session", "ses_one")
    exported = shell.perdure("export", "ses_one").out.encode().splitlines(keepends=True)
    asyncio.run(into(shell, "shop", exported))
    plain = shell.perdure("ls").out
    assert "ses_one" in plain
    assert "shop" not in plain
    assert "\x1f" not in plain
    assert [row["id"] for row in shell.perdure("ls", "--json").lines[0]] == ["ses_one"]
    shown = shell.perdure("ls", "--all-projects").out
    assert "shop/ses_one" in shown
    assert "\x1f" not in shown
    ids = [row["id"] for row in shell.perdure("ls", "--all-projects", "--json").lines[0]]
    assert sorted(ids) == ["ses_one", "shop/ses_one"]
    assert "Hello." in shell.perdure("show", "shop/ses_o").out
    assert shell.perdure("show", "shop/nothing").status == 3
    assert shell.perdure("show", "@last").status == 0
