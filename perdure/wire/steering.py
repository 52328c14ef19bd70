"""What steers a model, in each dialect's words.

What a dialect cannot say is left out, by these rules. Anthropic's has no verbosity, no summary of
reasoning, and no JSON form without a schema; its least effort is `low`, and `none` turns thinking
off. Chat Completions has no summary of reasoning. A choice of tools is not sent without tools.
"""

from typing import Any

import msgspec

from perdure.core.settings import Format
from perdure.ports.model import ModelRequest
from perdure.wire.history import wire_name

Json = dict[str, Any]


def for_responses(req: ModelRequest) -> Json:
    """Return the fields of a Responses body."""
    settings = req.settings
    body = _sampling(req)
    reasoning = {"effort": settings.effort, "summary": settings.summary or None}
    if reasoning := _set(reasoning):
        body["reasoning"] = reasoning
    text: Json = {"verbosity": settings.verbosity} if settings.verbosity else {}
    if settings.format is not None:
        text["format"] = _flat(settings.format)
    if text:
        body["text"] = text
    if req.tools:
        if settings.tool:
            body["tool_choice"] = {"type": "function", "name": wire_name(settings.tool)}
        elif settings.tool_choice:
            body["tool_choice"] = settings.tool_choice
        body |= _set({"parallel_tool_calls": settings.parallel_tool_calls})
    return body


def for_chat(req: ModelRequest) -> Json:
    """Return the fields of a Chat Completions body."""
    settings = req.settings
    body = _sampling(req)
    body |= _set({"reasoning_effort": settings.effort, "verbosity": settings.verbosity})
    if settings.format is not None:
        flat = _flat(settings.format)
        kind = flat.pop("type")
        body["response_format"] = {"type": kind} | ({kind: flat} if flat else {})
    if req.tools:
        if settings.tool:
            named = {"name": wire_name(settings.tool)}
            body["tool_choice"] = {"type": "function", "function": named}
        elif settings.tool_choice:
            body["tool_choice"] = settings.tool_choice
        body |= _set({"parallel_tool_calls": settings.parallel_tool_calls})
    return body


def for_messages(req: ModelRequest) -> Json:
    """Return the fields of an Anthropic Messages body."""
    settings = req.settings
    body = _sampling(req)
    if settings.effort == "none":
        body["thinking"] = {"type": "disabled"}
    output: Json = {}
    if settings.effort not in (None, "none"):
        output["effort"] = "low" if settings.effort == "minimal" else settings.effort
    if settings.format is not None and settings.format.schema:
        schema = msgspec.Raw(settings.format.schema.encode())
        output["format"] = {"type": "json_schema", "schema": schema}
    if output:
        body["output_config"] = output
    if req.tools and (choice := _anthropic_choice(req)):
        body["tool_choice"] = choice
    return body


def _anthropic_choice(req: ModelRequest) -> Json:
    settings = req.settings
    choice: Json = {}
    if settings.tool_choice == "none":
        return {"type": "none"}
    if settings.tool:
        choice = {"type": "tool", "name": wire_name(settings.tool)}
    elif settings.tool_choice == "required":
        choice = {"type": "any"}
    elif settings.tool_choice == "auto" or settings.parallel_tool_calls is False:
        choice = {"type": "auto"}
    if settings.parallel_tool_calls is False:
        choice["disable_parallel_tool_use"] = True
    return choice


def _sampling(req: ModelRequest) -> Json:
    return _set({"temperature": req.settings.temperature, "top_p": req.settings.top_p})


def _flat(form: Format) -> Json:
    if not form.schema:
        return {"type": "json_object"}
    more = {"description": form.description or None, "strict": form.strict or None}
    schema = msgspec.Raw(form.schema.encode())
    return {"type": "json_schema", "name": form.name or "reply", "schema": schema, **_set(more)}


def _set(values: Json) -> Json:
    return {name: value for name, value in values.items() if value is not None}
