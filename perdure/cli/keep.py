"""`perdure replay ID --save-test FILE`: a session kept as a test that runs offline."""

import contextlib
import json as plain_json
from pathlib import Path, PurePosixPath
from typing import Final

from perdure.cli.agents import Overrides, load_agent, load_module
from perdure.cli.elsewhere import only_here
from perdure.cli.opened import Opened, opened
from perdure.cli.places import Ref
from perdure.cli.resume import ref_of
from perdure.cli.screen import Screen
from perdure.core.errors import Conflict, InvalidRequest
from perdure.engine.agent import Agent
from perdure.regression import check
from perdure.replaying import save_test

_OURS: Final = "perdure.regression"


def keep(screen: Screen, typed: str, file: str, agent: str) -> int:
    """Write the test and its journal, and run it once; return the status."""
    if not agent:
        only_here("--save-test without --agent MODULE:NAME")
    path = Path(file)
    _check_place(path)
    found, made = opened(lambda place: _keep(place, typed, path, agent))
    why = ""
    if made is not None:
        try:
            check(path.with_suffix(".jsonl"), made)
        except AssertionError as error:
            why = str(error)
    if screen.json:
        fields = {"files": [str(each) for each in found], "passes": not why, "why": why}
        screen.line(plain_json.dumps(fields))
        return 7 if why else 0
    for each in found:
        screen.line(screen.dim("  + ") + str(each))
    if why:
        screen.error(f"  It does not pass as the agent is now: {why}")
        return 7
    screen.line("  " + screen.dim("next  ") + f"python -m pytest {file}")
    return 0


def _check_place(path: Path) -> None:
    """Refuse what is no test of ours. Raises `InvalidRequest`, `Conflict`."""
    if path.suffix != ".py" or not path.stem.isidentifier():
        name = f"test_{path.stem}.py" if path.stem.isidentifier() else "test_session.py"
        raise InvalidRequest("E-USAGE", f"{path} is no name for a test.", f"--save-test {name}")
    if not path.parent.is_dir():
        raise InvalidRequest("E-USAGE", f"There is no directory {path.parent}.")
    if path.exists() and _OURS not in path.read_text(encoding="utf-8", errors="replace"):
        raise Conflict(
            "E-REPLAY-EXISTS", f"{path} is something else. Nothing was written.",
            "Choose another name.",
        )  # fmt: skip


async def _keep(
    place: Opened, typed: str, path: Path, agent: str
) -> tuple[tuple[Path, Path], Agent | None]:
    session = await place.session(typed)
    state = await session.state()
    found: Agent | None = None
    if not agent:
        agent, found = _defined(place, ref_of(place, state))
    store = (await place.runtime.engine()).kit.store
    return await save_test(store, session.id, path, agent), found


def _defined(place: Opened, ref: Ref) -> tuple[str, Agent]:
    """Return where the agent is defined, as `module:name`, and the agent."""
    where = ref.agent
    config = place.project.settings.agents.get(where)
    if config is not None:
        where = config.python
    file, _, name = where.partition(":")
    if not file.endswith(".py"):
        raise InvalidRequest(
            "E-REPLAY-AGENT", f"{ref.agent} is defined in TOML, which a test cannot import.",
            "Define it in Python, then: --agent MODULE:NAME",
        )  # fmt: skip
    with contextlib.chdir(ref.directory):
        agent = load_agent(where, place.project, Overrides())
        if not name:
            module = vars(load_module(Path(file)))
            name = next(n for n, v in module.items() if isinstance(v, Agent))
    parts = PurePosixPath(file).with_suffix("").parts
    return ".".join(part for part in parts if part not in (".", "/")) + f":{name}", agent
