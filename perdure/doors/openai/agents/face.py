"""The routes of agents and of their sessions."""

from perdure.doors.http import Endpoint
from perdure.doors.openai.agents import agents, events, sessions

_SESSION = "/agents/sessions/{session_id}"
_SUBAGENT = f"{_SESSION}/subagents/{{subagent_id}}"

SESSIONS = (
    Endpoint("POST", "/agents/sessions", sessions.create, "operator", "sessions.create"),
    Endpoint("GET", "/agents/sessions", sessions.listed, "viewer", "sessions.list"),
    Endpoint("GET", _SESSION, sessions.retrieve, "viewer", "sessions.retrieve"),
    Endpoint("POST", _SESSION, sessions.update, "operator", "sessions.update"),
    Endpoint("DELETE", _SESSION, sessions.delete, "operator", "sessions.delete"),
    *events.ENDPOINTS,
    *(
        endpoint
        for base, kind in ((_SESSION, "sessions"), (_SUBAGENT, "subagents"))
        for endpoint in (
            Endpoint("GET", f"{base}/items", sessions.items, "viewer", f"{kind}.items"),
            Endpoint("GET", f"{base}/turns", sessions.turns, "viewer", f"{kind}.turns"),
            Endpoint("GET", f"{base}/turns/{{turn_id}}", sessions.turn, "viewer", f"{kind}.turn"),
            Endpoint(
                "GET",
                f"{base}/turns/{{turn_id}}/items",
                sessions.turn_items,
                "viewer",
                f"{kind}.turn_items",
            ),
        )
    ),
    Endpoint("GET", f"{_SESSION}/subagents", sessions.subagents, "viewer", "subagents.list"),
    Endpoint("GET", _SUBAGENT, sessions.subagent, "viewer", "subagents.retrieve"),
)
# Behind all paths that have a word where these have a name.
AGENTS = (
    Endpoint("POST", "/agents", agents.create, "operator", "agents.create"),
    Endpoint("GET", "/agents", agents.listed, "viewer", "agents.list"),
    Endpoint("GET", "/agents/{agent_id}", agents.retrieve, "viewer", "agents.retrieve"),
    Endpoint("POST", "/agents/{agent_id}", agents.update, "operator", "agents.update"),
    Endpoint("DELETE", "/agents/{agent_id}", agents.delete, "operator", "agents.delete"),
)
