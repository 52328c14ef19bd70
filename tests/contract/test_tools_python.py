"""Python functions as tools: what a definition may be, and what the model sees of it."""

import enum
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pytest
from pydantic import BaseModel

from perdure.core.agent import Effect
from perdure.core.errors import InvalidRequest
from perdure.ports.tool import Tool, ToolContext
from perdure.tools.python import FunctionTool, tool
from tests.contract.tool_doubles import run


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Address:
    """Where to."""

    street: str
    city: str = "Bonn"


class Note(TypedDict):
    text: str
    by: NotRequired[str]


class Line(msgspec.Struct):
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Model(BaseModel):
    inner: list["Model"] = []
    name: str


def schema_of(made: Tool) -> Any:
    return msgspec.json.decode(made.spec.input_schema)


# The definition.


@tool(ask="eur > 20")
def refund(order: int, eur: float = 5.0, *, key: str) -> str:
    """Pay money back.

    Args:
        order: the order's number,
            as printed
        eur (float): how much

    Returns:
        a receipt
    """
    return f"{order} {eur} {key}"


def test_the_spec_of_a_function() -> None:
    assert refund.spec.name == "refund"
    assert refund.spec.effect is Effect.ONCE
    assert refund.spec.ask == "eur > 20"
    assert refund.spec.source == f"{__name__}:refund"
    assert refund.spec.description == "Pay money back.\n\nReturns:\n    a receipt"
    assert schema_of(refund) == {
        "type": "object",
        "properties": {
            "order": {"type": "integer", "description": "the order's number, as printed"},
            "eur": {"type": "number", "default": 5.0, "description": "how much"},
        },
        "required": ["order"],
        "additionalProperties": False,
    }


def test_the_plain_function_can_still_be_called() -> None:
    assert refund(1, 2.0, key="k") == "1 2.0 k"
    assert refund.__name__ == "refund"
    assert inspect.signature(refund).parameters.keys() == {"order", "eur", "key"}


def test_every_option() -> None:
    @tool(
        effect="idempotent",
        ask=True,
        deny="n > 3",
        name="other-name",
        description="  Other.\n  Text.",
        timeout_s=7,
    )
    async def f(n: int) -> None: ...

    spec = f.spec
    assert (spec.name, spec.effect, spec.ask) == ("other-name", Effect.IDEMPOTENT, "true")
    assert (spec.deny, spec.description, spec.timeout_s) == ("n > 3", "Other.\nText.", 7)
    assert isinstance(f, FunctionTool)


def test_a_contained_function_takes_its_turn_in_the_environment() -> None:
    @tool(effect="contained")
    async def build(context: ToolContext) -> str:
        return context.call_id

    assert build.spec.environment
    assert build.spec.mutates
    assert schema_of(build)["properties"] == {}


def test_a_tool_may_ask_for_the_environment() -> None:
    async def look(context: ToolContext) -> str:
        return context.sandbox.workspace

    read = tool(effect="read", environment=True)(look).spec
    once = tool(environment=True)(look).spec
    assert (read.environment, read.mutates) == (True, False)
    assert (once.environment, once.mutates) == (True, True)


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (str, "\ud800\x00é", "\ud800\x00é"),
        (int, 3, 3),
        (int, 10**30, 10**30),
        (float, 3, 3.0),
        (bool, True, True),
        (None, None, None),
        (Any, {"a": [1]}, {"a": [1]}),
        (list[int], [1, 2], [1, 2]),
        (list, ["x"], ["x"]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (dict[int, str], {"1": "a"}, {1: "a"}),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (Literal["a", 2], 2, 2),
        (Size, "l", Size.LARGE),
        (int | None, None, None),
        (int | str, "x", "x"),
        (Address, {"street": "A 1"}, Address("A 1")),
        (Note, {"text": "t"}, {"text": "t"}),
        (list[Line], [{"sku": "x"}], [Line("x")]),
        (Annotated[int, "how many"], 4, 4),
        (Annotated[int, msgspec.Meta(ge=0)], 0, 0),
        (bytes, "aGk=", b"hi"),
        (Model, {"name": "x", "inner": [{"name": "y"}]}, Model(name="x", inner=[Model(name="y")])),
    ],
)
async def test_hints_become_schema_and_values(hint: Any, value: object, expected: object) -> None:
    seen: list[object] = []

    def f(x: int) -> None:
        seen.append(x)

    f.__annotations__["x"] = hint
    made = tool(f)
    await run(made, x=value)
    assert seen == [expected]
    assert type(seen[0]) is type(expected)
    assert "x" in schema_of(made)["properties"]


def test_descriptions_and_defaults_in_the_schema() -> None:
    @tool
    def f(
        a: Annotated[int, "from the hint"],
        b: Annotated[int, msgspec.Meta(description="from meta")] = 3,
        c: Size = Size.SMALL,
        d: list[int] = [1],  # noqa: B006 - defaults are what is under test
        e: Any = object(),  # noqa: B008 - the same
        g: int | None = None,
    ) -> None:
        """Do it.

        :param c: the size
        :param int a: loses against the hint
        :type c: Size
        """

    fields = schema_of(f)["properties"]
    assert f.spec.description == "Do it."
    assert fields["a"]["description"] == "from the hint"
    assert fields["b"] == {"type": "integer", "description": "from meta", "default": 3}
    assert (fields["c"]["description"], fields["c"]["default"]) == ("the size", "s")
    assert fields["d"]["default"] == [1]
    assert "default" not in fields["e"]
    assert fields["g"]["default"] is None


def test_numpy_docstrings() -> None:
    @tool
    def f(a: int, b: str) -> None:
        """Do it.

        Parameters
        ----------
        a : int
            The first,
            in two lines.
        b
            The second.

        Returns
        -------
        nothing
        """

    fields = schema_of(f)["properties"]
    assert fields["a"]["description"] == "The first, in two lines."
    assert fields["b"]["description"] == "The second."
    assert f.spec.description == "Do it.\n\nReturns\n-------\nnothing"


def test_the_digest_does_not_see_the_docstrings_indentation() -> None:
    def f(a: int) -> None: ...

    texts = ["Do.\n\n    Args:\n        a: one\n    ", "Do.\n\n\tArgs:\n\t    a: one", "Do.\n\nArgs:\n  a: one"]  # fmt: skip  # noqa: E501
    digests = set()
    for text in texts:
        f.__doc__ = text
        digests.add(tool(f).spec.digest)
    f.__doc__ = "Do.\n\nArgs:\n  a: two"
    assert len(digests) == 1
    assert tool(f).spec.digest not in digests


def no_hint(order) -> None: ...  # type: ignore[no-untyped-def]
def complex_hint(order: complex) -> None: ...
def function_hint(order: Callable[[], None]) -> None: ...
def many(*order: int) -> None: ...
def open_ended(**order: int) -> None: ...
def positional(order: int, /) -> None: ...
def two_dicts(order: Address | Line) -> None: ...
def unknown_name(order: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "function",
    [no_hint, complex_hint, function_hint, many, open_ended, positional, two_dicts, unknown_name],
)
def test_what_cannot_be_a_tool_says_where(function: Callable[..., None]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        tool(function)
    assert caught.value.code == "E-TOOL-DEFINITION"
    assert function.__name__ in caught.value.message
    assert f"{__file__}:{function.__code__.co_firstlineno}" in caught.value.message
    assert "order" in caught.value.message or "Nowhere" in caught.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"effect": "twice"},
        {"ask": "euro > 20"},
        {"deny": "amount"},
        {"name": "no spaces"},
        {"name": "x" * 65},
        {"timeout_s": 0},
        {"probe": lambda order, invoice: None},
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    def f(order: int, eur: float) -> None: ...

    with pytest.raises(InvalidRequest, match="E-TOOL-DEFINITION"):
        tool(**options)(f)


def test_a_wrong_condition_is_seen_at_once() -> None:
    def f(eur: float) -> None: ...

    with pytest.raises(InvalidRequest, match="E-CONDITION"):
        tool(ask="eur >")(f)
