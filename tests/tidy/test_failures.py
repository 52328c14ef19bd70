"""The list of failures is whole, and every test that it names is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

NUMBERS = range(1, 45)
NOT_HERE: set[int] = set()  # those that do not arise here
ROW = re.compile(r"\| *(\d+) \|.*\| ([^|]+) \|")
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
CARRIED = re.compile(r"test_(?:failure_)?(\d\d)_")


def rows(text: str) -> dict[int, list[tuple[str, str]]]:
    """Return the tests that each row of the list names, by the row's number."""
    found: dict[int, list[tuple[str, str]]] = {}
    for number, tests in ROW.findall(text):
        assert int(number) not in found, f"{number} is there twice"
        found[int(number)] = NAMED.findall(tests)
    return found


def named_in(path: Path) -> dict[str, str]:
    """Return the tests of a file with their docstrings, those in classes too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name: ast.get_docstring(f) or "" for f in functions if f.name.startswith("test_")}


def missing(listed: dict[int, list[tuple[str, str]]]) -> list[str]:
    """Return what is wrong with a list: tests that are not there, or carry another number."""
    wrong = []
    for number, named in listed.items():
        for file, test in named:
            path = ROOT / file
            if not path.exists() or test not in named_in(path):
                wrong.append(f"{number}: {file}::{test} is not there")
            carried = CARRIED.match(test)
            if carried and int(carried[1]) != number:
                wrong.append(f"{number}: {test} is about another failure")
    return wrong


@pytest.fixture(scope="module")
def listed() -> dict[int, list[tuple[str, str]]]:
    return rows((ROOT / "docs" / "failures.md").read_text(encoding="utf-8"))


def test_the_list_of_failures_is_whole(listed: dict[int, list[tuple[str, str]]]) -> None:
    assert sorted(listed) == list(NUMBERS)
    assert {number for number, named in listed.items() if not named} == NOT_HERE


def test_every_test_that_it_names_is_there(listed: dict[int, list[tuple[str, str]]]) -> None:
    assert not missing(listed)


def test_every_failure_has_a_test_that_says_its_number(
    listed: dict[int, list[tuple[str, str]]],
) -> None:
    """In its name, or as `Failure 14:` in its docstring; so that a number can be searched for."""
    silent = [
        number
        for number, named in listed.items()
        if number not in NOT_HERE
        and not any(
            CARRIED.match(test) or f"Failure {number}:" in named_in(ROOT / file)[test]
            for file, test in named
        )
    ]
    assert not silent


def test_a_wrong_list_is_seen() -> None:
    page = (
        "| 1 | a | b | `tests/tidy/test_failures.py::test_that_is_gone` |\n"
        "| 2 | a | b | `tests/failures/test_crashes.py::test_failure_03_a_probe_knows` |"
    )
    assert len(missing(rows(page))) == 2
