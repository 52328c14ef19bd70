"""From a Python signature to JSON Schema, and from a model's arguments back to Python values.

Type hints are the only source: what the schema promises is what `bind` checks. Knows nothing of
running anything.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec

from perdure.core.errors import InvalidRequest
from perdure.ports.tool import ToolContext
from perdure.tools import docstring

KEY_PARAMETER: Final = "key"
_NOT_GIVEN: Final = msgspec.UNSET


class Parameters:
    """The parameters of one function: what the model sees of them and how a call fills them.

    `context` and `key` name the parameters that the model does not see ("" where there is none):
    the one annotated `ToolContext` and a keyword-only `key: str`, the idempotency key.
    """

    def __init__(self, function: Callable[..., Any], name: str, where: str) -> None:
        self.tool = name
        self.context = ""
        self.key = ""
        self._hoisted: dict[str, Any] = {}
        self._where = where
        shown = self._split(function)
        documentation = docstring.read(inspect.getdoc(function))
        self.description = documentation.description
        fields = [self._field(parameter, hint) for parameter, hint in shown]
        self._struct = msgspec.defstruct(
            "Arguments", fields, kw_only=True, forbid_unknown_fields=True
        )
        self.names = tuple(parameter.name for parameter, _ in shown)
        self.schema = msgspec.Raw(msgspec.json.encode(self._schema(shown, documentation)))

    def bind(self, arguments: Mapping[str, Any], context: ToolContext) -> dict[str, Any]:
        """Return the keyword arguments of a call; what the model left out is left to Python.

        Raises `InvalidRequest` (E-TOOL-ARGUMENTS) naming the wrong field.
        """
        try:
            values = msgspec.convert(
                dict(arguments), self._struct, str_keys=True, dec_hook=_pydantic_value
            )
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
            raise InvalidRequest(
                "E-TOOL-ARGUMENTS",
                f"{self.tool}: {_readable(str(error))}. The tool was not run.",
            ) from error
        given = {name: getattr(values, name) for name in self.names}
        given = {name: value for name, value in given.items() if value is not _NOT_GIVEN}
        return given | self.special(context)

    def special(self, context: ToolContext) -> dict[str, Any]:
        """Return the values of the parameters that the model does not see."""
        found: dict[str, Any] = {self.context: context} if self.context else {}
        if self.key:
            found[self.key] = context.idempotency_key
        return found

    def wrong(self, problem: str) -> InvalidRequest:
        """Make the error for a definition that cannot be a tool."""
        return InvalidRequest("E-TOOL-DEFINITION", f"{self.tool} ({self._where}): {problem}")

    def _split(self, function: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any]]:
        """Set aside the special parameters; return the others with their hints."""
        hints = self._hints(function)
        shown: list[tuple[inspect.Parameter, Any]] = []
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name, inspect.Parameter.empty)
            if hint is ToolContext:
                self.context = parameter.name
            elif parameter.name == KEY_PARAMETER and parameter.kind is parameter.KEYWORD_ONLY:
                self.key = parameter.name
            else:
                self._refuse_odd(parameter, hint)
                shown.append((parameter, hint))
        return shown

    def _hints(self, function: Callable[..., Any]) -> dict[str, Any]:
        plain = inspect.unwrap(function)
        if not inspect.isroutine(plain) and not inspect.isclass(plain):
            plain = getattr(plain, "func", None) or type(plain).__call__
        try:
            return typing.get_type_hints(plain, include_extras=True)
        except (NameError, TypeError, AttributeError, SyntaxError) as error:
            raise self.wrong(f"a type hint cannot be read: {error}") from error

    def _refuse_odd(self, parameter: inspect.Parameter, hint: object) -> None:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            raise self.wrong(f"parameter `{parameter}`: a tool has a fixed list of parameters")
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise self.wrong(f"parameter `{parameter.name}` must be allowed by name (drop the /)")
        if hint is inspect.Parameter.empty:
            raise self.wrong(
                f"parameter `{parameter.name}` has no type hint, so the model cannot know its type"
            )

    def _field(self, parameter: inspect.Parameter, hint: Any) -> tuple[str, Any, Any]:
        try:
            msgspec.json.schema(hint, schema_hook=self._pydantic_schema)
        except (TypeError, ValueError, RuntimeError) as error:
            shown = inspect.formatannotation(hint)
            raise self.wrong(
                f"parameter `{parameter.name}` has the type `{shown}`, which has no JSON form. "
                "Use str, int, float, bool, list, dict, tuple, Literal, Enum, a dataclass, "
                "a TypedDict or a msgspec.Struct"
            ) from error
        if parameter.default is parameter.empty:
            return parameter.name, hint, msgspec.field()
        return parameter.name, hint, msgspec.field(default_factory=lambda: _NOT_GIVEN)

    def _schema(
        self, shown: list[tuple[inspect.Parameter, Any]], documentation: docstring.Documentation
    ) -> dict[str, Any]:
        whole = msgspec.json.schema(self._struct, schema_hook=self._pydantic_schema)
        named = whole["$defs"]
        schema: dict[str, Any] = named.pop(whole["$ref"].rpartition("/")[2])
        schema.pop("title", None)
        for parameter, hint in shown:
            entry = schema["properties"][parameter.name]
            text = _annotated_text(hint) or documentation.parameters.get(parameter.name)
            if text:
                entry.setdefault("description", text)
            if parameter.default is not parameter.empty:
                _note_default(entry, parameter.default)
        if named | self._hoisted:
            schema["$defs"] = named | self._hoisted
        return schema

    def _pydantic_schema(self, hint: Any) -> dict[str, Any]:
        """Take the schema of a pydantic model, found by its methods: pydantic is not imported."""
        if not hasattr(hint, "model_json_schema"):
            raise NotImplementedError
        schema: dict[str, Any] = hint.model_json_schema()
        self._hoisted |= schema.pop("$defs", {})
        return schema


def _pydantic_value(hint: Any, value: Any) -> Any:
    if not hasattr(hint, "model_validate"):
        raise NotImplementedError(f"{hint} has no JSON form")
    return hint.model_validate(value)


def _annotated_text(hint: Any) -> str:
    """Return the plain text in `Annotated[int, "text"]`, or an empty one."""
    if typing.get_origin(hint) is not Annotated:
        return ""
    return next((note for note in hint.__metadata__ if isinstance(note, str)), "")


def _note_default(entry: dict[str, Any], default: object) -> None:
    try:
        entry["default"] = msgspec.to_builtins(default, str_keys=True)
    except (TypeError, ValueError, RecursionError):
        entry.pop("default", None)


def _readable(message: str) -> str:
    """Turn `Expected ... - at `$.order.eur`` round, so that the field comes first."""
    problem, found, path = message.rpartition(" - at ")
    if not found:
        return message.strip().rstrip(".")
    return f"`{path.strip('`').removeprefix('$.').replace('` in `$.', ' of ')}`: {problem}"
