"""What a request says of how the model is to work, as an agent's definition."""

import json
from collections.abc import Mapping
from typing import Any, Final, get_args

from msgspec.structs import replace

from perdure.core.agent import AgentSpec, Compaction, Limits
from perdure.core.settings import EFFORTS, Format, ModelSettings, Verbosity
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.tools import Declared

Json = dict[str, Any]

NAME: Final = "openai-responses"
_MOST_TOKENS: Final = 8192


def definition(body: Json, model: str, instructions: str, tools: Declared) -> AgentSpec:
    """Return the agent that answers a request. Raises `Wording` (400) for a wish that is none."""
    most, calls = _number(body, "max_output_tokens", 1), _number(body, "max_tool_calls", 0)
    long_lived = body.get("stream") or body.get("background")
    settings, tools_allowed = _choice(body, settings_of(body), tools)
    return AgentSpec(
        name=NAME,
        model=model,
        instructions=instructions,
        tools=tuple(tools_allowed),
        limits=Limits() if calls is None else Limits(tool_calls=calls),
        environment=tools.environment,
        max_output_tokens=most or _MOST_TOKENS,
        compaction=_compaction(body),
        deltas="stored" if long_lived else "live",
        settings=settings,
    )


def settings_of(body: Json) -> ModelSettings:
    """Return what steers the model, but for the choice of tools."""
    reasoning, text = _object(body, "reasoning"), _object(body, "text")
    effort, verbosity = reasoning.get("effort"), text.get("verbosity")
    if effort is not None and effort not in EFFORTS:
        raise _no("reasoning.effort", effort, ", ".join(EFFORTS))
    if verbosity is not None and verbosity not in get_args(Verbosity):
        raise _no("text.verbosity", verbosity, ", ".join(get_args(Verbosity)))
    summary = reasoning.get("summary") or reasoning.get("generate_summary") or ""
    parallel = body.get("parallel_tool_calls")
    return ModelSettings(
        effort=effort,
        summary=str(summary),
        parallel_tool_calls=parallel if isinstance(parallel, bool) else None,
        temperature=_fraction(body, "temperature", 2.0),
        top_p=_fraction(body, "top_p", 1.0),
        format=_format(text.get("format")),
        verbosity=verbosity,
    )


def _choice(
    body: Json, settings: ModelSettings, tools: Declared
) -> tuple[ModelSettings, list[Any]]:
    """Return the settings with the choice of tools, and the tools that are left to choose from."""
    choice = body.get("tool_choice")
    if choice is None:
        return settings, tools.specs
    if choice in ("auto", "none", "required"):
        return replace(settings, tool_choice=choice), tools.specs
    if not isinstance(choice, Mapping):
        raise _no("tool_choice", choice, "auto, none, required, or an object")
    if choice.get("type") == "allowed_tools":
        named = choice.get("tools")
        names = [n for each in named or [] for n in _names(each, tools)]
        mode = "required" if choice.get("mode") == "required" else "auto"
        left = [spec for spec in tools.specs if spec.name in names]
        return replace(settings, tool_choice=mode), left
    names = _names(choice, tools)
    if not names:
        said = f"Tool choice {json.dumps(dict(choice))} not found in 'tools' parameter."
        raise Wording(400, said, param="tool_choice")
    if len(names) > 1:
        left = [spec for spec in tools.specs if spec.name in names]
        return replace(settings, tool_choice="required"), left
    return replace(settings, tool_choice=f"={names[0]}"), tools.specs


def _names(choice: object, tools: Declared) -> list[str]:
    """Return our names for the tools that a choice means."""
    if not isinstance(choice, Mapping):
        return []
    kind, wanted = choice.get("type"), choice.get("name")
    if kind == "mcp":
        label = choice.get("server_label")
        shown = [(n, s) for n, s in tools.shown.items() if s.look == "mcp" and s.label == label]
        return [n for n, s in shown if wanted is None or s.name == wanted]
    return [
        name
        for name, shown in tools.shown.items()
        if shown.look == kind and (wanted is None or name == wanted)
    ]


def _compaction(body: Json) -> Compaction:
    """Return when the conversation is shortened: only when asked to, as the vendor has it."""
    managed = body.get("context_management")
    for each in managed if isinstance(managed, list) else []:
        if isinstance(each, Mapping) and each.get("type") == "compaction":
            threshold = each.get("compact_threshold")
            return Compaction(at_tokens=threshold if isinstance(threshold, int) else None)
    truncation = body.get("truncation") or "disabled"
    if truncation not in ("auto", "disabled"):
        raise _no("truncation", truncation, "auto or disabled")
    return Compaction(on_overflow=truncation == "auto")


def _format(value: object) -> Format | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _no("text.format", value, "an object")
    match value.get("type"):
        case "text" | None:
            return None
        case "json_object":
            return Format()
        case "json_schema":
            schema = value.get("schema")
            if not isinstance(schema, Mapping):
                raise _no("text.format.schema", schema, "a JSON Schema")
            plain = json.dumps(schema, sort_keys=False, separators=(",", ":"))
            return Format(
                str(value.get("name") or ""),
                plain,
                str(value.get("description") or ""),
                bool(value.get("strict")),
            )
        case kind:
            raise _no("text.format.type", kind, "text, json_object or json_schema")


def _number(body: Json, name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _no(name, value, f"a whole number of at least {least}")
    return value


def _fraction(body: Json, name: str, most: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise _no(name, value, f"a number from 0 to {most:g}")
    return float(value)


def _object(body: Json, name: str) -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _no(name, value, "an object")
    return value


def _no(param: str, value: object, wanted: str) -> Wording:
    return Wording(400, f"Invalid value: {value!r}. Supported: {wanted}.", param=param)
