"""Artifacts: the files that an agent left in `outputs/`, the directory of that name in its
workspace, each as it was when a turn was completed.

They are read from the journal and its snapshots and kept nowhere else: an artifact is a file in the
snapshot that its turn ended with, if it is new there or other than the turn before left it. So they
never change, are there after any crash, and are the same for whoever looks.
"""

import hashlib
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec
from starlette.responses import JSONResponse, Response, StreamingResponse

from perdure.core import events as e
from perdure.core.events import Event
from perdure.doors.documents import Documents
from perdure.doors.http import Call, Endpoint
from perdure.doors.openai import lists
from perdure.doors.openai.agents.hosting import absolute
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.sessions import session_of
from perdure.doors.openai.agents.views import turn_id
from perdure.doors.openai.problems import Wording
from perdure.engine.session import Session
from perdure.ports.sandbox import Environments

Json = dict[str, Any]

FOLDER: Final = "outputs"
_DELETED: Final = "openai.artifact-deleted"


class Left(NamedTuple):
    """What a completed turn left: its number, the snapshot it ended with, when (microseconds)."""

    turn: int
    snapshot: str
    at_us: int


class Artifact(NamedTuple):
    """A file that a turn published. `path` is relative to the workspace."""

    id: str
    path: str
    size_bytes: int
    left: Left


class Deleted(msgspec.Struct, frozen=True):
    """An artifact that nobody is shown any more."""

    at: int


async def listed(call: Call) -> Response:
    """GET …/artifacts."""
    record = await session_of(call)
    wanted = call.query.get("environment_id")
    if wanted and wanted != record.environment.get("id"):
        return lists.paged([], call)
    found = await _artifacts(call, record)
    return lists.paged([artifact_json(record, each) for each in found], call)


async def retrieve(call: Call) -> Response:
    """GET …/artifacts/{id}."""
    record = await session_of(call)
    return JSONResponse(artifact_json(record, await _artifact(call, record)))


async def content(call: Call) -> Response:
    """GET …/artifacts/{id}/content."""
    record = await session_of(call)
    found = await _artifact(call, record)
    where = await _where(call, record)
    assert where is not None
    pieces = where.stored_file(found.left.snapshot, found.path)
    headers = {"content-length": str(found.size_bytes), "x-content-type-options": "nosniff"}
    # The first piece is read before anything is sent: what is missing is an error, not a torn body.
    first = await anext(pieces, b"")
    body = _rest(first, pieces)
    return StreamingResponse(body, media_type="application/octet-stream", headers=headers)


async def delete(call: Call) -> Response:
    """DELETE …/artifacts/{id}: it is shown no more. The snapshot that holds it stays."""
    record = await session_of(call)
    found = await _artifact(call, record)
    gone = Deleted(call.services.seconds())
    await _deleted(call).put(f"{record.id}/{found.id}", gone)
    kind = "agent.session.artifact.deleted"
    return JSONResponse({"id": found.id, "object": kind, "deleted": True})


def turns_left(events: list[Event]) -> list[Left]:
    """Return what the completed turns of a journal left, in their order. Pure."""
    found: list[Left] = []
    snapshot = ""
    for event in events:
        match event.payload:
            case e.EnvironmentSnapshotted(snapshot=now) | e.EnvironmentRestored(snapshot=now):
                snapshot = now
            case e.TurnEnded(status="completed") if snapshot:
                found.append(Left(event.turn, snapshot, event.at_us))
            case _:
                pass
    return found


def artifact_json(record: SessionRecord, artifact: Artifact) -> Json:
    """Return an artifact as it is read."""
    return {
        "id": artifact.id,
        "object": "agent.session.artifact",
        "session_id": record.id,
        "turn_id": turn_id(record.id, artifact.left.turn),
        "environment_id": str(record.environment.get("id") or ""),
        "created_at": artifact.left.at_us // 1_000_000,
        "path": absolute(artifact.path),
        "size_bytes": artifact.size_bytes,
    }


async def _rest(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


async def _artifact(call: Call, record: SessionRecord) -> Artifact:
    name = call.path["artifact_id"]
    found = next((each for each in await _artifacts(call, record) if each.id == name), None)
    if found is None:
        raise Wording(404, f"No artifact found with id '{name}'.", param="artifact_id")
    return found


async def _artifacts(call: Call, record: SessionRecord) -> list[Artifact]:
    """Return the artifacts of a session, the oldest first."""
    where = await _where(call, record)
    if where is None:
        return []
    events = [event async for event in Session(call.engine, record.id).events()]
    found: list[Artifact] = []
    before: dict[str, str] = {}
    last = ""
    for left in turns_left(events):
        if left.snapshot == last:
            continue
        last = left.snapshot
        files = await where.stored(left.snapshot, FOLDER)
        for file in files:
            if before.get(file.path) != file.digest:
                name = _id(record.id, left.turn, file.path)
                found.append(Artifact(name, file.path, file.size_bytes, left))
        before = {file.path: file.digest for file in files}
    gone = {name async for name, _ in _deleted(call).each(prefix=f"{record.id}/")}
    return [each for each in found if f"{record.id}/{each.id}" not in gone]


async def _where(call: Call, record: SessionRecord) -> Environments | None:
    state = await Session(call.engine, record.id).state()
    return call.engine.kit.environments.get(state.spec.environment.kind)


def _deleted(call: Call) -> Documents[Deleted]:
    return Documents(call.engine.kit.store, _DELETED, Deleted)


def _id(session: str, turn: int, path: str) -> str:
    name = f"{session}\0{turn}\0{path}".encode("utf-8", "surrogateescape")
    return f"artifact_{hashlib.sha256(name).hexdigest()[:24]}"


_ALL: Final = "/agents/sessions/{session_id}/artifacts"
_EACH: Final = f"{_ALL}/{{artifact_id}}"

ENDPOINTS: Final = (
    Endpoint("GET", _ALL, listed, "viewer", "artifacts.list"),
    Endpoint("GET", _EACH, retrieve, "viewer", "artifacts.retrieve"),
    Endpoint("DELETE", _EACH, delete, "operator", "artifacts.delete"),
    Endpoint("GET", f"{_EACH}/content", content, "viewer", "artifacts.content"),
)
