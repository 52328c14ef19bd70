"""What a subagent may do: never more than the session that started it, on any dimension.

Pure. Permissions add up (what forbids or asks above holds below), limits are the lesser of two,
an environment is at least as closed, an approval can be given no longer. What a definition leaves
out is not thereby unlimited. Its words, its tools, its models and fallbacks, how it tries again and
compacts are its own: they spend from the budget above it and pass the permissions above it. What
people allowed a session beyond one call stays in that session.
"""

from typing import Final, TypeVar

from msgspec.structs import replace

from perdure.core.agent import AgentSpec, EnvironmentSpec, Limits, Rule, ToolSpec, Verdict
from perdure.core.errors import InvalidRequest

N = TypeVar("N", int, float)

# From the most closed to the most open. Without an environment a parent lets nothing touch the
# host, so a subagent of its own must be at least in a sandbox.
_OPENNESS: Final = {"none": 0, "bubblewrap": 1, "process": 2}
_GLOB: Final = str.maketrans({"*": "[*]", "?": "[?]", "[": "[[]"})


def narrowed(parent: AgentSpec, left: Limits, child: AgentSpec) -> AgentSpec:
    """Return `child` as it may run below `parent`, which has `left` left of its limits.

    Raises `InvalidRequest` (E-SUBAGENT-RIGHTS) where its environment would be more open.
    """
    rules = (*child.permissions, *parent.permissions, *_own_conditions(parent.tools))
    return replace(
        child,
        permissions=tuple(dict.fromkeys(rules)),
        limits=_least(child.limits, left),
        environment=_environment(parent, child),
        approval_expires_s=min(child.approval_expires_s, parent.approval_expires_s),
    )


def _own_conditions(tools: tuple[ToolSpec, ...]) -> list[Rule]:
    """Return what the parent's tools ask for themselves, as rules: a tool of the same name
    below must not be a way around them.
    """
    rules: list[Rule] = []
    for tool in tools:
        name = tool.name.translate(_GLOB)
        for verdict, when in ((Verdict.DENY, tool.deny), (Verdict.ASK, tool.ask)):
            if when:
                rules.append(Rule(name, verdict, when, "as above this subagent"))
    return rules


def _least(own: Limits, left: Limits) -> Limits:
    return Limits(
        steps=_lesser(own.steps, left.steps),
        tool_calls=_lesser(own.tool_calls, left.tool_calls),
        wall_s=_lesser(own.wall_s, left.wall_s),
        tokens=_lesser(own.tokens, left.tokens),
        usd=_lesser(own.usd, left.usd),
    )


def _lesser(one: N | None, other: N | None) -> N | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _environment(parent: AgentSpec, child: AgentSpec) -> EnvironmentSpec:
    above, own = parent.environment, child.environment
    most = max(_OPENNESS.get(above.kind, 0), _OPENNESS["bubblewrap"])
    # A kind that nobody here knows is taken for the most open one.
    if own.kind != above.kind and _OPENNESS.get(own.kind, len(_OPENNESS)) > most:
        raise _too_open(parent, child, f"environment {own.kind!r} below {above.kind!r}")
    if own.kind != "none" and own.in_place and not above.in_place:
        raise _too_open(parent, child, "an in-place workspace, which its parent has not")
    # The bounds hold even where there is no environment: for those further below that have one.
    return EnvironmentSpec(
        kind=own.kind,
        in_place=own.in_place and above.in_place,
        memory_bytes=min(own.memory_bytes, above.memory_bytes),
        processes=min(own.processes, above.processes),
        timeout_s=min(own.timeout_s, above.timeout_s),
        output_bytes=min(own.output_bytes, above.output_bytes),
        file_bytes=min(own.file_bytes, above.file_bytes),
        read_only=tuple(path for path in own.read_only if path in above.read_only),
        exclude=tuple(dict.fromkeys((*own.exclude, *above.exclude))),
        network=tuple(place for place in own.network if place in above.network),
    )


def _too_open(parent: AgentSpec, child: AgentSpec, what: str) -> InvalidRequest:
    return InvalidRequest(
        "E-SUBAGENT-RIGHTS",
        f"Subagent {child.name} of {parent.name} wants {what}. A subagent may do no more than "
        "its parent; nothing was started.",
        "Give it workspace=True (a sandbox of its own) or no environment.",
    )
