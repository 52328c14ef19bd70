"""Conditions on a call's arguments: `eur > 20`, `startswith(command, 'git push')`.

A small language with Python's spelling and none of its powers: the text is parsed, checked
against a short list of forms and walked; nothing is ever evaluated as code. A condition answers
yes, no or "cannot tell": an argument that is missing or of another type than the one it is
compared with is never guessed at, so that the policy can take the safer answer.
"""

import ast
import enum
import fnmatch
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from perdure.core.errors import InvalidRequest

TEXT_MAX: Final = 2000
NODES_MAX: Final = 250
DEPTH_MAX: Final = 30
_TRIES: Final = 10

WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None, "none": None}
# What each function takes: how many values, and whether it answers yes or no.
FUNCTIONS: Final[Mapping[str, tuple[int, bool]]] = {
    "startswith": (2, True),
    "endswith": (2, True),
    "contains": (2, True),
    "matches": (2, True),
    "len": (1, False),
    "lower": (1, False),
    "arg": (1, False),
}


class _Unknown(enum.Enum):
    """The value of an argument that is not there."""

    UNKNOWN = "unknown"


UNKNOWN: Final = _Unknown.UNKNOWN


class Condition:
    """A condition that was parsed and checked. `names` are the arguments it looks at."""

    def __init__(self, text: str, tree: ast.expr) -> None:
        self.text = text
        self.names = tuple(sorted(_names(tree)))
        self._tree = tree

    def holds(self, arguments: Mapping[str, Any]) -> bool | None:
        """Say whether the condition holds; None when the arguments do not decide it.

        `and` and `or` are decided by one side where one side is enough.
        """
        return _holds(self._tree, arguments)

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def parse(text: str) -> Condition:
    """Read a condition. Raises `InvalidRequest` (E-CONDITION) saying where and what is wrong."""
    if len(text) > TEXT_MAX:
        raise _wrong(text, 0, f"it is longer than {TEXT_MAX} characters")
    stripped = text.strip()
    if not stripped:
        raise _wrong(text, 0, "it is empty")
    try:
        tree = _read(stripped)
    except SyntaxError as error:
        raise _wrong(stripped, (error.offset or 1) - 1, error.msg) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _wrong(stripped, 0, str(error) or "it is nested too deeply") from error
    if sum(1 for _ in ast.walk(tree)) > NODES_MAX:
        raise _wrong(stripped, 0, f"it has more than {NODES_MAX} parts")
    _check_truth(tree, stripped, 0)
    return Condition(stripped, tree)


def _read(text: str) -> ast.expr:
    """Parse an expression. Python before 3.11.8 and 3.12.2 raises `SystemError` when something
    else is parsed meanwhile, by another thread or in a finalizer: then it is done again.
    """
    for _ in range(_TRIES):
        try:
            return ast.parse(text, mode="eval").body
        except SystemError:
            continue
    raise ValueError("Python could not read it")


def _wrong(text: str, at: int, problem: str) -> InvalidRequest:
    shown = text if len(text) <= 120 else text[:117] + "..."
    return InvalidRequest(
        "E-CONDITION",
        f"The condition {shown!r} is wrong at character {at + 1}: {problem}.",
        "Examples: eur > 20   startswith(command, 'git push')   not matches(path, 'docs/*')",
    )


# Checking: what is allowed, once, when a condition is read.


def _check_truth(node: ast.expr, text: str, depth: int) -> None:
    """Refuse everything but a question that has yes or no for an answer."""
    if depth > DEPTH_MAX:
        raise _wrong(text, node.col_offset, "it is nested too deeply")
    match node:
        case ast.BoolOp(values=values):
            for value in values:
                _check_truth(value, text, depth + 1)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            _check_truth(operand, text, depth + 1)
        case ast.Compare(left=left, ops=ops, comparators=others):
            if any(isinstance(op, ast.Is | ast.IsNot) for op in ops):
                raise _wrong(text, node.col_offset, "write == or != instead of is")
            for value in (left, *others):
                _check_value(value, text, depth + 1)
        case ast.Call() if _call(node)[0] != "arg":
            _check_call(node, text, depth, truth=True)
        case (
            ast.Constant(value=bool()) | ast.Call() | ast.Name() | ast.Attribute() | ast.Subscript()
        ):
            _check_value(node, text, depth)
        case _:
            raise _wrong(text, node.col_offset, "this is not a yes-or-no question")


def _check_value(node: ast.expr, text: str, depth: int) -> None:
    """Refuse everything but constants, arguments, lists and functions that give a value."""
    if depth > DEPTH_MAX:
        raise _wrong(text, node.col_offset, "it is nested too deeply")
    match node:
        case ast.Constant(value=str() | int() | float() | None) | ast.Name():
            pass
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            pass
        case ast.Attribute(value=value):
            _check_value(value, text, depth + 1)
        case ast.Subscript(value=value, slice=ast.Constant(value=str() | int())):
            _check_value(value, text, depth + 1)
        case ast.List(elts=values) | ast.Tuple(elts=values) | ast.Set(elts=values):
            for value in values:
                _check_value(value, text, depth + 1)
        case ast.Call():
            _check_call(node, text, depth, truth=False)
        case _:
            raise _wrong(text, node.col_offset, "this form is not part of the language")


def _check_call(node: ast.Call, text: str, depth: int, *, truth: bool) -> None:
    name, values = _call(node)
    if name not in FUNCTIONS:
        known = ", ".join(sorted(FUNCTIONS))
        raise _wrong(text, node.col_offset, f"there is no such function (there are {known})")
    count, answers = FUNCTIONS[name]
    if node.keywords or len(values) != count:
        raise _wrong(text, node.col_offset, f"{name} takes {count} value(s)")
    if answers != truth:
        asked = "a yes-or-no question" if truth else "a value"
        raise _wrong(text, node.col_offset, f"{name} does not give {asked}")
    if name in {"matches", "arg"} and not _is_text(values[-1]):
        raise _wrong(text, values[-1].col_offset, f"{name} wants a text in quotes here")
    for value in values:
        _check_value(value, text, depth + 1)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _call(node: ast.Call) -> tuple[str, list[ast.expr]]:
    """Return a call's function and values; `a.f(b)` is another spelling of `f(a, b)`."""
    match node.func:
        case ast.Name(id=name):
            return name, list(node.args)
        case ast.Attribute(value=value, attr=name):
            return name, [value, *node.args]
        case _:
            return "", list(node.args)


def _names(tree: ast.expr) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="arg"), args=[ast.Constant(value=str(name))]):
                found.add(name)
            case ast.Name(id=name) if name not in WORDS and name not in FUNCTIONS:
                found.add(name)
    return found


# Answering: each function below sees only forms that passed the check.


def _holds(node: ast.expr, arguments: Mapping[str, Any]) -> bool | None:
    match node:
        case ast.BoolOp(op=op, values=values):
            answers = [_holds(value, arguments) for value in values]
            return _all(answers) if isinstance(op, ast.And) else _any(answers)
        case ast.UnaryOp(operand=operand):
            return _not(_holds(operand, arguments))
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = [_value(each, arguments) for each in (left, *others)]
            return _all([_compare(op, sides[i], sides[i + 1]) for i, op in enumerate(ops)])
        case ast.Call() if _call(node)[0] != "arg":
            name, values = _call(node)
            return _ask(name, *(_value(value, arguments) for value in values))
        case _:
            value = _value(node, arguments)
            return value if isinstance(value, bool) else None


def _value(node: ast.expr, arguments: Mapping[str, Any]) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.Name(id=name):
            return WORDS[name] if name in WORDS else arguments.get(name, UNKNOWN)
        case ast.Attribute(value=inner, attr=key):
            return _inside(_value(inner, arguments), key)
        case ast.Subscript(value=inner, slice=ast.Constant(value=key)):
            return _inside(_value(inner, arguments), key)
        case ast.List(elts=values) | ast.Tuple(elts=values) | ast.Set(elts=values):
            return [_value(value, arguments) for value in values]
        case ast.Call():
            name, values = _call(node)
            return _give(name, _value(values[0], arguments), arguments)
        case _:
            return UNKNOWN


def _inside(value: object, key: object) -> object:
    if isinstance(value, Mapping):
        return value.get(key, UNKNOWN)
    if isinstance(value, list | tuple) and isinstance(key, int):
        return value[key] if -len(value) <= key < len(value) else UNKNOWN
    return UNKNOWN


def _give(name: str, value: object, arguments: Mapping[str, Any]) -> object:
    match name, value:
        case "len", str() | list() | tuple() | dict():
            return len(value)
        case "lower", str():
            return value.lower()
        case "arg", str():
            return arguments.get(value, UNKNOWN)
        case _:
            return UNKNOWN


def _ask(name: str, value: object, other: object) -> bool | None:
    """Answer a function. A list is asked element by element: yes when one element says yes."""
    if name == "contains":
        return _in(other, value)
    if isinstance(value, list | tuple):
        return _any([_ask_text(name, element, other) for element in value])
    return _ask_text(name, value, other)


def _ask_text(name: str, value: object, other: object) -> bool | None:
    if isinstance(other, list | tuple):
        return _any([_ask_text(name, value, each) for each in other])
    if not isinstance(value, str) or not isinstance(other, str):
        return None
    match name:
        case "startswith":
            return value.startswith(other)
        case "endswith":
            return value.endswith(other)
        case _:
            return fnmatch.fnmatchcase(value, other)


def _compare(op: ast.cmpop, left: object, right: object) -> bool | None:
    match op:
        case ast.Eq():
            return _equal(left, right)
        case ast.NotEq():
            return _not(_equal(left, right))
        case ast.In():
            return _in(left, right)
        case ast.NotIn():
            return _not(_in(left, right))
        case _:
            return _ordered(op, left, right)


def _equal(left: object, right: object) -> bool | None:
    if left is UNKNOWN or right is UNKNOWN:
        return None
    if left is None or right is None:
        return left is right
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right if isinstance(left, bool) and isinstance(right, bool) else None
    return left == right if _same_kind(left, right) else None


def _ordered(op: ast.cmpop, left: Any, right: Any) -> bool | None:
    if not _same_kind(left, right):
        return None
    match op:
        case ast.Lt():
            return bool(left < right)
        case ast.LtE():
            return bool(left <= right)
        case ast.Gt():
            return bool(left > right)
        case _:
            return bool(left >= right)


def _same_kind(left: object, right: object) -> bool:
    """Only text with text and number with number; a NaN is not a number here either."""
    if isinstance(left, str) and isinstance(right, str):
        return True
    return _is_number(left) and _is_number(right)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (isinstance(value, float) and math.isnan(value))


def _in(item: object, whole: object) -> bool | None:
    if item is UNKNOWN:
        return None
    match whole:
        case str():
            return item in whole if isinstance(item, str) else None
        case list() | tuple():
            return _any([_equal(item, each) for each in whole])
        case dict():
            return item in whole if isinstance(item, str) else None
        case _:
            return None


def _not(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _all(answers: Sequence[bool | None]) -> bool | None:
    if False in answers:
        return False
    return None if None in answers else True


def _any(answers: Sequence[bool | None]) -> bool | None:
    if True in answers:
        return True
    return None if None in answers else False


class Problem(msgspec.Struct, frozen=True):
    """A condition that cannot be read, kept as data so that a policy never fails on it."""

    text: str
    message: str


@lru_cache(maxsize=1024)  # the same few rules are asked at every call
def parse_or_problem(text: str) -> Condition | Problem:
    """Read a condition that may come from an old journal: what is wrong becomes a value."""
    try:
        return parse(text)
    except InvalidRequest as error:
        return Problem(text, error.message)
