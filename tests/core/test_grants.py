"""Grants: what they cover, and that they never weaken what forbids."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from perdure.core.agent import Effect, Rule, ToolSpec, Verdict
from perdure.core.conditions import parse
from perdure.core.grants import Asked, Grant, first_covering
from perdure.core.policy import asking, decide

CONDITIONS = (
    "",
    "eur > 20",
    "eur <= 20",
    "order == 'a'",
    "not eur > 20",
    "eur >",
    "len(order) < 2",
)
VALUES = st.one_of(
    st.integers(0, 40),
    st.floats(0, 40),
    st.sampled_from(["a", "bb", "20"]),
    st.none(),
    st.booleans(),
)
ARGUMENTS = st.dictionaries(st.sampled_from(["eur", "order", "other"]), VALUES)
SPECS = st.builds(
    ToolSpec,
    st.sampled_from(["refund", "pay"]),
    st.sampled_from(["Give back.", "Give it back."]),
    st.sampled_from([msgspec.Raw(b"{}"), msgspec.Raw(b'{"type":"object"}')]),
    st.sampled_from(Effect),
    source=st.sampled_from(["", "mcp:shop"]),
)
GRANTS = st.builds(
    Grant,
    st.sampled_from(["s:a1", "s:a2"]),
    st.sampled_from(["refund", "pay"]),
    SPECS.map(lambda spec: spec.digest),
    when=st.sampled_from(CONDITIONS),
    agent=st.sampled_from(["", "clerk", "boss"]),
    until_us=st.one_of(st.none(), st.integers(0, 10)),
)
RULES = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["refund", "*", "pay"]),
        st.sampled_from(Verdict),
        st.sampled_from(CONDITIONS[1:]),
    )
)


def allowed(
    grants: list[Grant], spec: ToolSpec, rules: list[Rule], arguments: dict[str, Any], now_us: int
) -> bool:
    """As the engine decides: a grant is asked for only where a person would be."""
    verdict = decide(spec, rules, arguments).verdict
    if verdict is Verdict.ASK:
        return first_covering(grants, spec, Asked("clerk", ""), arguments, now_us) is not None
    return verdict is Verdict.ALLOW


@given(st.lists(GRANTS), SPECS, RULES, ARGUMENTS, st.integers(0, 12))
@settings(max_examples=500, deadline=None)
def test_no_grant_lets_a_denied_call_through(
    grants: list[Grant],
    spec: ToolSpec,
    rules: list[Rule],
    arguments: dict[str, Any],
    now_us: int,
) -> None:
    said = [r for r in rules if r.verdict is Verdict.DENY and r.tool in ("*", spec.name)]
    certain = [r for r in said if _holds(r.when, arguments) is True]
    assert not (certain and allowed(grants, spec, rules, arguments, now_us))


def _holds(when: str, arguments: dict[str, Any]) -> bool | None:
    return None if when == "eur >" else parse(when).holds(arguments)


@given(GRANTS, SPECS, ARGUMENTS, st.integers(0, 12))
@settings(max_examples=500, deadline=None)
def test_what_a_grant_covers_is_certain(
    grant: Grant, spec: ToolSpec, arguments: dict[str, Any], now_us: int
) -> None:
    covers = grant.covers(spec, Asked("clerk", ""), arguments, now_us)
    fits = [
        grant.tool == spec.name,
        grant.digest == spec.digest,
        grant.agent in ("", "clerk"),
        grant.until_us is None or now_us < grant.until_us,
        not grant.when or _holds(grant.when, arguments) is True,
    ]
    assert covers == all(fits)


SPEC = ToolSpec("refund", "Give back.", msgspec.Raw(b"{}"), ask="true")
GRANT = Grant("s:a1", "refund", SPEC.digest, when="eur < 50", until_us=10, by="anna")


def test_a_grant_covers_what_it_is_for() -> None:
    assert GRANT.covers(SPEC, Asked("clerk", ""), {"eur": 49}, 9)
    assert GRANT.shown == "refund: eur < 50 → allow (this session, by anna)"


@pytest.mark.parametrize(
    "grant",
    [
        replace(GRANT, tool="pay"),
        replace(GRANT, digest=replace(SPEC, description="Give more.").digest),
        replace(GRANT, when="eur <"),
        replace(GRANT, when="eur < 49"),
        replace(GRANT, when="order == 1"),
        replace(GRANT, until_us=9),
        replace(GRANT, agent="boss"),
    ],
)
def test_it_covers_nothing_else(grant: Grant) -> None:
    assert not grant.covers(SPEC, Asked("clerk", ""), {"eur": 49}, 9)


def test_a_question_from_above_is_not_answered_by_what_was_allowed_without_it() -> None:
    own = (Rule(SPEC.name, Verdict.ASK, "eur > 20"),)
    above = (*own, Rule("*", Verdict.ASK, "eur > 10"))
    grant = replace(GRANT, asks=asking(SPEC, own))
    arguments = {"eur": 49}
    assert grant.covers(SPEC, Asked("clerk", asking(SPEC, own)), arguments, 9)
    assert not grant.covers(SPEC, Asked("clerk", asking(SPEC, above)), arguments, 9)
    other = (*own, Rule("other", Verdict.ASK), Rule(SPEC.name, Verdict.ALLOW, "eur > 1"))
    assert asking(SPEC, other) == asking(SPEC, own), "what asks about nothing here changes nothing"
