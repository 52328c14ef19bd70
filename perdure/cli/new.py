"""`perdure new`: a folder with an agent that runs as it is."""

import re
from importlib.resources import files
from pathlib import Path
from typing import Final

from perdure.cli.elsewhere import only_here
from perdure.cli.screen import Screen
from perdure.core.errors import Conflict, InvalidRequest

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# Python files ship as .py.txt, so that nobody takes the template for code of ours.
FILES: Final = (
    ("agent.py.txt", "agent.py"),
    ("perdure.toml", "perdure.toml"),
    ("script.toml", "script.toml"),
    ("test_agent.py.txt", "test_agent.py"),
    ("README.md", "README.md"),
    ("env.example", ".env.example"),
)


def new(typed: str) -> int:
    """Carry out the verb. Writes over nothing."""
    only_here("perdure new")
    screen = Screen()
    folder = Path(typed)
    name = folder.name
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            "E-AGENT-NAME",
            f"{name!r} is no name for an agent.",
            "Begin with a letter; use letters, digits, - and _.",
        )
    there = [target for _, target in FILES if (folder / target).exists()]
    if there or (folder.exists() and not folder.is_dir()):
        what = ", ".join(there) or "a file"
        raise Conflict(
            "E-NEW-EXISTS",
            f"{folder} has {what} already. Nothing was written.",
            f"perdure new {name}2, or remove it first",
        )
    folder.mkdir(parents=True, exist_ok=True)
    templates = files("perdure.cli").joinpath("new_data")
    for source, target in FILES:
        text = templates.joinpath(source).read_text(encoding="utf-8")
        (folder / target).write_text(text.replace("NAME", name), encoding="utf-8")
        screen.line(screen.dim("  + ") + str(folder / target))
    screen.line()
    screen.line("  Next   " + screen.bold(f'cd {folder} && perdure run {name} "hello"'))
    screen.line(screen.dim("         then open agent.py: two tools, and a place for a real model"))
    return 0
