"""The first key: how a server that was just installed lets its owner in, and nobody else."""

from typing import Final

from perdure.core.errors import Conflict, Forbidden
from perdure.serving.loopback import is_loopback
from perdure.serving.server import Server
from perdure.stores.projects import DEFAULT

_KIND: Final = "first-key"


async def first_key(server: Server, host: str) -> str | None:
    """Return a new admin key when the store has none yet, to be shown once; else None.

    Raises `Forbidden` (E-UP-OPEN) when there is none and `host` is no loopback address: a server
    that others can reach begins with a key that somebody made on purpose. With an OpenID provider
    nobody needs a key.
    """
    if await server.keys.any() or server.services.settings.oidc is not None:
        return None
    if not is_loopback(host):
        raise Forbidden(
            "E-UP-OPEN",
            f"{host} can be reached from elsewhere, and this store has no API keys yet.",
            "perdure admin keys new --role admin    or listen on 127.0.0.1",
        )
    record, key = await server.keys.make(DEFAULT, "admin", name="first", by="perdure up")
    try:
        await server.stores.base.put_doc(_KIND, "first", record.id.encode(), expect=0)
    except Conflict:  # another node began at the same moment: one first key is enough
        await server.keys.revoke(record.id)
        return None
    return key
