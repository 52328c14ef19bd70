"""The condition language: what it answers, what it refuses, and that it never guesses or falls."""

import ast
import gc
from typing import Any

import pytest
from hypothesis import given, strategies as st

from perdure.core.conditions import DEPTH_MAX, NODES_MAX, TEXT_MAX, Problem, parse, parse_or_problem
from perdure.core.errors import InvalidRequest

HOLDS: list[tuple[str, dict[str, Any], bool | None]] = [
    ("eur > 20", {"eur": 20.01}, True),
    ("eur > 20", {"eur": 20}, False),
    ("eur > 20", {}, None),
    ("eur > 20", {"eur": "30"}, None),
    ("eur > 20", {"eur": True}, None),
    ("eur > 20", {"eur": float("nan")}, None),
    ("eur > 20", {"eur": float("inf")}, True),
    ("eur > 20", {"eur": 10**400}, True),
    ("eur > -5", {"eur": -4}, True),
    ("0 < eur <= 20", {"eur": 20}, True),
    ("0 < eur <= 20", {"eur": 0}, False),
    ("name == 'x'", {"name": "x"}, True),
    ("name == 'x'", {"name": None}, False),
    ("name != 'x'", {"name": 5}, None),
    ("name == null", {"name": None}, True),
    ("name == none", {"name": 1}, False),
    ("force", {"force": True}, True),
    ("force", {"force": False}, False),
    ("force", {"force": "yes"}, None),
    ("force == true", {"force": 1}, None),
    ("true", {}, True),
    ("True", {}, True),
    ("false", {}, False),
    ("not force", {"force": False}, True),
    ("not force", {}, None),
    ("force and eur > 20", {"force": False}, False),
    ("force and eur > 20", {"force": True}, None),
    ("force or eur > 20", {"force": True}, True),
    ("force or eur > 20", {"force": False}, None),
    ("command.startswith('git push')", {"command": "git push -f"}, True),
    ("startswith(command, 'git push')", {"command": "git pull"}, False),
    ("startswith(command, ['rm', 'git push'])", {"command": "rm -r x"}, True),
    ("command.lower().startswith('drop')", {"command": "DROP TABLE t"}, True),
    ("endswith(path, '.env')", {"path": "a/.env"}, True),
    ("contains(command, 'push')", {"command": "git push"}, True),
    ("contains(tags, 'a')", {"tags": ["b", "a"]}, True),
    ("contains(tags, 'a')", {"tags": ["b", 1]}, None),
    ("matches(path, '*.env')", {"path": "deep/down/.env"}, True),
    ("matches(path, '*.env')", {"path": "a\n.env"}, True),
    ("matches(paths, '*.env')", {"paths": ["a", "b/.env"]}, True),
    ("matches(paths, '*.env')", {"paths": ["a", 3]}, None),
    ("matches(paths, '*.env')", {"paths": []}, False),
    ("kind in ['a', 'b']", {"kind": "b"}, True),
    ("kind in ('a', 'b')", {"kind": "c"}, False),
    ("kind in {'a', 'b'}", {}, None),
    ("kind not in ['a']", {"kind": "c"}, True),
    ("'x' in options", {"options": {"x": 1}}, True),
    ("'x' in text", {"text": "axb"}, True),
    ("1 in text", {"text": "1"}, None),
    ("order.total.eur > 5", {"order": {"total": {"eur": 6}}}, True),
    ("order.total.eur > 5", {"order": {"total": 6}}, None),
    ("items[0].eur > 5", {"items": [{"eur": 6}]}, True),
    ("items[3].eur > 5", {"items": [{"eur": 6}]}, None),
    ("order['dry-run']", {"order": {"dry-run": True}}, True),
    ("arg('dry-run') == false", {"dry-run": False}, True),
    ("len(names) > 2", {"names": ["a", "b", "c"]}, True),
    ("len(names) > 2", {"names": 7}, None),
    ("len(text) == 0", {"text": ""}, True),
    ("  eur > 20  ", {"eur": 21}, True),
]


@pytest.mark.parametrize(("text", "arguments", "answer"), HOLDS)
def test_what_a_condition_answers(
    text: str, arguments: dict[str, Any], answer: bool | None
) -> None:
    assert parse(text).holds(arguments) is answer


REFUSED = [
    "", "  ", "eur >", "5", "'text'", "len(x)", "eur + 1", "eur + 1 > 2", "lambda: 1", "yield",
    "__import__('os')", "open('f')", "x.__class__()", "exec('1')", "[x for x in y]", "f'{x}'",
    "(x := 1)", "x is None", "startswith(a)", "startswith(a, b, c)", "startswith(a, prefix=b)",
    "matches(path, pattern)", "arg(name)", "x()()", "b'x' == x", "1j == x", "... == x", "*x == 1",
    "eur > len(startswith(a, 'b'))", "x[y] == 1", "x[1:2] == 1", "not 5", "a and 5", "-eur > 3",
    "a\x00b", "\ud800 > 1", "(" * 500, "not " * (DEPTH_MAX + 2) + "x", "x if y else z", "await x",
    "x" + " or x" * NODES_MAX, "x" * (TEXT_MAX + 1), "x" + ".a" * (DEPTH_MAX + 2),
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_the_language_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert caught.value.code == "E-CONDITION"


def test_the_error_says_where() -> None:
    with pytest.raises(InvalidRequest, match="at character 13: there is no such function"):
        parse("eur > 20 or shout(name)")


def test_a_condition_names_its_arguments() -> None:
    found = parse("eur > 20 and order.kind == 'x' or arg('dry-run') or startswith(cmd, 'a')")
    assert found.names == ("cmd", "dry-run", "eur", "order")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["a", "b", "c", "a.b", "a[0]", "arg('b')"])
LITERALS = st.sampled_from(["1", "-2.5", "'x'", "''", "true", "null", "['x', 1, a]", "1e999"])
VALUES = NAMES | LITERALS | NAMES.map("len({})".format) | NAMES.map("lower({})".format)
OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"])
ATOMS = st.builds("{} {} {}".format, VALUES, OPERATORS, VALUES) | st.builds(
    "{}({}, 'x*')".format,
    st.sampled_from(["startswith", "endswith", "contains", "matches"]),
    VALUES,
)
CONDITIONS = st.recursive(
    ATOMS | NAMES,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or"]), inner)
        | inner.map("not ({})".format)
    ),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON)


@given(CONDITIONS, ARGUMENTS)
def test_an_answer_is_always_yes_no_or_cannot_tell(text: str, arguments: dict[str, Any]) -> None:
    answer = parse(text).holds(arguments)
    assert answer in {True, False, None}
    opposite = parse(f"not ({text})").holds(arguments)
    assert opposite is (None if answer is None else not answer)


@given(CONDITIONS, ARGUMENTS, ARGUMENTS)
def test_what_was_decided_stays_decided_when_more_is_known(
    text: str, arguments: dict[str, Any], more: dict[str, Any]
) -> None:
    answer = parse(text).holds(arguments)
    if answer is not None:
        assert parse(text).holds(more | arguments) is answer


@given(st.text(max_size=60) | st.text("abx.()[]'<>=! notrueadn,1", max_size=60))
def test_any_text_is_a_condition_or_an_invalid_request(text: str) -> None:
    read = parse_or_problem(text)
    if isinstance(read, Problem):
        assert read.text == text
    else:
        assert read.holds({}) in {True, False, None}


def test_a_reading_that_is_disturbed_is_done_again() -> None:
    """Before 3.11.8 and 3.12.2 Python loses count when something else is parsed meanwhile: in
    another thread, or by what the collection of garbage sets off.
    """
    disturbed: list[int] = []

    def disturb(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and len(disturbed) < 3:
            disturbed.append(info["generation"])
            ast.parse("x", mode="eval")

    def deeper(levels: int) -> object:
        return (
            deeper(levels - 1) if levels else parse(" and ".join(f"a{n} > {n}" for n in range(9)))
        )

    before = gc.get_threshold()
    gc.callbacks.append(disturb)
    gc.set_threshold(1)
    try:
        read = deeper(30)
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(disturb)
    assert repr(read).count(" > ") == 9
    assert disturbed
