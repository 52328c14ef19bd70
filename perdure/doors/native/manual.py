"""The protocol's description: an OpenAPI 3.1 document made from the endpoints, and a page of it.

The page is one file that loads nothing else; its policy lets it run its own script only, and talk
to the server that it came from.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from perdure.doors.native.bodies import Failure
from perdure.doors.native.table import BYTES, JSON, LINES, STREAM, Operation, Query

_REF: Final = "#/components/schemas/{name}"
_PART: Final = re.compile(r"\{(\w+)\}")
_INLINE: Final = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_TEXT: Final[Mapping[str, Any]] = {"type": "string"}


class Manual:
    """The description of some endpoints below `prefix`."""

    def __init__(self, operations: Sequence[Operation], prefix: str, version: str) -> None:
        self._document = document(operations, prefix, version)
        self._page = (files(__package__) / "page.html").read_text(encoding="utf-8")
        self._headers = {
            "content-security-policy": policy_of(self._page),
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
        }

    async def openapi(self, request: Request) -> Response:
        """Send the document."""
        return JSONResponse(self._document)

    async def page(self, request: Request) -> Response:
        """Send the page."""
        return Response(self._page, media_type="text/html", headers=self._headers)


def policy_of(page: str) -> str:
    """Return a content security policy under which only what is written in the page runs."""
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    scripts, styles = " ".join(allowed["script"]), " ".join(allowed["style"])
    return (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def document(operations: Sequence[Operation], prefix: str, version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    types = [each for op in operations for each in (op.body, op.result) if each is not None]
    unique = list({id(each): each for each in [*types, Failure]}.values())
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
    known = {id(each): schema for each, schema in zip(unique, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        described = _operation(op, known)
        paths.setdefault(prefix + op.path, {})[op.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Perdure",
            "version": version or "0",
            "description": "Durable sessions of AI agents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "tags": [{"name": name} for name in dict.fromkeys(op.tag for op in operations)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(op: Operation, known: Mapping[int, Any]) -> dict[str, Any]:
    failure = {"description": "What went wrong.", "content": {JSON: {"schema": known[id(Failure)]}}}
    about = " ".join((op.handler.__doc__ or "").split())
    found: dict[str, Any] = {
        "operationId": op.name,
        "tags": [op.tag],
        "summary": about.partition(". ")[0].rstrip("."),
        "description": f"{about} Needs the role {op.role}.",
        "parameters": [*_named(op.path), *map(_asked, op.query)],
        "responses": {**_answers(op, known), "default": failure},
        "x-role": op.role,
    }
    if op.accepts == LINES:
        found["requestBody"] = {"required": True, "content": {LINES: {"schema": _TEXT}}}
    elif op.body is not None:
        content = {JSON: {"schema": known[id(op.body)]}}
        found["requestBody"] = {"required": bool(_required(op.body)), "content": content}
    return found


def _answers(op: Operation, known: Mapping[int, Any]) -> dict[str, Any]:
    """Return the answers of success. A session that is there already is opened with 200."""
    if op.status == 204:
        return {"204": {"description": "Done."}}
    content: dict[str, Any] = {}
    if op.media == JSON:
        content[JSON] = {"schema": known[id(op.result)]}
    else:
        content[op.media] = {"schema": {} if op.media == BYTES else _TEXT}
    if op.streams:
        content[STREAM] = {"schema": _TEXT}
    answered = {"description": "Done.", "content": content}
    statuses = (200, 201) if op.name == "open_session" else (op.status,)
    return {str(status): answered for status in statuses}


def _named(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PART.findall(path)
    ]


def _asked(query: Query) -> dict[str, Any]:
    schema: dict[str, Any] = dict(_TEXT)
    if query.number:
        schema = {"type": "integer", "minimum": query.least, "maximum": query.most}
    return {
        "name": query.name, "in": "query", "required": query.required,
        "description": query.about, "schema": schema,
    }  # fmt: skip


def _required(body: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(body) if field.required]
