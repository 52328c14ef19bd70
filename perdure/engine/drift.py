"""What is said when the code behind a session is missing, or is not what it was."""

from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.errors import NotFound


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
