"""`perdure export` and `perdure import`: a session's journal out of one store, into another."""

import asyncio
import json as plain_json
import sys
from pathlib import Path

from perdure.cli.me import whoami
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Places
from perdure.cli.screen import Screen
from perdure.cli.worker import runtime_of
from perdure.config import load_project
from perdure.core.errors import InvalidRequest
from perdure.replaying import export_session


def export(typed: str) -> int:
    """Write a session's journal to standard output."""
    return opened(lambda place: _export(place, typed))


async def _export(place: Opened, typed: str) -> int:
    session = await place.session(typed)
    store = (await place.runtime.engine()).kit.store
    async for line in export_session(store, session.id):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    return 0


def import_(file: str, name: str, *, json: bool) -> int:
    """Store the journal that a file holds; - is standard input."""
    screen = Screen(json=json)
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidRequest("E-USAGE", f"{file} cannot be read: {error.strerror}.") from error
    session = asyncio.run(_import(data, name))
    if json:
        screen.line(plain_json.dumps({"session": session}))
        return 0
    screen.line(f"  {screen.bold(session)} is here, its chain of hashes checked.")
    steps = [f"perdure show {session}", f"perdure resume {session} --agent FILE.py"]
    screen.line("  " + screen.dim("next  ") + screen.dim(" · ").join(steps))
    return 0


async def _import(data: bytes, name: str) -> str:
    project = load_project(Path.cwd())
    Places(project).prepare()
    async with runtime_of(project, clerk=True) as runtime:
        return await (await runtime.engine()).bring(data.splitlines(), name, by=whoami())
