"""Permissions: forbidding wins, doubt asks, and an approval is bound to what was approved."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from perdure.core.agent import Effect, Rule, ToolSpec, Verdict
from perdure.core.policy import approval_digest, decide

ALLOW, ASK, DENY = Verdict.ALLOW, Verdict.ASK, Verdict.DENY


def make(name: str = "refund", *, schema: dict[str, Any] | None = None, **rest: Any) -> ToolSpec:
    raw = msgspec.Raw(msgspec.json.encode(schema or {"type": "object"}))
    return ToolSpec(name, "Pay back.", raw, **rest)


def test_no_rule_means_allow() -> None:
    assert decide(make(), [], {}).verdict is ALLOW


def test_the_tools_own_condition_and_the_words_people_read() -> None:
    spec = make(ask="eur > 20", deny="eur > 1000")
    assert decide(spec, [], {"eur": 5}).verdict is ALLOW
    assert decide(spec, [], {"eur": 50}).rule == "refund: eur > 20 → ask"
    assert decide(spec, [], {"eur": 5000}).rule == "refund: eur > 1000 → deny"


def test_deny_beats_ask_beats_allow_in_any_order() -> None:
    rules = [Rule("*", ALLOW), Rule("re*", ASK, reason="money"), Rule("refund", DENY)]
    for order in (rules, rules[::-1]):
        assert decide(make(), order, {}).verdict is DENY
        without = [rule for rule in order if rule.verdict is not DENY]
        assert decide(make(), without, {}).verdict is ASK
        assert decide(make(), without, {}).reason == "money"


def test_names_match_as_globs_and_exactly_in_case() -> None:
    assert decide(make("git__push"), [Rule("git__*", DENY)], {}).verdict is DENY
    assert decide(make("Git__push"), [Rule("git__*", DENY)], {}).verdict is ALLOW


@pytest.mark.parametrize("verdict", [ASK, DENY])
def test_what_cannot_be_decided_asks_and_says_why(verdict: Verdict) -> None:
    missing = decide(make(), [Rule("refund", verdict, "eur > 20")], {})
    assert missing.verdict is ASK
    assert "no argument eur" in missing.reason
    unreadable = decide(make(), [Rule("refund", verdict, "eur >")], {"eur": 1})
    assert unreadable.verdict is ASK
    assert "is wrong at character" in unreadable.reason


def test_an_undecided_allow_says_nothing() -> None:
    assert decide(make(), [Rule("refund", ALLOW, "eur > 20")], {}).rule == "no rule → allow"


def test_defaults_count_for_our_tools_and_not_for_a_servers() -> None:
    schema = {"type": "object", "properties": {"force": {"type": "boolean", "default": False}}}
    assert decide(make(schema=schema, ask="force"), [], {}).verdict is ALLOW
    assert decide(make(schema=schema, ask="force"), [], {"force": True}).verdict is ASK
    remote = make(schema=schema, ask="force", source="mcp:shop")
    assert decide(remote, [], {}).verdict is ASK


def test_an_approval_is_bound_to_the_arguments() -> None:
    spec = make()
    base = approval_digest(spec, '{"eur": 1, "order": {"a": 1, "b": 2}}')
    assert base == approval_digest(spec, '{"order":{"b":2,"a":1},"eur":1}')
    for other in ('{"eur": 2}', '{"eur": 1.0}', '{"eur": "1"}', '{"eur": true}', "{}", "not json"):
        assert approval_digest(spec, other) != approval_digest(spec, '{"eur": 1}')
    assert approval_digest(spec, '{"eur": NaN}') != approval_digest(spec, '{"eur": null}')


def test_an_approval_is_bound_to_the_tool() -> None:
    base = approval_digest(make(), "{}")
    others = [make("other"), make(effect=Effect.READ), make(source="m:f"), make(schema={"a": 1})]
    assert all(approval_digest(spec, "{}") != base for spec in others)


WHENS = st.sampled_from(["", "true", "false", "eur > 20", "eur >", "force", "no.such[1]", "\ud800"])
RULES = st.lists(
    st.builds(
        Rule, st.sampled_from(["*", "refund", "re*", "x", "[", ""]), st.sampled_from(Verdict), WHENS
    )
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["eur", "force"]), st.none() | st.booleans() | st.floats() | st.text()
)


@given(RULES, WHENS, WHENS, ARGUMENTS)
def test_never_crashes_and_more_rules_never_permit_more(
    rules: list[Rule], ask: str, deny: str, arguments: dict[str, Any]
) -> None:
    strength = [ALLOW, ASK, DENY]
    spec = make(ask=ask, deny=deny)
    whole = strength.index(decide(spec, rules, arguments).verdict)
    for i in range(len(rules)):
        fewer = decide(spec, rules[:i] + rules[i + 1 :], arguments)
        assert strength.index(fewer.verdict) <= whole


@given(RULES, ARGUMENTS, st.integers(0, 10))
def test_a_deny_that_holds_never_loses(
    rules: list[Rule], arguments: dict[str, Any], place: int
) -> None:
    mixed = [*rules[:place], Rule("refund", DENY), *rules[place:]]
    assert decide(make(), mixed, arguments).verdict is DENY


@given(st.text(max_size=40) | st.dictionaries(st.text(), st.floats() | st.text()).map(json.dumps))
def test_an_approval_digest_exists_for_any_text(text: str) -> None:
    assert len(approval_digest(make(), text)) == 64
