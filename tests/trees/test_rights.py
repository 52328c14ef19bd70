"""What a subagent may do is within what its parent may do, whatever the two definitions say."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from perdure.core.agent import (
    AgentSpec,
    Compaction,
    EnvironmentSpec,
    Limits,
    RetryPolicy,
    Rule,
    ToolSpec,
    Verdict,
)
from perdure.core.errors import InvalidRequest
from perdure.core.policy import decide
from perdure.core.rights import narrowed

STRICT = {Verdict.ALLOW: 0, Verdict.ASK: 1, Verdict.DENY: 2}
OPEN = {"none": 1, "bubblewrap": 1, "process": 2}  # no environment: what it starts is sandboxed
CONDITIONS = (
    "",
    "true",
    "n > 3",
    "n < 3",
    "startswith(to, 'a')",
    "missing > 1",
    "not )a condition",
)
# Each field of a definition is a right, which a child has no more of than its parent, or its own.
RIGHTS = {
    "permissions": "what forbids or asks above, forbids or asks below",
    "limits": "the lesser of two",
    "environment": "at least as closed",
    "approval_expires_s": "the sooner of two",
    "tools": "the child's own, under the conditions of the parent's tools of that name",
}
OWN = {
    "name",
    "model",
    "instructions",
    "retry",
    "max_output_tokens",
    "tool_retry",
    "fallbacks",
    "compaction",
    "deltas",
    "settings",
}
NAMES = ("pay", "look", "mail", "p*y")

conditions = st.sampled_from(CONDITIONS)
rules = st.builds(
    Rule, st.sampled_from((*NAMES, "*", "p*", "?ail")), st.sampled_from(Verdict), conditions
)
retries = st.none() | st.builds(RetryPolicy, st.integers(1, 9))
tools = st.builds(
    ToolSpec,
    st.sampled_from(NAMES),
    st.just("a tool"),
    st.just(msgspec.Raw(b"{}")),
    ask=conditions,
    deny=conditions,
    client=st.booleans(),
    retry=retries,
    on_error=st.sampled_from(("model", "ask", "fail")),
)
limits = st.builds(
    Limits,
    st.none() | st.integers(0, 50),
    st.none() | st.integers(0, 50),
    st.none() | st.floats(0, 100),
    st.none() | st.integers(0, 50),
    st.none() | st.floats(0, 5),
)
paths = st.lists(st.sampled_from(("/a", "/b", "/c")), max_size=3).map(tuple)
environments = st.builds(
    EnvironmentSpec,
    st.sampled_from(("none", "bubblewrap", "process", "unheard-of")),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    paths,
    paths,
)
agents = st.builds(
    AgentSpec,
    st.just("agent"),
    st.just("scripted:x"),
    tools=st.lists(tools, max_size=3, unique_by=lambda t: t.name).map(tuple),
    permissions=st.lists(rules, max_size=4).map(tuple),
    limits=limits,
    environment=environments,
    approval_expires_s=st.floats(1, 1000),
    tool_retry=retries,
    fallbacks=st.lists(st.sampled_from(("scripted:y", "scripted:z"))).map(tuple),
    compaction=st.builds(Compaction, st.booleans(), st.none() | st.integers(1, 100)),
)
arguments = st.fixed_dictionaries(
    {}, optional={"n": st.integers(0, 6), "to": st.sampled_from("ab")}
)


def verdict(agent: AgentSpec, spec: ToolSpec, given_arguments: dict[str, Any]) -> int:
    """How strictly an agent meets a call; its own tool of that name has a say too."""
    own = agent.tool(spec.name)
    said = [decide(spec, agent.permissions, given_arguments)]
    if own is not None:
        said.append(decide(own, agent.permissions, given_arguments))
    return max(STRICT[each.verdict] for each in said)


def within(below: float | None, above: float | None) -> bool:
    return above is None or (below is not None and below <= above)


@settings(max_examples=400, deadline=None)
@given(agents, limits, agents, agents, arguments)
def test_rights_of_a_child_are_within_those_of_its_parent(
    parent: AgentSpec, left: Limits, child: AgentSpec, grandchild: AgentSpec, with_: dict[str, Any]
) -> None:
    try:
        below = narrowed(parent, left, child)
    except InvalidRequest:
        return
    assert_within(parent, left, below, with_)
    assert all(rule in below.permissions for rule in child.permissions)
    try:
        further = narrowed(below, below.limits, grandchild)
    except InvalidRequest:
        return
    assert_within(below, below.limits, further, with_)
    assert_within(parent, left, further, with_)


def assert_within(parent: AgentSpec, left: Limits, below: AgentSpec, with_: dict[str, Any]) -> None:
    for spec in (*below.tools, *parent.tools):
        allowed_below = verdict(below, spec, with_)
        assert allowed_below >= STRICT[decide(spec, parent.permissions, with_).verdict]
        own = parent.tool(spec.name)
        if own is not None:
            assert allowed_below >= STRICT[decide(own, parent.permissions, with_).verdict]
    for name in Limits.__struct_fields__:
        assert within(getattr(below.limits, name), getattr(left, name)), name
    inner, outer = below.environment, parent.environment
    assert inner.kind == outer.kind or OPEN[inner.kind] <= OPEN.get(outer.kind, 9)
    assert outer.in_place or not inner.in_place
    assert set(inner.read_only) <= set(outer.read_only)
    assert set(outer.exclude) <= set(inner.exclude)
    for name in ("memory_bytes", "processes", "timeout_s", "output_bytes", "file_bytes"):
        assert getattr(inner, name) <= getattr(outer, name), name
    assert below.approval_expires_s <= parent.approval_expires_s


@given(agents, limits, agents)
def test_what_is_no_right_is_the_childs_own(
    parent: AgentSpec, left: Limits, child: AgentSpec
) -> None:
    """What a child is made of is its author's matter, and nothing of its parent's comes to it."""
    try:
        below = narrowed(parent, left, child)
    except InvalidRequest:
        return
    for name in (*OWN, "tools"):
        assert getattr(below, name) == getattr(child, name), name
    assert below.approval_expires_s <= child.approval_expires_s


def test_of_every_field_it_is_decided_whether_it_is_a_right() -> None:
    """A new field of a definition has to be put on one of the two lists."""
    assert set(AgentSpec.__struct_fields__) == {*RIGHTS, *OWN}
    assert set(EnvironmentSpec.__struct_fields__) == {
        "kind", "in_place", "memory_bytes", "processes", "timeout_s", "output_bytes", "file_bytes",
        "read_only", "exclude", "network",
    }  # fmt: skip


def test_a_subagent_reaches_no_host_that_its_parent_does_not() -> None:
    parent, child = agent_in("bubblewrap"), agent_in("bubblewrap")
    above = replace(parent.environment, network=("a.example", "b.example"))
    own = replace(child.environment, network=("b.example", "*"))
    parent, child = replace(parent, environment=above), replace(child, environment=own)
    assert narrowed(parent, Limits(), child).environment.network == ("b.example",)


def agent_in(kind: str, *, in_place: bool = False) -> AgentSpec:
    return AgentSpec("a", "scripted:x", environment=EnvironmentSpec(kind, in_place))


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        (agent_in("bubblewrap"), agent_in("process")),
        (agent_in("none"), agent_in("process")),
        (agent_in("bubblewrap"), agent_in("bubblewrap", in_place=True)),
        (agent_in("none"), agent_in("bubblewrap", in_place=True)),
    ],
)
def test_a_more_open_environment_is_refused(parent: AgentSpec, child: AgentSpec) -> None:
    with pytest.raises(InvalidRequest) as caught:
        narrowed(parent, Limits(), child)
    assert caught.value.code == "E-SUBAGENT-RIGHTS"


def test_a_sandbox_below_a_parent_without_one_is_fine() -> None:
    assert narrowed(agent_in("none"), Limits(), agent_in("bubblewrap")).environment.kind == (
        "bubblewrap"
    )


def test_what_a_tool_above_asks_for_itself_is_asked_of_its_namesake_below() -> None:
    schema = msgspec.Raw(b"{}")
    parent = AgentSpec("p", "scripted:x", tools=(ToolSpec("p*y", "", schema, deny="true"),))
    child = AgentSpec("c", "scripted:x", tools=(ToolSpec("p*y", "", schema),))
    below = narrowed(parent, Limits(), child)
    assert decide(child.tools[0], below.permissions, {}).verdict is Verdict.DENY
    other = ToolSpec("paay", "", schema)
    assert decide(other, below.permissions, {}).verdict is Verdict.ALLOW
