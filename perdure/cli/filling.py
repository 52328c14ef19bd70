"""Answers as people type them: what a schema asks for in words, and reading what was typed."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from perdure.cli.me import whoami
from perdure.cli.screen import Screen
from perdure.cli.text import one_line, wrap
from perdure.cli.wire import Asked
from perdure.core.codec import arguments_of, encode
from perdure.core.errors import InvalidRequest
from perdure.core.forms import problems
from perdure.core.inbox import Answer

_YES: Final = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
_WORDS: Final[Mapping[str, str]] = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "y/n",
    "array": "JSON list",
    "object": "JSON object",
    "null": "nothing",
}


class Field(msgspec.Struct, frozen=True):
    """One thing that a form asks for. `schema` is its own, as JSON text."""

    name: str
    what: str
    about: str
    schema: str
    required: bool
    choices: tuple[str, ...] = ()


def fields_of(schema: str) -> tuple[Field, ...]:
    """Return the fields of a form; empty where a single value is asked for."""
    whole = _decoded(schema)
    named = whole.get("properties")
    if not isinstance(named, Mapping):
        return ()
    needed = whole.get("required", ())
    return tuple(_field(n, s, whole, required=n in needed) for n, s in named.items())


def _field(name: str, given: Any, whole: Mapping[str, Any], *, required: bool) -> Field:
    schema = given if isinstance(given, Mapping) else {}
    own = dict(schema) | ({"$defs": whole["$defs"]} if "$defs" in whole else {})
    about = schema.get("description", "")
    choices = _choices(_resolved(schema, whole))
    what = what_of(schema, whole)
    return Field(name, what, str(about), encode(own).decode(), required, choices)


def what_of(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Return in a few words what a schema wants: `whole number`, `red or blue`."""
    schema = _resolved(schema, whole)
    if choices := _choices(schema):
        return " or ".join(choices)
    ways = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(ways, Sequence):
        return " or ".join(dict.fromkeys(what_of(w, whole) for w in ways if isinstance(w, Mapping)))
    kind = schema.get("type", "")
    kinds = [kind] if isinstance(kind, str) else kind
    return " or ".join(_WORDS.get(each, "JSON") for each in kinds)


def value_wanted(schema: str) -> str:
    """Return what a schema without fields wants; "" where anything will do."""
    whole = _decoded(schema)
    return what_of(whole, whole) if whole else ""


def read(text: str, schema: str) -> tuple[object, list[str]]:
    """Return what was typed as the schema wants it, and what is wrong with it."""
    if not schema:
        return text, []
    meant: list[object] = [text]
    with contextlib.suppress(ValueError, RecursionError):
        meant.append(json.loads(text))
    if text.lower() in _YES:
        meant.append(_YES[text.lower()])
    for value in meant:
        if not problems(schema, value):
            return value, []
    return meant[-1], problems(schema, meant[-1])


def options_of(asked: Asked) -> tuple[str, ...]:
    """Return the likely answers that the call names, or that its form allows."""
    try:
        given = arguments_of(asked.call.arguments).get("options")
    except InvalidRequest:
        given = None
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        return tuple(given)
    return _choices(_decoded(asked.form))


class Filling:
    """One question to a client, put to a person: as free text, or field by field."""

    def __init__(self, screen: Screen, asked: Asked, indent: int) -> None:
        self._screen = screen
        self._asked = asked
        self._indent = " " * indent
        self._fields = fields_of(asked.form)
        self._options = () if self._fields else options_of(asked)
        self._given: dict[str, object] = {}
        self._place = 0

    def put(self) -> None:
        """Show what can be answered, and ask for the first thing."""
        for number, option in enumerate(self._options, 1):
            self._screen.line(f"{self._indent}  {number}  {one_line(option)}")
        self._prompt()

    def take(self, line: str) -> Answer | None:
        """Take what was typed; return the answer once it is whole and fits."""
        text = line.strip()
        return self._field(text) if self._fields else self._whole(text)

    def _whole(self, text: str) -> Answer | None:
        if text.isdigit() and 0 < int(text) <= len(self._options):
            text = self._options[int(text) - 1]
        value, wrong = read(text, self._asked.form)
        if not text or wrong:
            self._wrong(wrong)
            return None
        return self._answer(value)

    def _field(self, text: str) -> Answer | None:
        field = self._fields[self._place]
        if not text and field.required:
            self._prompt()
            return None
        if text:
            value, wrong = read(text, field.schema)
            if wrong:
                self._wrong(wrong)
                return None
            self._given[field.name] = value
        self._place += 1
        if self._place < len(self._fields):
            self._prompt()
            return None
        wrong = problems(self._asked.form, self._given)
        if not wrong:
            return self._answer(self._given)
        self._given, self._place = {}, 0
        self._wrong(wrong)
        return None

    def _answer(self, value: object) -> Answer:
        text = value if isinstance(value, str) else encode(value).decode()
        return Answer(self._asked.call.id, text, by=whoami())

    def _wrong(self, wrong: Sequence[str]) -> None:
        for each in wrong:
            self._screen.line(self._indent + self._screen.style(one_line(each), "yellow"))
        self._prompt()

    def _prompt(self) -> None:
        if not self._fields:
            what = "" if self._options else value_wanted(self._asked.form)
            hint = f"({one_line(what)}) " if what not in ("", "text") else ""
            self._screen.write(self._indent + self._screen.bold(f"{hint}your answer") + " › ")
            return
        field = self._fields[self._place]
        for each in (
            wrap(field.about, self._screen.width - len(self._indent)) if field.about else []
        ):
            self._screen.line(self._indent + self._screen.dim(each))
        more = one_line(field.what) + ("" if field.required else ", Enter leaves it out")
        self._screen.write(f"{self._indent}{one_line(field.name)} ({more}): ")


def _decoded(schema: str) -> dict[str, Any]:
    found = json.loads(schema) if schema else {}
    return found if isinstance(found, dict) else {}


def _resolved(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference to a part of the whole."""
    name = str(schema.get("$ref", "")).rpartition("#/$defs/")[2]
    found = whole.get("$defs", {}).get(name) if name else None
    return found if isinstance(found, Mapping) else schema


def _choices(schema: Mapping[str, Any]) -> tuple[str, ...]:
    given = schema.get("enum")
    if not isinstance(given, list):
        return ()
    return tuple(each if isinstance(each, str) else json.dumps(each) for each in given)
