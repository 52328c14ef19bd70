"""The routes of the Files API. A file's bytes are a blob, the rest is a document."""

from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.responses import JSONResponse, Response

from perdure.doors.documents import Documents
from perdure.doors.forms import read_form
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.problems import Wording

Json = dict[str, Any]
KIND: Final = "openai.file"
PURPOSES: Final = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_LIFE_S: Final = (3600, 2_592_000)  # the shortest and the longest that may be asked for


class FileRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file that a client uploaded. `digest` names the blob; times in seconds."""

    id: str
    digest: str
    size: int
    filename: str
    purpose: str
    created_at: int
    media_type: str = "application/octet-stream"
    expires_at: int | None = None


async def create(call: Call) -> Response:
    """POST /files, a form with `file` and `purpose`."""
    form = read_form(call.header("content-type"), await call.body())
    upload, purpose = form.files.get("file"), form.fields.get("purpose", "")
    if upload is None:
        raise Wording(400, "'file' is a required property", param="file")
    if purpose not in PURPOSES:
        known = ", ".join(PURPOSES)
        raise Wording(400, f"'{purpose}' is not one of: {known}.", param="purpose")
    now = call.services.seconds()
    life = form.fields.get("expires_after[seconds]")
    record = FileRecord(
        id=call.services.new_id("file-").lower(),
        digest=await call.engine.kit.store.blobs.put(upload.data),
        size=len(upload.data),
        filename=upload.filename,
        purpose=purpose,
        created_at=now,
        media_type=upload.media_type,
        expires_at=None if life is None else now + _seconds(life),
    )
    await _files(call).put(record.id, record, expect=0)
    return JSONResponse(file_json(record))


async def list_files(call: Call) -> Response:
    """GET /files."""
    purpose, now = call.query.get("purpose"), call.services.seconds()
    found, more = await lists.documents(
        _files(call),
        call,
        lambda record: record.id,
        lambda r: not _expired(r, now) and purpose in (None, "", r.purpose),
    )
    return lists.page([file_json(record) for record in found], has_more=more)


async def retrieve(call: Call) -> Response:
    """GET /files/{id}."""
    return JSONResponse(file_json(await _file(call)))


async def content(call: Call) -> Response:
    """GET /files/{id}/content: the bytes, never as something a browser would run."""
    record = await _file(call)
    data = await call.engine.kit.store.blobs.get(record.digest)
    name = quote(record.filename, safe="")
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{name}",
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type="application/octet-stream", headers=headers)


async def delete(call: Call) -> Response:
    """DELETE /files/{id}."""
    record = await _file(call)
    await _files(call).delete(record.id)
    return JSONResponse({"id": record.id, "object": "file", "deleted": True})


def file_json(record: FileRecord) -> Json:
    """Return a file as its clients see it."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.size,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def _files(call: Call) -> Documents[FileRecord]:
    return Documents(call.engine.kit.store, KIND, FileRecord)


async def _file(call: Call) -> FileRecord:
    name = call.path["file_id"]
    record = await _files(call).find(name)
    if record is None or _expired(record, call.services.seconds()):
        raise Wording(404, f"No such File object: {name}", param="id")
    return record


def _expired(record: FileRecord, now: int) -> bool:
    return record.expires_at is not None and record.expires_at <= now


def _seconds(text: str) -> int:
    least, most = _LIFE_S
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        said = f"expires_after.seconds is a number from {least} to {most}."
        raise Wording(400, said, param="expires_after")
    return int(text)


ENDPOINTS = (
    Endpoint("POST", "/files", create, "operator", "files.create"),
    Endpoint("GET", "/files", list_files, "viewer", "files.list"),
    Endpoint("GET", "/files/{file_id}", retrieve, "viewer", "files.retrieve"),
    Endpoint("GET", "/files/{file_id}/content", content, "viewer", "files.content"),
    Endpoint("DELETE", "/files/{file_id}", delete, "operator", "files.delete"),
)
