"""Whether a JSON value fits a JSON Schema, and if not, what is wrong with it in plain words.

The words are our own, so that a journal that holds them replays under another version of the
library that checks.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from perdure.core.codec import decode, encode

_NAMED: Final = 5  # problems that are named; more help nobody
_SHOWN: Final = 120
UNCHECKED: Final = "it cannot be checked"


def problems(schema: str | bytes, value: object) -> list[str]:
    """Return what is wrong with a value of JSON types; empty when it fits, or without a schema."""
    if not schema:
        return []
    from referencing.exceptions import Unresolvable

    try:
        checks = _validator(schema if isinstance(schema, bytes) else schema.encode())
        errors = list(checks.iter_errors(value))
    except (RecursionError, Unresolvable, re.error) as error:
        return [f"{UNCHECKED}: {type(error).__name__}"]
    said = sorted({f"{_where(x.absolute_path)}{words}" for x in errors for words in _says(x)})
    rest = len(said) - _NAMED
    return said[:_NAMED] + ([f"and {rest} more"] if rest > 0 else [])


def flaw(schema: object) -> str:
    """Return why something is no JSON Schema, or "" when it is one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, Mapping):
        return "it is no object"
    try:
        Draft202012Validator.check_schema(decode(encode(schema), dict))
    except SchemaError as error:
        return f"{_where(error.absolute_path)}{error.message}"
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    """Remembered, because a schema is met at every call. It asks nobody for what it refers to."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(decode(schema, object), registry=Registry())


def _where(path: Iterable[str | int]) -> str:
    """Return the place in the value: `` `items[0].name` ``; empty for the whole."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return f"`{text}` " if text else ""


def _says(error: Any) -> list[str]:
    wanted, value = error.validator_value, error.instance
    match error.validator:
        case "required":
            return [f"lacks `{name}`" for name in wanted if name not in value]
        case "additionalProperties" if isinstance(value, Mapping):
            known = error.schema.get("properties", {})
            patterns = error.schema.get("patternProperties", {})
            odd = [n for n in value if n not in known and not _fits_any(patterns, n)]
            return [f"has `{name}`, which is not asked for" for name in odd]
        case "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            return [f"must be {' or '.join(_A.get(kind, kind) for kind in kinds)}"]
        case "enum":
            return [f"must be one of {_short(wanted)}"]
        case keyword if keyword in _BOUNDS:
            return [f"must {_BOUNDS[keyword]} {_short(wanted)}"]
        case keyword:
            return [f"does not fit {keyword} {_short(wanted)}"]


def _fits_any(patterns: Mapping[str, object], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _short(value: object) -> str:
    inner = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    text = ", ".join(encode(each).decode("utf-8", "replace") for each in inner)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


_A: Final[Mapping[str, str]] = {
    "string": "a text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
_BOUNDS: Final[Mapping[str, str]] = {
    "const": "be",
    "minimum": "be at least",
    "maximum": "be at most",
    "exclusiveMinimum": "be more than",
    "exclusiveMaximum": "be less than",
    "minLength": "have a length of at least",
    "maxLength": "have a length of at most",
    "minItems": "have a length of at least",
    "maxItems": "have a length of at most",
    "pattern": "match",
}
