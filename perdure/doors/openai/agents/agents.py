"""Reusable agents: made, read, changed, listed, deleted."""

from typing import Any

from msgspec.structs import replace
from starlette.responses import Response

from perdure.doors import replies
from perdure.doors.documents import Documents
from perdure.doors.http import Call
from perdure.doors.openai import lists
from perdure.doors.openai.agents import definitions, records
from perdure.doors.openai.agents.records import AgentRecord
from perdure.doors.openai.problems import Wording
from perdure.engine.runtime import Engine

Json = dict[str, Any]


async def create(call: Call) -> Response:
    """POST /agents."""
    body = await call.json()
    if not body.get("model"):
        raise Wording(400, "An agent needs a model.", param="model")
    now = call.services.seconds()
    record = AgentRecord(
        id=f"agent_{call.services.new_id().lower()}",
        created_at=now,
        updated_at=now,
        settings=definitions.settings(body),
        metadata=definitions.metadata(body.get("metadata")),
    )
    await _agents(call).put(record.id, record, expect=0)
    return replies.Json(agent_json(record))


async def retrieve(call: Call) -> Response:
    """GET /agents/{id}."""
    return replies.Json(agent_json(await find(call.engine, call.path["agent_id"])))


async def update(call: Call) -> Response:
    """POST /agents/{id}: what is left out stays as it is."""
    body = await call.json()
    await find(call.engine, call.path["agent_id"])
    record, version = await _agents(call).versioned(call.path["agent_id"])
    changed = replace(
        record,
        updated_at=max(call.services.seconds(), record.updated_at),
        settings=definitions.settings(body, record.settings),
        metadata=definitions.metadata(body["metadata"]) if "metadata" in body else record.metadata,
    )
    await _agents(call).put(record.id, changed, expect=version)
    return replies.Json(agent_json(changed))


async def delete(call: Call) -> Response:
    """DELETE /agents/{id}. Its sessions have their own copy of it and go on."""
    record = await find(call.engine, call.path["agent_id"])
    await _agents(call).delete(record.id)
    return replies.Json({"id": record.id, "object": "agent.deleted", "deleted": True})


async def listed(call: Call) -> Response:
    """GET /agents."""
    found, more = await lists.documents(_agents(call), call, lambda record: record.id)
    return lists.page([agent_json(record) for record in found], has_more=more)


def agent_json(record: AgentRecord) -> Json:
    """Return an agent as it is read."""
    return {
        "id": record.id,
        "object": "agent",
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "metadata": record.metadata,
        **record.settings,
    }


async def find(engine: Engine, name: str) -> AgentRecord:
    """Return the agent of that id. Raises `Wording` (404)."""
    record = await records.agents(engine.kit.store).find(name)
    if record is None:
        raise Wording(404, f"No agent found with id '{name}'.", param="agent_id")
    return record


def _agents(call: Call) -> Documents[AgentRecord]:
    return records.agents(call.engine.kit.store)
