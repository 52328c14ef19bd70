"""Requests that nobody sends who means well."""

import importlib
import json
import pkgutil
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_WORDS: Final = (
    "talk",
    "a",
    "",
    "null",
    "0",
    "-1",
    "1e999",
    "true",
    "\x00",
    "\x1f",
    "\ud800",
    "\u202e",
    "é" * 300,
    "../../x",
    "%2e%2e%2f",
    "' OR 1=1 --",
    "{{7*7}}",
    "${x}",
    "<script>",
    "\r\nX-Evil: 1",
    "a" * 5000,
    "resp_1",
    "conv_1",
    "sess_1",
    "default",
    "other\x1fsecret",
    "$blob",
    "2026-01-01",
    "*",
    "[",
    "(((",
    "http://127.0.0.1:1/",
    "http://[::1]/",
    "file:///x",
    "data:text/plain;base64,AA==",
    "auto",
    "function",
    "message",
    "user",
    "input_text",
    "text",
    "json_schema",
    "in_progress",
    "completed",
    "desc",
    "asc",
)
_NAMED: Final = (
    "tools input instructions metadata text reasoning include tool_choice conversation stream "
    "previous_response_id background max_output_tokens temperature truncation store prompt type "
    "items name auth limit order after before starting_after content role id call_id output "
    "arguments status model agent message description parameters strict user format effort "
    "messages source limits action decision cron every environment files vault_ids schedule "
    "events kind key body data at to seq parallel_tool_calls max_tool_calls top_p service_tier "
    "server_url server_label headers allowed_tools require_approval context_management"
)
_LIKELY: Final = tuple(_NAMED.split())
_NUMBERS: Final = (
    0,
    -1,
    1,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    2**64,
    10**400,
    1.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
)
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "FOO")
_HEADERS: Final = (
    "accept",
    "content-type",
    "last-event-id",
    "idempotency-key",
    "x-api-key",
    "openai-beta",
    "origin",
    "x-forwarded-for",
    "if-match",
    "range",
    "content-encoding",
    "traceparent",
    "cookie",
    "expect",
)


@dataclass
class Asked:
    """One request and what came of it."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    cut: bool = False
    status: int = 0
    answer: bytes = b""

    def __str__(self) -> str:
        sent = f"{self.method} {self.path!r} ?{self.query[:200]!r} {self.body[:500]!r}"
        return f"{self.status} {sent}\n      -> {self.answer[:400]!r}"


def _fields() -> list[str]:
    """The names of all fields that OpenAI's own types know."""
    from openai import types

    names: set[str] = set()
    for module in pkgutil.walk_packages(types.__path__, "openai.types."):
        if module.name.endswith("_params") or ".responses." in module.name:
            for value in vars(importlib.import_module(module.name)).values():
                names |= set(getattr(value, "__annotations__", {}))
    ours = (
        "agent",
        "source",
        "limits",
        "message",
        "adopt",
        "at",
        "to",
        "action",
        "decision",
        "cron",
        "every",
    )
    return sorted({*names, *ours} - {"api_key"})


class Maker:
    """Makes requests. `known` are ids that answers have shown: with them the deep parts are met."""

    def __init__(self, routes: Sequence[tuple[str, str]], key: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._routes = routes
        self._key = key
        self._names = _fields()
        self.known: list[str] = ["s1"]

    def make(self) -> Asked:
        """Return the next request."""
        chance = self._random
        method, template = chance.choice(self._routes)
        if chance.random() < 0.05:
            method = chance.choice(_METHODS)
        path = "/".join(self._part(part) for part in template.split("/"))
        if chance.random() < 0.02:
            path += chance.choice(("/", "//", "/..", "/%00", "/x/y/z", "?"))
        pairs = [f"{self._name()}={self._word()}" for _ in range(chance.randrange(3))]
        query = "&".join(pairs).encode("utf-8", "surrogatepass").replace(b" ", b"+")
        headers = [(b"authorization", f"Bearer {self._key}".encode())]
        if chance.random() < 0.03:
            headers = [(b"authorization", self._word().encode("utf-8", "replace"))]
        for _ in range(chance.randrange(3)):
            name = chance.choice(_HEADERS).encode()
            headers.append((name, self._word().encode("utf-8", "replace")[:300]))
        if chance.random() < 0.1:
            headers.append((b"accept", b"text/event-stream"))
        body = self._body() if method not in ("GET", "HEAD") or chance.random() < 0.1 else b""
        return Asked(method, path, query, headers, body, cut=chance.random() < 0.02)

    def _part(self, part: str) -> str:
        if not part.startswith("{"):
            return part
        if self._random.random() < 0.6:
            return self._random.choice(self.known)
        return self._word().replace("/", "\\")

    def _body(self) -> bytes:
        chance = self._random
        kind = chance.random()
        if kind < 0.05:
            return chance.choice(
                (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"{" * 5000, b"[" * 100_000)
            )
        if kind < 0.2:  # nearly right
            right = chance.choice(
                ({"agent": "clerk", "message": "hi"}, {"model": "talk", "input": "hi"})
            )
            return json.dumps(right | (self._object(3) if kind < 0.1 else {})).encode()
        value = self._object(0)
        if kind < 0.6:
            value |= {"model": "talk", "input": chance.choice(("hi", [], [self._object(2)]))}
        if 0.5 < kind < 0.7:
            value |= {"agent": chance.choice(("clerk", self._value(1))), "message": "hi"}
        text = json.dumps(value)
        if kind > 0.97:
            text = text[: chance.randrange(len(text))]
        return text.encode("utf-8", "surrogatepass")

    def _object(self, depth: int) -> dict[str, Any]:
        return {self._name(): self._value(depth + 1) for _ in range(self._random.randrange(6))}

    def _value(self, depth: int) -> Any:
        chance = self._random
        kind = chance.randrange(9 if depth < 4 else 6)
        if kind == 0:
            return None
        if kind == 1:
            return chance.random() < 0.5
        if kind == 2:
            return chance.choice(_NUMBERS)
        if kind < 6:
            return self._word()
        if kind == 6:
            return [self._value(depth + 1) for _ in range(chance.randrange(4))]
        if kind == 7 and chance.random() < 0.05:
            deep: Any = 1
            for _ in range(chance.choice((30, 300))):
                deep = {"a": [deep]}
            return deep
        made = self._object(depth)
        if chance.random() < 0.5:
            made["type"] = self._word()
        return made

    def _word(self) -> str:
        chance = self._random
        return chance.choice(self.known) if chance.random() < 0.2 else chance.choice(_WORDS)

    def _name(self) -> str:
        chance = self._random
        if chance.random() < 0.6:
            return chance.choice(_LIKELY)
        return chance.choice(self._names) if chance.random() < 0.95 else self._word()[:40]
