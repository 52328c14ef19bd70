"""Tools that are answered by a client: declared here, run nowhere.

A call of such a tool waits in the session as an open action until some process answers it, with
`Session.answer` or `perdure answer`: a form in a web page, a person at a terminal, another system.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from perdure.core import conditions, forms
from perdure.core.agent import Effect, ToolSpec
from perdure.core.codec import encode
from perdure.core.errors import InvalidRequest
from perdure.ports.tool import ToolContext, ToolOutput
from perdure.tools import raised
from perdure.tools.python import NAME
from perdure.tools.schema import Parameters

_SOURCE: Final = "client"
_ASKED: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "message": {"type": "string", "description": "what it is about, for whoever fills it in"}
    },
    "additionalProperties": False,
}


@dataclass(frozen=True)
class ClientTool:
    """A tool that clients answer. Made by `client_tool` and `form`; implements the `Tool` port."""

    spec: ToolSpec

    def __repr__(self) -> str:
        return f"<client tool {self.spec.name}>"

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Refuse: the engine puts such a call to the clients and starts nothing."""
        raise InvalidRequest(
            "E-TOOL-CLIENT", f"{self.spec.name} is answered by a client; nothing was run."
        )

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Nothing to ask: what a client says comes as an answer."""
        return None


@typing.overload
def client_tool(function: Callable[..., Any], /) -> ClientTool: ...


@typing.overload
def client_tool(
    *,
    name: str = ...,
    description: str = ...,
    effect: str = ...,
    ask: str | bool = ...,
    deny: str | bool = ...,
) -> Callable[[Callable[..., Any]], ClientTool]: ...


@typing.overload
def client_tool(
    *,
    name: str,
    parameters: Mapping[str, Any],
    description: str = ...,
    answer: Any = ...,
    effect: str = ...,
    ask: str | bool = ...,
    deny: str | bool = ...,
) -> ClientTool: ...


def client_tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    description: str = "",
    parameters: Mapping[str, Any] | None = None,
    answer: Any = None,
    effect: str = "once",
    ask: str | bool = "",
    deny: str | bool = "",
) -> Any:
    """Declare a tool that a client answers.

    Above a function its signature gives the parameters and its return annotation what an answer
    must look like; the body is never run. With `name` and `parameters` (JSON Schema) there is no
    function; `answer` is then a JSON Schema, a `msgspec.Struct` or a dataclass (None: anything).
    `effect`, `ask` and `deny` are those of `tool`; an effect of "read" says that the client only
    looks or tells. Raises `InvalidRequest` (E-TOOL-DEFINITION, E-CONDITION).
    """
    wording = _Wording(name, description, effect, ask, deny)
    if parameters is not None:
        if function is not None:
            raise _wrong(name, "a function has its own parameters")
        answered = "" if answer is None else encode(shape(answer, name)).decode()
        return wording.made(encode(_checked(parameters, name)), answered)
    if answer is not None:
        raise _wrong(name, "answer= belongs to parameters=; a function says it with ->")
    if function is not None:
        return _of(function, wording)
    return lambda given: _of(given, wording)


def form(
    name: str, description: str, fields: Any, *, ask: str | bool = "", deny: str | bool = ""
) -> ClientTool:
    """Declare a form: a client tool whose answer has these fields.

    `fields` is a JSON Schema, a `msgspec.Struct` or a dataclass. The model may say in `message`
    what it is about. Raises `InvalidRequest` (E-TOOL-DEFINITION, E-CONDITION).
    """
    schema = encode(shape(fields, name)).decode()
    return _Wording(name, description, "read", ask, deny).made(encode(_ASKED), schema)


def shape(fields: Any, name: str = "") -> dict[str, Any]:
    """Return the JSON Schema of a type, or a given schema when it is one.

    Raises `InvalidRequest` (E-TOOL-DEFINITION).
    """
    if isinstance(fields, Mapping):
        return _checked(fields, name)
    try:
        whole: dict[str, Any] = msgspec.json.schema(fields)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _wrong(name, f"`{inspect.formatannotation(fields)}` has no JSON form") from error
    named: dict[str, Any] = whole.get("$defs", {})
    top = whole.get("$ref", "").rpartition("/")[2]
    if top not in named:
        return whole
    inner = dict(named[top])
    if encode(named).count(b'"#/$defs/'):  # parts of it are named, itself perhaps
        inner["$defs"] = named
    return inner


@dataclass(frozen=True)
class _Wording:
    """What is said of a client tool beside its two schemas."""

    name: str
    description: str
    effect: str
    ask: str | bool
    deny: str | bool

    def made(self, parameters: bytes, answer: str) -> ClientTool:
        """Return the tool, once all that is said holds together."""
        if not NAME.match(self.name):
            raise _wrong(self.name, "a tool's name has 1 to 64 letters, digits, _ or -")
        if self.effect not in [each.value for each in Effect] or self.effect == "contained":
            raise _wrong(self.name, f"effect={self.effect!r} is none of read, idempotent, once")
        known = set(msgspec.json.decode(parameters).get("properties", {}))
        return ClientTool(
            ToolSpec(
                name=self.name,
                description=inspect.cleandoc(self.description),
                input_schema=msgspec.Raw(parameters),
                effect=Effect(self.effect),
                ask=self._condition(self.ask, "ask", known),
                deny=self._condition(self.deny, "deny", known),
                source=_SOURCE,
                client=True,
                answer_schema=answer,
            )
        )

    def _condition(self, condition: str | bool, word: str, known: set[str]) -> str:
        if not condition:
            return ""
        text = "true" if condition is True else condition
        unknown = set(conditions.parse(text).names) - known
        if unknown:
            names = ", ".join(sorted(unknown))
            raise _wrong(self.name, f"{word}={text!r} speaks of {names}, which is no parameter")
        return text


def _of(function: Callable[..., Any], wording: _Wording) -> ClientTool:
    """Read a function's signature; its body stays what it is."""
    name = wording.name or getattr(function, "__name__", "")
    parameters = Parameters(function, name, raised.where(function, full=True))
    if parameters.context or parameters.key:
        raise parameters.wrong("it is not run here, so it gets no context and no key")
    hint = typing.get_type_hints(function, include_extras=True).get("return")
    given = hint not in (None, type(None), Any)
    answer = encode(shape(hint, name)).decode() if given else ""
    words = wording.description or parameters.description
    wording = _Wording(name, words, wording.effect, wording.ask, wording.deny)
    return wording.made(bytes(parameters.schema), answer)


def _checked(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    flaw = forms.flaw(schema)
    if flaw:
        raise _wrong(name, f"that is no JSON Schema: {flaw}")
    return dict(schema)


def _wrong(name: str, problem: str) -> InvalidRequest:
    return InvalidRequest("E-TOOL-DEFINITION", f"Client tool {name or '(unnamed)'}: {problem}.")


@client_tool(effect="read")
def ask_user(question: str, options: list[str] | None = None) -> str:  # type: ignore[empty-body]
    """Ask the person you work for, and wait for the answer.

    Args:
        question: what you need to know, in one or two sentences
        options: likely answers, if there are some; the person may answer something else
    """
