"""Text that arrives in pieces, laid out as it comes. Pure."""

import re
from typing import Final

from perdure.cli.text import clean, clip, width_of

_WORDS: Final = re.compile(r"\s*\S+(?=\s)")


class Flow:
    """Breaks a stream of text between words, within `width` columns after an indent."""

    def __init__(self, indent: int, width: int) -> None:
        self._indent = indent
        self._width = width
        self._column = indent
        self._kept = ""

    def feed(self, text: str) -> str:
        """Return what can be written now. The last word is kept until it is known to be whole."""
        text = self._kept + clean(text).expandtabs(4)
        out, end = "", 0
        for found in _WORDS.finditer(text):
            out += self._placed(found[0])
            end = found.end()
        self._kept = text[end:]
        return out

    def rest(self) -> str:
        """Return what was kept, without the white space at the end."""
        word, self._kept = self._kept.rstrip(), ""
        return self._placed(word) if word else ""

    def _placed(self, token: str) -> str:
        """Return a word, with the white space before it, where it goes."""
        word = token.lstrip()
        blanks = token[: len(token) - len(word)]
        out = ""
        if "\n" in blanks:
            out = self._broken(min(blanks.count("\n"), 2))
            blanks = blanks.rpartition("\n")[2]
        if self._column + len(blanks) + width_of(word) > self._width:
            out += self._broken() if self._column > self._indent else ""
            blanks = ""
        while width_of(word) > self._width - self._indent:
            head = clip(word, self._width - self._indent + 1).removesuffix("…")
            word = word[len(head) :]
            out += head + self._broken()
        self._column += len(blanks) + width_of(word)
        return out + blanks + word

    def _broken(self, lines: int = 1) -> str:
        self._column = self._indent
        return "\n" * lines + " " * self._indent
