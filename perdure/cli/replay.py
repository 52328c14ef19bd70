"""`perdure replay`: the same again, another model, or a test made of a session."""

import contextlib
import json as plain_json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.cli.failing import fields_of, print_error, status_of
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.show import parsed
from perdure.cli.text import one_line, plural, usd
from perdure.cli.wire import plain
from perdure.core.errors import ErrorInfo, InvalidRequest
from perdure.core.events import TurnEnded
from perdure.replaying import (
    ReplayReport,
    Rerun,
    replay_session,
    replay_session_with,
    rerun_text,
)


@dataclass(frozen=True)
class Wish:
    """What was typed behind `replay ID`."""

    model: str = ""
    instructions: str = ""
    stub: bool = False
    save_test: str = ""
    agent: str = ""

    @property
    def differently(self) -> bool:
        """Whether a model is to be called."""
        return bool(self.model or self.instructions or self.stub)


def replay(typed: str, wish: Wish, *, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    if wish.save_test:
        from perdure.cli.keep import keep

        if wish.differently:
            raise InvalidRequest("E-USAGE", "--save-test keeps what was recorded, unchanged.")
        return keep(screen, typed, wish.save_test, wish.agent)
    if wish.agent:
        raise InvalidRequest("E-USAGE", "--agent belongs to --save-test.")
    name, at = parsed(typed)
    if wish.differently:
        instructions = _read(wish.instructions)
        rerun = opened(lambda place: _differently(place, name, at, wish, instructions))
        return _show_rerun(screen, name, rerun)
    return show_report(screen, opened(lambda place: _same(place, name, at)))


async def _same(place: Opened, name: str, at: int | None) -> ReplayReport:
    session = await place.session(name)
    store = (await place.runtime.engine()).kit.store
    return await replay_session(store, session.id, at)


def show_report(screen: Screen, report: ReplayReport) -> int:
    """Say whether a session came out the same; return the status."""
    status = 0 if report.identical else 7
    if screen.json:
        fields: dict[str, Any] = {**plain(report), "identical": report.identical}
        screen.line(plain_json.dumps(fields))
        return status
    if report.divergence is None:
        screen.line(
            "  " + screen.style("✓ ", "green") + screen.bold(report.session)
            + f"  {plural(report.events, 'event')}, all identical"
        )  # fmt: skip
        screen.line(screen.dim("    no model was called, no tool was run, nothing was written"))
        return status
    seq = report.divergence.seq
    fields = {
        "code": "E-REPLAY-DIVERGED",
        "message": f"{report.session} comes out differently at event {seq}:"
        f" {one_line(report.divergence.text)}. Nothing was written.",
        "hint": f"perdure show {report.session}:{seq}",
    }
    print_error(screen, fields)
    return status


def _read(file: str) -> str | None:
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest("E-USAGE", f"{file} cannot be read: {error}.") from error


async def _differently(
    place: Opened, name: str, at: int | None, wish: Wish, instructions: str | None
) -> Rerun:
    session = await place.session(name)
    kit = (await place.runtime.engine()).kit
    ref = None if wish.model else place.places.ref(session.id)
    with contextlib.chdir(ref.directory if ref else Path.cwd()):  # where its model was named
        kit.models.get(wish.model or (await session.state(at)).spec.model)
        return await replay_session_with(
            kit.store,
            session.id,
            kit.models,
            at,
            model=wish.model,
            instructions=instructions,
            mode="stub" if wish.stub else "stop",
            prices=place.project.prices,
        )


def _show_rerun(screen: Screen, name: str, rerun: Rerun) -> int:
    error = _failure(rerun)
    if screen.json:
        fields = {k: v for k, v in plain(rerun).items() if k != "events"}
        screen.line(plain_json.dumps({**fields, "error": plain(error)}))
        return status_of(error) if error else 0
    screen.line()
    for line in rerun_text(rerun, screen.width - 2).splitlines():
        screen.line(f"  {line}".rstrip())
    screen.line()
    cost = f" for {usd(rerun.spent.micro_usd)}" if rerun.spent.micro_usd else ""
    called = f"{plural(rerun.spent.steps, 'model call')} made{cost}; no tool was run"
    screen.line(screen.dim(f"  {called}, nothing was written"))
    if rerun.stopped is not None:
        screen.line(screen.dim("  --stub lets the model read that there is no result, and goes on"))
    if error is not None:
        print_error(screen, fields_of(error, name))
        return status_of(error)
    return 0


def _failure(rerun: Rerun) -> ErrorInfo | None:
    """Return why the last turn went wrong, if it did by itself."""
    ends = [e.payload for e in rerun.events if isinstance(e.payload, TurnEnded)]
    if not ends or ends[-1].status not in ("failed", "budget"):
        return None
    return ends[-1].error
