"""Path patterns: `*.py` anywhere, `src/**/*.ts`, `{a,b}` for either. Pure, and never slow:
each part is matched alone, so that no pattern can make it search without end.
"""

import fnmatch
import re
from collections.abc import Iterable
from typing import Final

BRACES: Final = re.compile(r"\{([^{}]*,[^{}]*)\}")
PATTERNS_MAX: Final = 64


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that match, in the order given. What lies in .git counts only if named."""
    pattern = pattern.removeprefix("./")
    wanted = [_parts(each) for each in _without_braces(pattern)]
    hidden = ".git" not in pattern.split("/")
    found: list[str] = []
    for path in paths:
        parts = path.split("/")
        if hidden and ".git" in parts[:-1]:
            continue
        if any(_match(parts, each) for each in wanted):
            found.append(path)
    return found


def _parts(pattern: str) -> list[str]:
    """Split a pattern; one without a slash may match in any directory."""
    parts = pattern.split("/")
    if len(parts) == 1:
        parts.insert(0, "**")
    if parts[-1] == "":
        parts[-1] = "**"
    # Two ** in a row say no more than one.
    return [p for i, p in enumerate(parts) if p != "**" or i == 0 or parts[i - 1] != "**"]


def _without_braces(pattern: str) -> list[str]:
    todo, done = [pattern], list[str]()
    while todo and len(todo) + len(done) <= PATTERNS_MAX:
        each = todo.pop()
        if group := BRACES.search(each):
            before, after = each[: group.start()], each[group.end() :]
            todo += [before + word + after for word in group[1].split(",")]
        else:
            done.append(each)
    return done + todo


def _match(parts: list[str], pattern: list[str]) -> bool:
    """Walk both once, keeping the set of places in the pattern that may come next."""
    places = _skip({0}, pattern)
    for part in parts:
        onward = set()
        for place in places:
            if place == len(pattern):
                continue
            if pattern[place] == "**":
                onward.add(place)
            elif fnmatch.fnmatchcase(part, pattern[place]):
                onward.add(place + 1)
        places = _skip(onward, pattern)
        if not places:
            return False
    return len(pattern) in places


def _skip(places: set[int], pattern: list[str]) -> set[int]:
    """A ** may also stand for nothing."""
    more = {p + 1 for p in places if p < len(pattern) and pattern[p] == "**"}
    return places | more
