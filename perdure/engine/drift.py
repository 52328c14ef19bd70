"""What is said when the code behind a session is missing, or is not what it was."""

from collections.abc import Mapping

from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.errors import Conflict, NotFound
from perdure.ports.tool import Tool


def missing(spec: AgentSpec) -> NotFound:
    """Return the error for an agent whose code is not loaded here."""
    return NotFound(
        "E-AGENT-MISSING",
        f"The code of agent {spec.name} is not loaded here. Nothing was lost.",
        "Run perdure where the agent is defined, then: perdure resume ID",
    )


def difference(old: AgentSpec, new: AgentSpec) -> str:
    """Say in a few words what differs between two definitions."""
    fields = [f for f in AgentSpec.__struct_fields__ if f != "tools"]
    changed = [f for f in fields if getattr(old, f) != getattr(new, f)]
    tools = _tools(old.tools) ^ _tools(new.tools)
    changed += sorted({f"tool {name}" for name, _ in tools})
    return ", ".join(changed) or "how its tools ask or time out"


def _tools(tools: tuple[ToolSpec, ...]) -> set[tuple[str, str]]:
    return {(tool.name, tool.digest) for tool in tools}


def as_pinned(spec: AgentSpec, tools: Mapping[str, Tool]) -> Mapping[str, Tool]:
    """Return those of `tools` that a session is pinned to. Raises `Conflict` (E-CODE-DRIFT) where
    one of them is not what it was.
    """
    pinned = {tool.name: tool.terms for tool in spec.tools}
    changed = [n for n, t in pinned.items() if n not in tools or tools[n].spec.terms != t]
    if changed:
        raise Conflict(
            "E-CODE-DRIFT",
            f"The code of agent {spec.name} changed since this session started: "
            f"tool {changed[0]!r} is not what it was. The session keeps waiting.",
            "perdure resume ID --adopt    to go on with the new definition",
        )
    return {name: tools[name] for name in pinned}
