"""`perdure approve --tools`: MCP tools whose definition changed since it was accepted."""

import json as plain_json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from perdure.cli.elsewhere import only_here
from perdure.cli.places import Places
from perdure.cli.screen import Screen
from perdure.cli.text import plural
from perdure.config import load_project
from perdure.core.errors import InvalidRequest, NotFound
from perdure.ports.tool import Held
from perdure.tools.mcp_pins import FilePins


def tools(names: Sequence[str], *, accept: bool, json: bool) -> int:
    """List what is held, with the difference; with `accept`, put in force what `names` say.

    Each is accepted as it was just shown: one that its server changes in between is refused.
    """
    only_here("approve --tools")
    screen = Screen(json=json)
    pins = FilePins(Places(load_project(Path.cwd())).home / "mcp-pins.json")
    held = pins.held()
    chosen = [_named(held, name) for name in names] or list(held)
    if accept and not names:
        raise InvalidRequest(
            "E-USAGE", "Say which tools to accept.", "perdure approve --tools SERVER:TOOL --allow"
        )
    if json:
        for each in chosen:
            screen.line(plain_json.dumps(msgspec.to_builtins(each) | {"accepted_now": accept}))
    if accept:
        for each in chosen:
            pins.accept(each.server, each.tool, each.digest)
            if not json:
                screen.line(f"Accepted {each.server}:{each.tool} as it is now.")
    elif not json:
        _list(screen, chosen)
    return 4 if chosen and not accept else 0


def _named(held: Sequence[Held], name: str) -> Held:
    for each in held:
        if f"{each.server}:{each.tool}" == name:
            return each
    known = ", ".join(f"{each.server}:{each.tool}" for each in held) or "none"
    raise NotFound("E-MCP-HELD", f"No changed tool {name} waits. Waiting: {known}.")


def _list(screen: Screen, held: Sequence[Held]) -> None:
    if not held:
        screen.line("No tool waits to be accepted.")
        return
    for each in held:
        screen.line("")
        screen.line(
            f"  {screen.bold(f'{each.server}:{each.tool}')}   changed since it was accepted"
        )
        for line in each.diff.splitlines():
            screen.line(f"    {line}")
    screen.line("")
    first = held[0]
    screen.line(f"  {plural(len(held), 'tool')} held back; agents work without them.")
    screen.line(f"  next  perdure approve --tools {first.server}:{first.tool} --allow")
