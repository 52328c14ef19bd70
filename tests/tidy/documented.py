"""What the code offers, read from the code: event types, error codes, commands and settings.

The pages that must name them are given by test_docs.py; nothing here is a hand-kept list.
"""

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Protocol

import msgspec
import typer

from tests.tidy.sources import Source

# "E-PATH-…" names a family of codes, and is none itself.
ERROR_CODE = re.compile(r"\bE-[A-Z]{2,}[A-Z0-9]*(?:-[A-Z0-9_]+)*\b(?![-…])")
ENVIRONMENT_NAME = re.compile(r"\bPERDURE_[A-Z][A-Z0-9_]*\b")


def event_types(events: ModuleType) -> set[str]:
    """The tags, `noun.verb`, of the payload structs that a module defines."""
    structs = (value for value in vars(events).values() if isinstance(value, type))
    tags = (each.__struct_config__.tag for each in structs if issubclass(each, msgspec.Struct))
    return {tag for tag in tags if isinstance(tag, str) and "." in tag}


def texts(sources: list[Source]) -> Iterator[str]:
    """Every text constant of perdure/."""
    for source in sources:
        if source.folder == "perdure":
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def error_codes(sources: list[Source]) -> set[str]:
    """What a user can meet; the simulator's own errors never leave it."""
    shipped = [s for s in sources if not s.module.startswith("perdure.testing")]
    return {code for text in texts(shipped) for code in ERROR_CODE.findall(text)}


def environment_names(sources: list[Source]) -> set[str]:
    return {name for text in texts(sources) for name in ENVIRONMENT_NAME.findall(text)}


def setting_names(config: ModuleType) -> set[str]:
    """The fields of the structs called …Settings or …Config that a module defines."""
    return {
        field
        for name, value in vars(config).items()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and name.endswith(("Settings", "Config"))
        for field in value.__struct_fields__
    }


class Command(Protocol):
    """What a command and a group of commands have in common, in click and in typer."""

    hidden: bool


def commands(root: Command, path: str = "perdure") -> Iterator[str]:
    """Every command that can be typed, with its parents: `perdure admin backup`."""
    below: Mapping[str, Command] | None = getattr(root, "commands", None)
    if below is None:
        yield path
    else:
        for name, command in below.items():
            if not command.hidden:
                yield from commands(command, f"{path} {name}")


def command_line(package: ModuleType) -> Command | None:
    """The command line of a package: a Typer object called `app` in one of its files."""
    names = [f"{package.__name__}.{each.name}" for each in pkgutil.iter_modules(package.__path__)]
    for name in [package.__name__, *names]:
        found = getattr(importlib.import_module(name), "app", None)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
    return None


def missing_from(page: str, names: set[str]) -> list[str]:
    """The names that a page does not contain as whole words."""
    return sorted(
        name for name in names if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", page)
    )


def is_there(module: str) -> bool:
    """Whether a module exists as a file, not only as an empty folder; its parents are imported."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return spec is not None and spec.origin is not None
