"""An agent's settings as they are written by clients, and as they are read: with every default."""

from collections.abc import Mapping
from typing import Any, Final

from perdure.core.content import Content, Part, UserItem
from perdure.doors.openai import inputs
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
TIERS: Final = ("auto", "default", "flex", "priority", "fast", "ultrafast")
_LEVELS: Final = ("low", "medium", "high")
_SUBAGENTS: Final = 6  # at once, when nothing else is said
_PAIRS_MAX: Final = 16
_AUTHORISING: Final = ("authorization", "proxy-authorization", "cookie")  # headers
_PLAIN: Final[Mapping[str, Json]] = {
    "tool_search": {},
    "automations": {},
    "programmatic_tool_calling": {"enabled": True},
    "computer_use": {"include_screenshots": False},
    "web_search": {
        "mode": "live",
        "context_size": "medium",
        "location": None,
        "allowed_domains": None,
    },
}


def settings(body: Mapping[str, Any], base: Mapping[str, Any] | None = None) -> Json:
    """Return an agent's settings: what `body` says, else what `base` has, else the defaults.

    Raises `Wording` (400).
    """
    found: Json = dict(base) if base else dict(_FRESH)
    for name in ("model", "name", "instructions"):
        if name in body:
            found[name] = _text(body[name], name, empty=name != "model")
    for name, read in _READERS.items():
        if name in body:
            found[name] = read(body[name], found.get(name) or {})
    return found


def metadata(value: object) -> dict[str, str]:
    """Return pairs of strings; null is none. Raises `Wording` (400)."""
    value = _strings(value, "metadata")
    if len(value) > _PAIRS_MAX or any(len(k) > 64 or len(v) > 512 for k, v in value.items()):
        said = "metadata has at most 16 pairs, keys of 64 and values of 512 characters."
        raise Wording(400, said, param="metadata")
    return value


def options(value: object, param: str) -> Json | None:
    """Return an object, or None. Raises `Wording` (400)."""
    return _object(value, param) or None


def names(value: object, param: str) -> tuple[str, ...]:
    """Return a list of strings; null is none. Raises `Wording` (400)."""
    return tuple(_names(value, param) or ())


def words(value: object, param: str) -> Content:
    """Return what user messages say: a text, or a list of messages. Raises `Wording` (400)."""
    items = inputs.as_list(value, param)
    if any(item.get("role") != "user" for item in items):
        raise Wording(400, "A session is given messages of its user's.", param=param)
    content: list[Part] = []
    for item in inputs.read(inputs.named(items, "in"), {}).items:
        assert isinstance(item, UserItem)
        content += item.content
    if not content:
        raise Wording(400, "A message needs content.", param=param)
    return tuple(content)


def snapshot(id: str, settings: Mapping[str, Any]) -> Json:
    """Return an agent as its sessions show it: without what only its writer may read."""
    tools = [_shown(tool) for tool in settings["tools"] if tool["type"] != "tool_search"]
    kept = {k: v for k, v in settings.items() if k != "metadata"}
    return {"id": id, **kept, "tools": tools}


def _shown(tool: Json) -> Json:
    if tool["type"] != "mcp" or tool["transport"]["type"] != "http":
        return tool
    transport = {k: v for k, v in tool["transport"].items() if k != "headers"}
    return {**tool, "transport": transport}


def _text(value: object, param: str, *, empty: bool) -> str | None:
    if value is None and empty:
        return None
    if not isinstance(value, str) or not (value or empty):
        raise Wording(400, f"{param} is a string.", param=param)
    return value


def _object(value: object, param: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Wording(400, f"{param} is an object.", param=param)
    return value


def _strings(value: object, param: str) -> dict[str, str]:
    given = _object(value, param)
    if not all(isinstance(each, str) for each in given.values()):
        raise Wording(400, f"{param} maps strings to strings.", param=param)
    return dict(given)


def _names(value: object, param: str) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Wording(400, f"{param} is a list of strings.", param=param)
    return value


def _one_of(value: object, allowed: tuple[str, ...], param: str) -> str:
    if value not in allowed:
        raise Wording(400, f"{param} is one of {', '.join(allowed)}.", param=param)
    return str(value)


def _flag(value: object, param: str) -> bool:
    if not isinstance(value, bool):
        raise Wording(400, f"{param} is true or false.", param=param)
    return value


def _multi_agent(value: object, before: Json) -> Json:
    given = _object(value, "multi_agent")
    if not _flag(given.get("enabled", False), "multi_agent.enabled"):
        return {"enabled": False, "max_concurrent_subagents": None}
    most = given.get("max_concurrent_subagents") or _SUBAGENTS
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        where = "multi_agent.max_concurrent_subagents"
        raise Wording(400, f"{where} is at least 1.", param=where)
    return {"enabled": True, "max_concurrent_subagents": most}


def _reasoning(value: object, before: Json) -> Json:
    if value is None:
        return dict(_FRESH["reasoning"])
    given = _object(value, "reasoning")
    found = dict(before)
    if "effort" in given:
        effort = given["effort"]
        found["effort"] = effort and _one_of(effort, EFFORTS, "reasoning.effort")
    if "summary" in given:
        summary, styles = given["summary"], ("concise", "detailed", "auto")
        found["summary"] = summary and _one_of(summary, styles, "reasoning.summary")
    return found


def _tier(value: object, before: object) -> str:
    return "auto" if value is None else _one_of(value, TIERS, "service_tier")


def _written(value: object, before: Json) -> Json:
    """Return how text is to be written: its form, and how much of it."""
    if value is None:
        return dict(_FRESH["text"])
    given = _object(value, "text")
    found = dict(before)
    if given.get("verbosity") is not None:
        found["verbosity"] = _one_of(given["verbosity"], _LEVELS, "text.verbosity")
    if given.get("format") is not None:
        form = _object(given["format"], "text.format")
        kind = _one_of(form.get("type"), ("text", "json_schema"), "text.format.type")
        found["format"] = {"type": kind}
        if kind == "json_schema":
            schema = form.get("schema")
            if not isinstance(schema, dict):
                raise Wording(400, "schema is a JSON Schema.", param="text.format.schema")
            found["format"]["schema"] = schema
    return found


def _compaction(value: object, before: Json) -> Json:
    given = _object(value, "compaction")
    return {"async": _flag(given.get("async") or False, "compaction.async")}


def _experimental(value: object, before: Json) -> Json:
    given = _object(value, "experimental")
    aware = given.get("time_awareness", before.get("time_awareness", False))
    return {"time_awareness": _flag(aware, "experimental.time_awareness")}


def _tools(value: object, before: object) -> list[Json]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise Wording(400, "tools is a list.", param="tools")
    return [_tool(tool, f"tools[{number}]") for number, tool in enumerate(value)]


def _tool(value: object, where: str) -> Json:
    tool = _object(value, where)
    kind = tool.get("type")
    match kind:
        case "function":
            return _function(tool, where)
        case "mcp":
            return _mcp(tool, where)
        case str() if kind in _PLAIN:
            given = {k: v for k, v in tool.items() if k in _PLAIN[kind] and v is not None}
            return {"type": kind, **_PLAIN[kind], **given}
        case _:
            raise Wording(400, f"There are no tools of type {kind!r}.", param=f"{where}.type")


def _function(tool: Json, where: str) -> Json:
    if not isinstance(tool.get("parameters"), dict):
        raise Wording(400, "parameters is a JSON Schema.", param=f"{where}.parameters")
    found: Json = {
        "type": "function",
        "name": _text(tool.get("name"), f"{where}.name", empty=False),
        "description": _text(tool.get("description") or "", f"{where}.description", empty=True),
        "parameters": tool["parameters"],
        "defer_loading": _flag(tool.get("defer_loading", False), f"{where}.defer_loading"),
    }
    if tool.get("async") is not None:
        found["async"] = _flag(tool["async"], f"{where}.async")
    return found


def _mcp(tool: Json, where: str) -> Json:
    transport = _object(tool.get("transport"), f"{where}.transport")
    match transport.get("type"):
        case "http":
            _ensure_open(transport, f"{where}.transport")
            url = _text(transport.get("server_url"), f"{where}.transport.server_url", empty=False)
            shown: Json = {"type": "http", "server_url": url}
            shown["headers"] = _strings(transport.get("headers"), f"{where}.transport.headers")
        case "stdio":
            shown = {"type": "stdio", "args": [], "env_vars": []}
            for name in ("command", "cwd"):
                shown[name] = _text(transport.get(name), f"{where}.transport.{name}", empty=False)
            shown |= {k: transport[k] for k in ("args", "env_vars") if transport.get(k)}
        case _:
            raise Wording(400, "transport is http or stdio.", param=f"{where}.transport.type")
    found: Json = {
        "type": "mcp",
        "server_label": _text(tool.get("server_label"), f"{where}.server_label", empty=False),
        "transport": shown,
        "allowed_tools": _names(tool.get("allowed_tools"), f"{where}.allowed_tools"),
        "connection_origin": _one_of(
            tool.get("connection_origin") or "service",
            ("service", "environment"),
            f"{where}.connection_origin",
        ),
        "credential_id": _text(tool.get("credential_id"), f"{where}.credential_id", empty=True),
        "request_metadata": _object(tool.get("request_metadata"), f"{where}.request_metadata"),
        "required": _flag(tool.get("required", False), f"{where}.required"),
    }
    if tool.get("require_approval") is not None:  # as in the Responses API
        found["require_approval"] = tool["require_approval"]
    return found


def _ensure_open(transport: Json, where: str) -> None:
    """Refuse what authorises us: an agent's settings are kept, and read by viewers, as they are."""
    headers = transport.get("headers")
    named = [name for name in headers or () if isinstance(headers, dict)]
    url = transport.get("server_url")
    before_path = url.partition("://")[2].partition("/")[0] if isinstance(url, str) else ""
    wrong = "authorization" if transport.get("authorization") else ""
    wrong = wrong or ("headers" if any(name.lower() in _AUTHORISING for name in named) else "")
    wrong = wrong or ("server_url" if "@" in before_path else "")
    if wrong:
        said = "Put the authorization into a vault, and name its credential_id here."
        raise Wording(400, said, param=f"{where}.{wrong}")


_FRESH: Final[Mapping[str, Any]] = {
    "model": "",
    "name": None,
    "instructions": None,
    "multi_agent": {"enabled": False, "max_concurrent_subagents": None},
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "auto",
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tools": [],
}
_READERS: Final[Mapping[str, Any]] = {
    "multi_agent": _multi_agent,
    "reasoning": _reasoning,
    "service_tier": _tier,
    "text": _written,
    "tools": _tools,
    "compaction": _compaction,
    "experimental": _experimental,
}
