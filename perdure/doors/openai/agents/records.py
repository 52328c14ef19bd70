"""What is kept of agents and of sessions beside the journals."""

from typing import Any, Final

import msgspec

from perdure.doors.documents import Documents
from perdure.ports.store import Store

Json = dict[str, Any]

AGENT: Final = "openai.agent"
SESSION: Final = "openai.session"


class AgentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A reusable agent. `settings` are all its fields in the form they are read. Times in
    seconds.
    """

    id: str
    created_at: int
    updated_at: int
    settings: Json
    metadata: dict[str, str] = {}


class SessionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session as its client made it.

    `settings` are those of its agent as they are for it, `environment` what is shown of where it
    works. `spend_limit` is in US cents. `served` maps our name of an MCP server's tool to what the
    client calls the server, and the server the tool.
    """

    id: str
    created_at: int
    agent_id: str
    settings: Json
    environment: Json
    metadata: dict[str, str] = {}
    vault_ids: tuple[str, ...] = ()
    spend_limit: int | None = None
    prompt_cache_options: Json | None = None
    review: str = ""
    served: dict[str, tuple[str, str]] = {}


def agents(store: Store) -> Documents[AgentRecord]:
    """Return the agents of a project."""
    return Documents(store, AGENT, AgentRecord)


def sessions(store: Store) -> Documents[SessionRecord]:
    """Return the sessions of a project."""
    return Documents(store, SESSION, SessionRecord)
