"""Where a session works: the seam between making sessions and preparing environments."""

from typing import Final

from perdure.doors.openai.agents.environments import Host, Prepared as Place
from perdure.doors.openai.agents.hosting import WORKSPACE
from perdure.doors.services import Services
from perdure.engine.runtime import Engine

MOUNT: Final = WORKSPACE

__all__ = ["MOUNT", "Place", "place"]


async def place(
    engine: Engine, services: Services, given: object, session: str, vault_ids: tuple[str, ...]
) -> Place:
    """Return where a new session works, ready to be used. See `Host.environment_spec`."""
    return await Host(engine, services).environment_spec(given, session, vault_ids)
