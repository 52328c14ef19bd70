"""This server among the nodes of its store: it says where it is, listens to the others for its
clients, lets them listen, and ends when it is told to.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.routing import BaseRoute

from perdure.doors.services import Services
from perdure.engine.runtime import Engine
from perdure.ports.clock import Clock
from perdure.ports.cluster import Cluster
from perdure.serving.live import LiveDoor
from perdure.serving.loopback import is_loopback
from perdure.serving.secret import ClusterSecret
from perdure.serving.upstreams import Upstreams
from perdure.stores.projects import ProjectStores

_LOG: Final = logging.getLogger("perdure.server")
_LOOK_S: Final = 0.5


class Membership:
    """What a server is to the other nodes. With a store that knows no nodes it is nothing."""

    def __init__(self, stores: ProjectStores, clock: Clock, fresh: Callable[[int], bytes]) -> None:
        base = stores.base
        self.cluster: Cluster | None = base if isinstance(base, Cluster) else None
        self._secret = ClusterSecret(base, clock, fresh)
        self._upstreams: Upstreams | None = None
        if self.cluster is not None:
            self._upstreams = Upstreams(self.cluster, self._secret, stores.joined)

    def routes(self, services: Services) -> Sequence[BaseRoute]:
        """Return the routes for the other nodes."""
        return LiveDoor(services, self._secret).routes() if self.cluster is not None else ()

    def attach(self, project: str, engine: Engine) -> None:
        """Let clients of a project follow what other nodes work on."""
        if self._upstreams is not None:
            self._upstreams.attach(project, engine)

    async def announce(self, address: str) -> None:
        """Tell the other nodes where this one is. Raises `Unavailable`."""
        if self.cluster is not None:
            await self.cluster.announce(address)

    async def until_told(self, cluster: Cluster) -> None:
        """Wait until somebody tells this node to drain."""
        while True:
            if cluster.draining:
                _LOG.warning("node.drains name=%s", cluster.node)
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """Listen to nobody any more."""
        if self._upstreams is not None:
            await self._upstreams.close()


def address_of(url: str, host: str, advertise: str) -> str:
    """Return where other nodes reach a server that listens on `host` and says `url` of itself.

    `advertise` is what the operator says about it. On all addresses of a machine it is the one
    that the machine's own name stands for, or that name.
    """
    if advertise:
        return advertise.rstrip("/")
    if is_loopback(host) or not _is_unspecified(host):
        return url.rstrip("/")
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError:
        found = ""
    if found and not ipaddress.ip_address(found).is_loopback:
        name = found
    return f"http://{name}:{urlsplit(url).port or 80}"


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False
