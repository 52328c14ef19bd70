"""How `perdure --help` looks. Imports nothing but typer."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from typer.core import TyperCommand, TyperGroup

_HEAD: Final = """\
perdure — agents that never lose their place

  perdure demo                      see it survive a kill: no key, no network
  perdure new myagent               make your own
  perdure run AGENT "text"          give it something to do
"""
_TYPE: Final = re.compile(r" <([a-z]+(?:\[[a-z]+\])?)>")
_NUMBERS: Final = ("int", "float")
_TAIL: Final = """\
  perdure VERB --help               the options of one verb
  perdure --install-completion      complete verbs and options in your shell

Status: 0 done · 1 failed · 2 usage · 3 not found · 4 waits for a person · 5 not allowed
        6 unreachable · 7 conflict · 8 limit reached · 9 outcome unknown · 130 interrupted
"""


class Verbs(TyperGroup):
    """The root: verbs in groups, with what to type first."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        lines = [_HEAD]
        commands = cast(Mapping[str, Any], self.commands)
        for panel in dict.fromkeys(c.rich_help_panel for c in commands.values()):
            shown = [
                (name, command)
                for name, command in commands.items()
                if command.rich_help_panel == panel and not command.hidden
            ]
            if shown:
                lines.append(f"{panel}")
                lines += [f"  {name:<10} {_first_line(command)}" for name, command in shown]
                lines.append("")
        formatter.write("\n".join([*lines, _TAIL]))


class Verb(TyperCommand):
    """One verb: what it does comes before how it is written."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write(f"{_first_line(self)}\n\n")
        self.format_usage(ctx, formatter)
        formatter.write_dl = _typeless(formatter.write_dl)
        self.format_options(ctx, formatter)


def _typeless(write: Callable[..., None]) -> Callable[..., None]:
    """Return a writer of pairs that says in words what a value is, not which type holds it."""

    def words(name: str) -> str:
        if not name.startswith("-"):
            return _TYPE.sub("", name)
        return _TYPE.sub(lambda found: " N" if found[1] in _NUMBERS else " TEXT", name)

    def shown(rows: Sequence[tuple[str, str]], *more: Any, **options: Any) -> None:
        write([(words(name), text) for name, text in rows], *more, **options)

    return shown


def _first_line(command: Any) -> str:
    return (command.help or "").strip().partition("\n")[0]
