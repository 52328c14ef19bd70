"""`perdure show A B --compare`: two sessions side by side."""

import json as plain_json

from perdure.cli.changes import between
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.show import parsed
from perdure.cli.wire import plain
from perdure.core.errors import InvalidRequest
from perdure.replaying import Comparison, compare, comparison_text


def beside(a: str, b: str, *, compare: bool, json: bool) -> int:
    """Print what two sessions share and where they differ, each at an event or as it is now."""
    if not b or not compare:
        name = b or "OTHER"
        raise InvalidRequest(
            "E-USAGE", "Two sessions are compared.", f"perdure show --compare {a} {name}"
        )
    screen = Screen(json=json)
    found = opened(lambda place: _compare(place, parsed(a), parsed(b)))
    if json:
        files = None if found.files is None else [
            {"path": change.path, "kind": change.kind} for change in found.files
        ]  # fmt: skip
        screen.line(plain_json.dumps({**plain(found), "files": files}))
        return 0
    screen.line()
    for line in comparison_text(found, screen.width - 2).splitlines():
        screen.line(f"  {line}".rstrip())
    return 0


async def _compare(
    place: Opened, a: tuple[str, int | None], b: tuple[str, int | None]
) -> Comparison:
    store = (await place.runtime.engine()).kit.store
    one, other = await place.session(a[0]), await place.session(b[0])
    return await compare(
        store, one.id, other.id, a[1], b[1],
        changes=lambda before, after: between(place, before, after, (one.id, other.id)),
    )  # fmt: skip
