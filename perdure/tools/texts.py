"""Showing and changing parts of a text file: pure functions behind the tools `read` and `edit`.

Lines end at a line feed and nowhere else: form feeds and Unicode separators are ordinary
characters, and whatever bytes a file holds survive an edit of its other parts.
"""

import difflib
from typing import Final, NamedTuple

LINE_MAX: Final = 2000
SHOWN_MAX: Final = 48 * 1024
SEARCHED_MAX: Final = 20_000
AROUND: Final = 3


class Edited(NamedTuple):
    """A text with replacements made: how many, and the line of the first."""

    text: str
    times: int
    line: int


class NoEditError(Exception):
    """The edit was not made; the text says why and what to do."""


def decode(data: bytes) -> str:
    """Return the bytes as text from which they can be had back."""
    return data.decode("utf-8", "surrogateescape")


def numbered(text: str, offset: int, limit: int) -> str:
    """Show lines with their numbers, from line `offset` on, and where to go on."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        return "(empty file)"
    if offset > len(lines):
        return f"(the file has only {len(lines)} lines)"
    shown: list[str] = []
    size = 0
    for number, line in enumerate(lines[offset - 1 : offset - 1 + limit], offset):
        entry = _entry(number, line)
        size += len(entry)
        if size > SHOWN_MAX and shown:
            break
        shown.append(entry)
    end = offset + len(shown) - 1
    if offset > 1 or end < len(lines):
        onward = f"; go on with offset={end + 1}" if end < len(lines) else ""
        shown.append(f"[lines {offset} to {end} of {len(lines)}{onward}]")
    if "\r\n" in text:
        shown.append("[lines end in CR LF]")
    return "\n".join(shown)


def replace(text: str, old: str, new: str, *, every: bool) -> Edited:
    """Replace `old`, which must be there exactly once unless `every`. Raises `NoEditError`."""
    if not old:
        raise NoEditError("`old` is empty. To make a file or replace all of it, use write.")
    if old == new:
        raise NoEditError("`old` and `new` are the same, so nothing would change.")
    count = text.count(old)
    if not count and "\r\n" in text and "\r" not in old:
        # The numbered view does not show the CRs, so the model cannot have written them.
        old, new = old.replace("\n", "\r\n"), new.replace("\n", "\r\n")
        count = text.count(old)
    if not count:
        raise NoEditError(_not_found(text, old))
    if count > 1 and not every:
        raise NoEditError(
            f"`old` is there {count} times, at lines {_places(text, old)}. Give more of the text "
            "around the one you mean, or set replace_all."
        )
    at = text.index(old)
    return Edited(text.replace(old, new), count, text.count("\n", 0, at) + 1)


def around(text: str, line: int, added: int) -> str:
    """Show the lines near a change, with numbers."""
    lines = text.split("\n")
    first = max(line - AROUND, 1)
    last = min(line + min(added, 40) + AROUND, len(lines))
    return "\n".join(_entry(n, lines[n - 1]) for n in range(first, last + 1))


def _entry(number: int, line: str) -> str:
    line = line.removesuffix("\r")
    if len(line) > LINE_MAX:
        line = f"{line[:LINE_MAX]} [... {len(line) - LINE_MAX} more characters]"
    return f"{number:>6}\t{line}"


def _places(text: str, old: str) -> str:
    lines: list[str] = []
    at = text.find(old)
    while at >= 0 and len(lines) < 10:
        lines.append(str(text.count("\n", 0, at) + 1))
        at = text.find(old, at + len(old))
    return ", ".join(lines) + (", ..." if at >= 0 else "")


def _not_found(text: str, old: str) -> str:
    """Say what is there instead: the same words spaced otherwise, or the nearest line."""
    lines = text.split("\n")[:SEARCHED_MAX]
    wanted = [line.split() for line in old.strip("\n").split("\n")]
    words = [line.split() for line in lines]
    for at in range(len(words) - len(wanted) + 1):
        if words[at : at + len(wanted)] == wanted and any(wanted):
            found = "\n".join(_entry(at + i + 1, lines[at + i]) for i in range(len(wanted)))
            return f"`old` is not there, but this is, with other white space:\n{found}"
    first = next((line.strip() for line in old.split("\n") if line.strip()), "")
    stripped = [line.strip()[:LINE_MAX] for line in lines[:2000]]
    near = difflib.get_close_matches(first[:LINE_MAX], stripped, n=1, cutoff=0.6)
    if near:
        number = stripped.index(near[0]) + 1
        return f"`old` is not there. The nearest line is:\n{_entry(number, lines[number - 1])}"
    return "`old` is not there, nor anything like it. Read the file again."
