"""Docstrings as tool documentation: what the tool does, and a line for each parameter.

Reads the three common styles (Google, NumPy, Sphinx) as far as they are regular. What it does
not recognise stays in the description, so nothing a person wrote is lost to the model.
"""

import inspect
import re
from typing import Final, NamedTuple

GOOGLE: Final = re.compile(r"^(Args|Arguments|Parameters):\s*$")
NUMPY: Final = re.compile(r"^Parameters$")
UNDERLINE: Final = re.compile(r"^-{3,}$")
SPHINX: Final = re.compile(r"^:param\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")
SPHINX_NOISE: Final = re.compile(r"^:(type|rtype)\b")
GOOGLE_ENTRY: Final = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
NUMPY_ENTRY: Final = re.compile(r"^\*{0,2}(\w+)\s*(?::.*)?$")


class Documentation(NamedTuple):
    """A docstring taken apart."""

    description: str
    parameters: dict[str, str]


def read(text: str | None) -> Documentation:
    """Take a docstring apart. Its indentation in the source makes no difference."""
    lines = [line.rstrip() for line in inspect.cleandoc(text or "").splitlines()]
    kept: list[str] = []
    found: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line, following = lines[at], lines[at + 1] if at + 1 < len(lines) else ""
        if GOOGLE.match(line):
            at = _google(lines, at + 1, found)
        elif NUMPY.match(line) and UNDERLINE.match(following):
            at = _numpy(lines, at + 2, found)
        elif entry := SPHINX.match(line):
            block, at = _indented(lines, at + 1)
            found[entry[1]] = _one_line([entry[2], *block])
        else:
            if not SPHINX_NOISE.match(line):
                kept.append(line)
            at += 1
    description = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return Documentation(description, {name: line for name, line in found.items() if line})


def _google(lines: list[str], at: int, found: dict[str, str]) -> int:
    """Read the indented block below `Args:`; return the first line after it."""
    block, end = _indented(lines, at)
    filled = [line for line in block if line.strip()]
    margin = min((_margin(line) for line in filled), default=0)
    name = ""
    for line in filled:
        entry = GOOGLE_ENTRY.match(line[margin:]) if _margin(line) == margin else None
        if entry:
            name = entry[1]
            found[name] = entry[2].strip()
        elif name:
            found[name] = _one_line([found[name], line])
    return end


def _numpy(lines: list[str], at: int, found: dict[str, str]) -> int:
    """Read entries below an underlined `Parameters` up to the next underlined title."""
    while at < len(lines):
        following = lines[at + 1] if at + 1 < len(lines) else ""
        entry = NUMPY_ENTRY.match(lines[at])
        if not lines[at]:
            at += 1
        elif UNDERLINE.match(following) or not entry:
            break
        else:
            block, at = _indented(lines, at + 1)
            found[entry[1]] = _one_line(block)
    return at


def _indented(lines: list[str], at: int) -> tuple[list[str], int]:
    """Return the lines from `at` on that are indented or empty, and where they end."""
    end = at
    while end < len(lines) and (not lines[end] or lines[end][0].isspace()):
        end += 1
    return lines[at:end], end


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _one_line(parts: list[str]) -> str:
    return " ".join(part.strip() for part in parts if part.strip())
