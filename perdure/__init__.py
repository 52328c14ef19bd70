"""Perdure: the place where an agent lives.

Nothing is imported before it is used, so that `perdure --help` and a small script start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.app import Runtime
    from perdure.core.agent import (
        Compaction,
        EnvironmentSpec,
        Limits,
        RetryPolicy,
        RetryPolicy as Retry,
        Rule,
        Verdict,
    )
    from perdure.core.errors import PerdureError
    from perdure.core.events import Event
    from perdure.engine.agent import Agent
    from perdure.engine.hub import Live
    from perdure.engine.session import Session
    from perdure.engine.subagents import subagent
    from perdure.ports.tool import OutcomeUnknown, ToolContext, ToolOutput
    from perdure.replaying import replay_session, replay_session_with
    from perdure.tools.client import ask_user, client_tool, form
    from perdure.tools.python import tool
    from perdure.tools.waiting import sleep, wait_for

__version__ = "0.1.0"

_HOMES = (
    ("perdure.app", ("Runtime",)),
    (
        "perdure.core.agent",
        ("Compaction", "EnvironmentSpec", "Limits", "RetryPolicy", "Rule", "Verdict"),
    ),
    ("perdure.core.errors", ("PerdureError",)),
    ("perdure.core.events", ("Event",)),
    ("perdure.engine.agent", ("Agent",)),
    ("perdure.engine.hub", ("Live",)),
    ("perdure.engine.session", ("Session",)),
    ("perdure.engine.subagents", ("subagent",)),
    ("perdure.ports.tool", ("OutcomeUnknown", "ToolContext", "ToolOutput")),
    ("perdure.replaying", ("replay_session", "replay_session_with")),
    ("perdure.tools.client", ("ask_user", "client_tool", "form")),
    ("perdure.tools.python", ("tool",)),
    ("perdure.tools.waiting", ("sleep", "wait_for")),
)

__all__ = [
    "Agent",
    "Compaction",
    "EnvironmentSpec",
    "Event",
    "Limits",
    "Live",
    "OutcomeUnknown",
    "PerdureError",
    "Retry",
    "RetryPolicy",
    "Rule",
    "Runtime",
    "Session",
    "ToolContext",
    "ToolOutput",
    "Verdict",
    "ask_user",
    "client_tool",
    "form",
    "replay_session",
    "replay_session_with",
    "sleep",
    "subagent",
    "tool",
    "wait_for",
]


def __getattr__(name: str) -> Any:
    if name == "Retry":  # the short name, for `@tool(retry=Retry(...))`
        name = "RetryPolicy"
    for home, names in _HOMES:
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")
