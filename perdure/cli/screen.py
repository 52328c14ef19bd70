"""Where a verb writes: colours only where somebody looks, plain text elsewhere."""

import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

_CODES: Final[Mapping[str, str]] = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
WIDTH_MAX: Final = 100
VERBOSE: Final = ("-v", "--verbose")


def is_verbose(arguments: Sequence[str]) -> bool:
    """Whether -v was typed anywhere before a --, before a verb or behind it."""
    own = itertools.takewhile(lambda word: word != "--", arguments)
    return any(word in VERBOSE for word in own)


class Screen:
    """Standard output and error of one command."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.verbose = is_verbose(sys.argv)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # an old terminal shows ? instead of a crash
        self.tty = sys.stdout.isatty() and not json
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "")
        self.colour = self.tty and not plain
        self.error_colour = sys.stderr.isatty() and not plain
        size = shutil.get_terminal_size((WIDTH_MAX, 24)).columns if self.tty else WIDTH_MAX
        self.faded = False  # while it is, all is dim
        self.width = max(40, min(size, WIDTH_MAX))

    def can_ask(self) -> bool:
        """Whether a person is there to answer a question."""
        return self.tty and sys.stdin.isatty()

    def agreed(self, question: str, command: str) -> int | None:
        """Ask whether to do it. None: yes; else the status to leave with, nothing being done.

        `command` is what does it where nobody is there to be asked.
        """
        if not self.can_ask():
            self.line(f"  Nothing was done yet. To do it:  {command}")
            return 4
        self.write(self.bold(f"  {question}") + " [y/N] › ")
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return None
        self.line("  Nothing was done.")
        return 0

    def style(self, text: str, *names: str, on: TextIO | None = None) -> str:
        """Return `text` in these colours, if the stream shows any."""
        wanted = self.error_colour if on is sys.stderr else self.colour
        if not wanted or not text or not names or (self.faded and on is None):
            return text
        codes = ";".join(_CODES[name] for name in names)
        return f"\x1b[{codes}m{text}\x1b[0m"

    def dim(self, text: str) -> str:
        """What matters less."""
        return self.style(text, "dim")

    def bold(self, text: str) -> str:
        """What matters more."""
        return self.style(text, "bold")

    def line(self, text: str = "") -> None:
        """Write a line."""
        self.write(text + "\n")

    def write(self, text: str) -> None:
        """Write, at once."""
        if self.faded and self.colour and text.strip():
            text = f"\x1b[{_CODES['dim']}m{text}\x1b[0m"
        sys.stdout.write(text)
        sys.stdout.flush()

    def error(self, text: str) -> None:
        """Write a line to standard error."""
        sys.stdout.flush()
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
