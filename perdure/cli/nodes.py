"""`perdure nodes`: the processes that share a store, what runs where, and telling one to end."""

import json as plain_json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from perdure.cli.elsewhere import engine_of
from perdure.cli.opened import Opened, opened
from perdure.cli.screen import Screen
from perdure.cli.text import clip, duration, one_line, pad, plural
from perdure.doors.native.bodies_nodes import Placed
from perdure.engine.nodes import after_draining, ensure_alive, meant
from perdure.ports.cluster import Cluster, NodeRow
from perdure.stores.projects import ProjectStores
from perdure.stores.system import SystemClock

_HEAD: Final = ("node", "address", "version", "up for", "sessions", "behind", "lease")
_WIDTHS: Final = (36, 40, 12, 8, 9, 8, 64)
_FREE: Final = "free to be taken"
_NO_NODES: Final = "This store has no nodes: it is in the memory of one process."


class Shown(NamedTuple):
    """A node and what it owns."""

    node: NodeRow
    sessions: Sequence[Placed]


def ls(*, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    return opened(lambda place: _ls(screen, place))


async def _ls(screen: Screen, place: Opened) -> int:
    found = await _nodes(place)
    if screen.json:
        screen.line(plain_json.dumps([] if found is None else [_fields(row) for row in found]))
        return 0
    if not found:
        screen.line(_NO_NODES if found is None else "No node is alive. Try: perdure up")
        return 0
    lines = [_columns(row) for row in found]
    table = zip(_WIDTHS, *(_HEAD, *lines), strict=True)
    widths = [min(most, max(map(len, each))) for most, *each in table]
    screen.line(screen.dim("    " + _padded(_HEAD, widths)))
    for row, line in zip(found, lines, strict=True):
        sign = screen.style("●", "green") if row.alive else screen.style("✗", "red")
        screen.line(f"  {sign} {_padded(line, widths)}")
    return 0


def _columns(row: NodeRow) -> tuple[str, ...]:
    fields = (row.name, _place(row), row.version or "?", _since(row), _count(row), str(row.behind))
    return (*map(one_line, fields), _lease(row))


def _padded(fields: Sequence[str], widths: Sequence[int]) -> str:
    pairs = zip(fields, widths, strict=True)
    return "  ".join(pad(clip(field, width), width) for field, width in pairs).rstrip()


def show(name: str, *, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    return opened(lambda place: _show(screen, place, name))


async def _show(screen: Screen, place: Opened, typed: str) -> int:
    node, sessions = await _shown(place, meant(await _nodes(place) or [], typed))
    if screen.json:
        owned = [{"project": each.project, "session": each.session} for each in sessions]
        screen.line(plain_json.dumps(_fields(node) | {"owned": owned}))
        return 0
    screen.line(f"  {screen.bold(one_line(node.name))}")
    for what, text in (
        ("address", node.address or "none: it serves nobody"),
        ("host", node.host or "?"),
        ("version", f"{node.version or '?'}   tables {node.schema}"),
        ("up for", _since(node)),
        ("lease", _lease(node)),
    ):
        screen.line(f"  {what:<10} {one_line(text)}")
    if node.behind:
        screen.line(f"  {'behind':<10} {plural(node.behind, 'letter')} to be taken")
    left = "" if node.alive else "left "
    free = "" if node.alive or not node.sessions else screen.dim(f"   {_FREE}")
    screen.line(f"  {left}{plural(node.sessions, 'session')}{free}")
    for each in sessions:
        project = "" if each.project == "default" else screen.dim(f"  project {each.project}")
        screen.line(f"    {one_line(each.session)}{project}")
    return 0


def drain(name: str, *, json: bool) -> int:
    """Carry out the verb."""
    screen = Screen(json=json)
    return opened(lambda place: _drain(screen, place, name))


async def _drain(screen: Screen, place: Opened, typed: str) -> int:
    rows = await _nodes(place) or []
    name = meant(rows, typed)
    ensure_alive(rows, name)
    if place.project.remote:
        await (await engine_of(place.runtime)).drain_node(name)
    else:
        cluster = await _cluster(place)
        assert cluster is not None, "it has just been found"
        await cluster.drain_node(name)
    if screen.json:
        screen.line(plain_json.dumps({"name": name, "draining": True}))
        return 0
    screen.line(f"  {one_line(name)} takes nothing new, lets what runs end, and ends itself.")
    screen.line("  " + screen.dim(after_draining(rows, name)))
    return 0


async def _nodes(place: Opened) -> list[NodeRow] | None:
    """Return the nodes but this command; None where the store has none."""
    if place.project.remote:
        found = [each for each in await (await engine_of(place.runtime)).nodes() if each.name]
        rows = [msgspec.convert(msgspec.to_builtins(each), NodeRow) for each in found]
        return rows or None  # a server whose store knows no nodes has no name itself
    cluster = await _cluster(place)
    if cluster is None:
        return None
    return [row for row in await cluster.nodes() if row.name != cluster.node]


async def _cluster(place: Opened) -> Cluster | None:
    store = (await place.runtime.engine()).kit.store
    return store if isinstance(store, Cluster) else None


async def _shown(place: Opened, name: str) -> Shown:
    if place.project.remote:
        view = await (await engine_of(place.runtime)).node(name)
        return Shown(msgspec.convert(msgspec.to_builtins(view.node), NodeRow), view.sessions)
    cluster = await _cluster(place)
    assert cluster is not None, "it has just been found"
    stores = ProjectStores((await place.runtime.engine()).kit.store)
    owned = [stores.parted(each) for each in await cluster.owned(name)]
    (row,) = [row for row in await cluster.nodes() if row.name == name] or [NodeRow(name)]
    return Shown(row, [Placed(project, session) for project, session in owned])


def _place(row: NodeRow) -> str:
    return row.address or (f"on {row.host}" if row.host else "–")


def _since(row: NodeRow) -> str:
    now_us = row.seen_at_us or SystemClock().now_us()
    return duration(max(0, now_us - row.started_at_us)) if row.started_at_us else "?"


def _count(row: NodeRow) -> str:
    """Say what it owns. What a dead one left stays under its name until somebody has to work on it:
    one that waits for a person, or sleeps, is taken when that is over.
    """
    return str(row.sessions) if row.alive or not row.sessions else f"left {row.sessions}"


def _lease(row: NodeRow) -> str:
    """Say how it stands: a store without leases knows a process is there as long as it lives."""
    if not row.alive:
        left = f"; what it left is {_FREE}" if row.sessions else ""
        return f"dead, silent for {duration(int(-row.lease_left_s * 1_000_000))}{left}"
    held = f"{row.lease_left_s:.1f} s left" if row.lease_left_s > 0 else "while it lives"
    return "draining, " + held if row.draining else held


def _fields(row: NodeRow) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return fields
