"""The processes that share the store: who is alive, what runs where, and telling one to end."""

import os
from typing import Final

from starlette.responses import Response

from perdure.core.errors import Forbidden, InvalidRequest, NotFound
from perdure.doors.http import Call
from perdure.doors.native.bodies_nodes import Node, Nodes, NodeView, Placed
from perdure.doors.native.table import Operation, answer
from perdure.engine.nodes import ensure_alive
from perdure.ports.cluster import Cluster, NodeRow

_OPERATORS: Final = "default"  # whose admins see all projects


async def nodes(call: Call) -> Response:
    """List the processes that share the store; where it knows only this one, this one."""
    cluster = call.services.cluster
    if cluster is None:
        return answer(Nodes([_here(call, "")]))
    return answer(Nodes([_node(call, cluster, row) for row in await cluster.nodes()]))


async def node(call: Call) -> Response:
    """Show a node, and the sessions that it owns."""
    cluster, row = await _found(call)
    placed = []
    for name in await cluster.owned(row.name):
        project, session = call.services.projects.stores.parted(name)
        if project == call.principal.project or _sees_all(call):
            placed.append(Placed(project, session))
    return answer(NodeView(_node(call, cluster, row), placed))


async def drain(call: Call) -> Response:
    """Tell a node to take nothing new, give all up, and end. E-NODE-DEAD: it is dead already."""
    if not _sees_all(call):
        raise Forbidden(
            "E-ROLE",
            f"A node works for all projects: admins of {_OPERATORS} may tell it to end.",
            f"perdure admin keys new --role admin --project {_OPERATORS}",
        )
    cluster, row = await _found(call)
    ensure_alive(await cluster.nodes(), row.name)
    await cluster.drain_node(row.name)
    return answer(_node(call, cluster, (await _found(call))[1]), 202)


async def _found(call: Call) -> tuple[Cluster, NodeRow]:
    cluster, wanted = call.services.cluster, call.path["name"]
    if cluster is None:
        raise InvalidRequest("E-NODE-NONE", "The store of this server has no nodes.")
    for row in await cluster.nodes():
        if row.name == wanted:
            return cluster, row
    raise NotFound("E-NODE-UNKNOWN", f"There is no node {wanted!r}.", "perdure nodes")


def _sees_all(call: Call) -> bool:
    return call.principal.project == _OPERATORS and call.principal.may("admin")


def _node(call: Call, cluster: Cluster, row: NodeRow) -> Node:
    if row.name == cluster.node:
        return _here(call, row.name, row)
    return _told(call, Node(row.name, False, row.version, call.services.about["store"]), row)


def _here(call: Call, name: str, row: NodeRow | None = None) -> Node:
    about = call.services.about
    made = Node(
        name, True, about.get("version", ""), about.get("store", ""), os.getpid(),
        call.engine.driven,
    )  # fmt: skip
    return made if row is None else _told(call, made, row)


def _told(call: Call, made: Node, row: NodeRow) -> Node:
    """Return the node with what the store says about it, as far as the caller may know it."""
    shown = _sees_all(call)
    return Node(
        made.name, made.here, row.version or made.version, made.store, made.pid, made.driven,
        row.address if shown else "", row.host if shown else "", row.started_at_us,
        row.seen_at_us, row.lease_left_s, row.alive, row.draining, row.sessions, row.schema,
        row.behind,
    )  # fmt: skip


OPERATIONS: Final = (
    Operation("GET", "/nodes", nodes, "viewer", "list_nodes", "server", result=Nodes),
    Operation("GET", "/nodes/{name}", node, "viewer", "get_node", "server", result=NodeView),
    Operation("POST", "/nodes/{name}/drain", drain, "admin", "drain_node", "server", result=Node,
              status=202),
)  # fmt: skip
