"""Turning values into short text for people. Pure.

What models, tools and files say is never printed as it is: a control character could move the
cursor, change the title or hide a line that somebody is about to approve.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_SEQUENCE: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\-_])")
_TURNED: Final = re.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_MAIN_ARGUMENTS: Final = ("command", "path", "pattern", "query", "url", "text")


def clean(text: str) -> str:
    """Return `text` safe to print: colours gone, other control characters shown as what they are.

    Keeps newlines and tabs; carriage returns become newlines.
    """
    text = _SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub(_picture, text)
    return _TURNED.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return chr(0x2400 + code) if code < 0x20 else f"<U+{code:04X}>"


def one_line(text: str) -> str:
    """Return `text` cleaned, with every run of white space as one blank."""
    return " ".join(clean(text).split())


def width_of(text: str) -> int:
    """Return how many columns `text` takes."""
    return sum(_columns(c) for c in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with … where something is missing."""
    if width_of(text) <= width:
        return text
    kept, used = "", 0
    for char in text:
        used += _columns(char)
        if used > width - 1:
            break
        kept += char
    return kept + "…"


def pad(text: str, width: int) -> str:
    """Return `text` filled up with blanks to `width` columns."""
    return text + " " * max(0, width - width_of(text))


def wrap(text: str, width: int) -> list[str]:
    """Return `text` in lines of at most `width` columns, broken at blanks.

    A longer word, a path say, stays whole, so that it can be copied.
    """
    lines: list[str] = []
    for paragraph in clean(text).expandtabs(4).split("\n"):
        line = ""
        for word in re.findall(r"\s*\S+", paragraph) or [""]:
            if width_of(line + word) <= width:
                line += word
                continue
            if line:
                lines.append(line)
            line = word.lstrip() if line else word
        lines.append(line)
    return lines


def duration(us: int) -> str:
    """Return microseconds as 12 ms, 3.4 s, 5 min, 2 h, 3 d."""
    if us < 1_000_000:
        return f"{max(0, us) // 1000} ms"
    seconds = us / 1_000_000
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds >= size * 2:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 60)} min"


def count(number: int) -> str:
    """Return 950, 21.4k, 1.2M."""
    for unit, size in (("M", 1_000_000), ("k", 1000)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)


def usd(micro: int) -> str:
    """Return micro-dollars as dollars: small sums keep four places."""
    return f"${micro / 1_000_000:.4f}" if micro < 1_000_000 else f"${micro / 1_000_000:.2f}"


def plural(number: int, word: str) -> str:
    """Return `3 files`, `1 file`."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def arguments(text: str, *, brief: bool = False) -> str:
    """Return the arguments of a call as people read them: `order=9, eur=4.0`.

    With `brief`, a telling one (a command, a path) stands alone.
    """
    try:
        given = json.loads(text or "{}")
    except ValueError:
        return one_line(text)
    if not isinstance(given, dict):
        return one_line(text)
    return one_line(
        (brief and _main(given)) or ", ".join(f"{k}={_value(v)}" for k, v in given.items())
    )


def _main(given: Mapping[str, Any]) -> str:
    name = next((n for n in _MAIN_ARGUMENTS if isinstance(given.get(n), str)), "")
    small = {"offset", "limit", "timeout_s", "glob", "ignore_case"}
    if not name or set(given) - {name} - small:
        return str(given["path"]) if isinstance(given.get("path"), str) else ""
    more = [f"{k}={_value(v)}" for k, v in given.items() if k != name and v is not None]
    return str(given[name]) + (f"  ({', '.join(more)})" if more else "")


def _value(value: Any) -> str:
    return value if isinstance(value, str) and len(value) < 60 else json.dumps(value)
