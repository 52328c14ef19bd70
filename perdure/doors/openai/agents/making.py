"""Making and changing sessions: for clients, and for what runs agents by itself."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.content import Content
from perdure.core.errors import Conflict, Unavailable
from perdure.core.inbox import Close, Say, Update
from perdure.core.state import State
from perdure.doors.openai.agents import capabilities, definitions, records
from perdure.doors.openai.agents.agents import find
from perdure.doors.openai.agents.places import place
from perdure.doors.openai.agents.records import SessionRecord
from perdure.doors.openai.agents.specs import define
from perdure.doors.openai.agents.views import status_of
from perdure.doors.openai.problems import Wording
from perdure.doors.services import Services
from perdure.engine.deleting import delete_session
from perdure.engine.runtime import Engine
from perdure.engine.session import Session

Json = dict[str, Any]
_CLOSING_S: Final = 5.0


class Sessions:
    """Makes, changes and deletes the sessions of one project, in somebody's name (`by`)."""

    def __init__(self, engine: Engine, services: Services, project: str, by: str) -> None:
        self._engine = engine
        self._services = services
        self._project = project
        self._by = by
        self._records = records.sessions(engine.kit.store)

    async def make(self, body: Mapping[str, Any], name: str = "") -> SessionRecord:
        """Make a session and give it its first input. With a `name` it is made once, however often
        this is tried. Raises `Wording` (400, 404).
        """
        given = body.get("input")
        said = definitions.words(given, "input") if given else ()
        there = await self._records.find(name) if name else None
        name = name or f"sess_{self._services.new_id().lower()}"
        record = there or await self._made(body, name)
        if said:
            await self.say(name, said, f"first:{name}")
        return record

    async def _made(self, body: Mapping[str, Any], name: str) -> SessionRecord:
        agent_id, settings = await self._settings(body)
        limit = _cents(body.get("spend_control"))
        vaults = definitions.names(body.get("vault_ids"), "vault_ids")
        where = await place(self._engine, self._services, body.get("environment"), name, vaults)
        told = capabilities.told(where.shown)
        defined = await define(
            self._services, self._project, settings, where.spec, limit, vaults, told
        )
        record = SessionRecord(
            id=name,
            created_at=self._services.seconds(),
            agent_id=agent_id,
            settings=settings,
            environment=where.shown,
            metadata=definitions.metadata(body.get("metadata")),
            vault_ids=vaults,
            spend_limit=limit,
            prompt_cache_options=_caching(body),
            review=_review(body),
            served=defined.served,
        )
        await self._engine.create(e.SessionCreated(name, defined.spec), *where.first)
        await self._records.add(name, record)
        return record

    async def say(self, session: str, words: Content, key: str = "") -> None:
        """Give a session words of its user's: they begin a turn, or join the one that runs. The
        same key says them once.
        """
        await Session(self._engine, session).post(Say("steer", words, self._by), key)

    async def change(self, name: str, body: Mapping[str, Any]) -> SessionRecord:
        """Change what `body` names; return the record. Raises `Wording`, `Conflict`."""
        record, version = await self._records.versioned(name)
        session = Session(self._engine, name)
        state = await session.state()
        changed = replace(
            record,
            metadata=definitions.metadata(body["metadata"])
            if "metadata" in body
            else record.metadata,
            prompt_cache_options=_caching(body)
            if "prompt_cache_options" in body
            else record.prompt_cache_options,
            review=_review(body) if "review" in body else record.review,
            spend_limit=_cents(body["spend_control"])
            if "spend_control" in body
            else record.spend_limit,
        )
        if body.get("agent") or changed.spend_limit != record.spend_limit:
            changed = await self._redefine(changed, body.get("agent") or {}, state)
        await self._records.put(name, changed, expect=version)
        if status_of(state) == "budget_reached" and changed.spend_limit != record.spend_limit:
            await session.post(Say("resume", by=self._by))
        return changed

    async def delete(self, name: str) -> None:
        """Close a session, an open turn first, and delete it with its journal. What still works on
        it after a while keeps the journal, which nobody is shown any more.
        """
        session = Session(self._engine, name)
        # Before it is forgotten: whoever dies in between leaves a session that can be deleted.
        await session.post(Close(self._by))
        await self._records.delete(name)
        with contextlib.suppress(TimeoutError, Conflict, Unavailable):
            async with asyncio.timeout(_CLOSING_S):
                await session.close(by=self._by)
                await delete_session(self._engine, name)

    async def _settings(self, body: Mapping[str, Any]) -> tuple[str, Json]:
        """Return the agent that a session is made from: its id, and what is set for it."""
        own = body.get("agent") or {}
        if not isinstance(own, dict):
            raise Wording(400, "agent is an object.", param="agent")
        if body.get("agent_id"):
            saved = await find(self._engine, str(body["agent_id"]))
            return saved.id, definitions.settings(own, saved.settings)
        settings = definitions.settings(own)
        if not settings["model"]:
            settings["model"] = self._services.settings.default_model
        return f"agent_{self._services.new_id().lower()}", settings

    async def _redefine(self, record: SessionRecord, own: Json, state: State) -> SessionRecord:
        """Put another definition, or another limit, in force for what comes next."""
        settings = definitions.settings(own, record.settings)
        where = state.spec.environment
        limit, vaults = record.spend_limit, record.vault_ids
        told = capabilities.told(record.environment)
        defined = await define(self._services, self._project, settings, where, limit, vaults, told)
        if defined.spec.version != state.version:
            update = e.SessionUpdated(self._by, agent=defined.spec)
            await Session(self._engine, record.id).post(Update(update))
        return replace(record, settings=settings, served=record.served | defined.served)


def _cents(control: object) -> int | None:
    """Return a limit in US cents. Raises `Wording` (400)."""
    limit = control.get("limit") if isinstance(control, dict) else None
    if limit is None:
        return None
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        said = "limit is a positive number of US cents, or null."
        raise Wording(400, said, param="spend_control.limit")
    return limit


def _caching(body: Mapping[str, Any]) -> Json | None:
    name = "prompt_cache_options"
    return definitions.options(body.get(name), name)


def _review(body: Mapping[str, Any]) -> str:
    review = body.get("review") or "none"
    if review not in ("none", "auto_review"):
        raise Wording(400, "review is none or auto_review.", param="review")
    if review == "auto_review":
        said = "Actions are not reviewed automatically on this server."
        raise Wording(400, said, param="review")
    return ""
