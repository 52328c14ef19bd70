"""Beginning a response: which session it runs in, what goes into it, under which definition.

Without a past it is a session of its own. With `previous_response_id` it is a fork of that
response's session where it ended, so any number of responses may follow one. With a
`conversation` it is one more turn of that session.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.core import events as e
from perdure.core.agent import AgentSpec, Limits
from perdure.core.content import ContextItem, UserItem
from perdure.core.inbox import AddItems, Answer, Decide, Post, Say, Update
from perdure.core.state import State
from perdure.doors.documents import Documents
from perdure.doors.http import Call
from perdure.doors.openai import inputs
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.responses.records import KIND, ResponseRecord
from perdure.doors.openai.responses.rendering import key_of
from perdure.doors.openai.tools import tool_specs
from perdure.engine import branching
from perdure.engine.journal import load
from perdure.engine.session import Session

Json = dict[str, Any]
NAME = "openai-responses"
_NOT_ECHOED = (
    "input", "stream", "previous_response_id", "conversation", "model", "background", "store",
    "include", "stream_options", "background_options", "context_management",
)  # fmt: skip


@dataclass
class Start:
    """Where a response begins: its session, the state there, and the letters that start it."""

    session: str
    after: int
    letters: list[tuple[Post, str]]


class Maker:
    """Begins responses for one call."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._engine = call.engine
        self._by = call.principal.id
        self.records = Documents(call.engine.kit.store, KIND, ResponseRecord)

    async def make(self, body: Json) -> ResponseRecord:
        """Begin a response and return its record. Raises `Wording`, `InvalidRequest`."""
        if body.get("previous_response_id") and body.get("conversation"):
            said = "Use either previous_response_id or conversation, not both."
            raise Wording(400, said, param="conversation")
        new_id = self._call.services.new_id().lower()
        name = f"resp_{new_id}"
        given = inputs.as_list(body.get("input") or [])
        instructions, given = inputs.with_instructions(given, str(body.get("instructions") or ""))
        listed = inputs.named(given, new_id)
        spec = await self._spec(body, instructions)
        if body.get("previous_response_id"):
            start = await self._fork(name, str(body["previous_response_id"]), spec, listed)
        elif body.get("conversation"):
            start = await self._converse(name, conversation_id(body["conversation"]), spec, listed)
        else:
            start = await self._fresh(name, spec, listed)
        record = ResponseRecord(
            id=name,
            session=start.session,
            after=start.after,
            created_at=self._call.services.seconds(),
            model=str(body.get("model") or self._call.services.settings.default_model),
            request={k: v for k, v in body.items() if k not in _NOT_ECHOED and v is not None},
            inputs=listed,
            background=bool(body.get("background")),
            conversation=start.session if body.get("conversation") else "",
            previous=str(body.get("previous_response_id") or ""),
        )
        if body.get("store") is not False:
            await self.records.put(name, record, expect=0)
        session = Session(self._engine, start.session)
        for post, key in start.letters:
            await session.post(post, key)
        return record

    async def _spec(self, body: Json, instructions: str) -> AgentSpec:
        most = body.get("max_output_tokens")
        calls = body.get("max_tool_calls")
        tools = self._call.services.tools(self._call.principal.project)
        return AgentSpec(
            name=NAME,
            model=self._call.services.model(body.get("model")),
            instructions=instructions,
            tools=await tool_specs(body.get("tools") or [], tools),
            limits=Limits(tool_calls=calls) if isinstance(calls, int) else Limits(),
            max_output_tokens=most if isinstance(most, int) and most > 0 else 8192,
            deltas="stored" if body.get("stream") or body.get("background") else "live",
        )

    async def _fresh(self, name: str, spec: AgentSpec, listed: list[Json]) -> Start:
        read = inputs.read(listed, {})
        await self._engine.create(e.SessionCreated(name, spec))
        return Start(name, 1, self._begin(name, read.items))

    async def _fork(self, name: str, previous: str, spec: AgentSpec, listed: list[Json]) -> Start:
        record = await self.records.find(previous)
        if record is None:
            said = f"Previous response with id '{previous}' not found."
            code, param = "previous_response_not_found", "previous_response_id"
            raise Wording(400, said, code=code, param=param)
        if not record.until:
            raise Wording(
                400, f"Response {previous} has not ended yet.", param="previous_response_id"
            )
        state, _, _ = await load(self._engine.kit.store, record.session, record.until)
        letters = self._go_on(name, previous, state, listed)
        kit = self._engine.kit
        await branching.fork(kit, record.session, record.until, name, spec, self._by)
        forked = await Session(self._engine, name).state()
        return Start(name, forked.seq, letters)

    async def _converse(
        self, name: str, conversation: str, spec: AgentSpec, listed: list[Json]
    ) -> Start:
        row = await self._engine.kit.store.session(conversation)
        if row is None or not conversation.startswith("conv_"):
            raise Wording(404, f"Conversation with id '{conversation}' not found.")
        state = await Session(self._engine, conversation).state()
        if state.turn is not None and not _open_calls(state):
            said = "Another response is being made in this conversation."
            raise Wording(409, said, code="conversation_locked")
        letters = self._go_on(name, "", state, listed)
        if state.version != spec.version:
            update = Update(e.SessionUpdated(self._by, agent=spec))
            letters.insert(0, (update, f"spec:{name}"))
        return Start(conversation, state.seq, letters)

    def _go_on(
        self, name: str, previous: str, state: State, listed: list[Json]
    ) -> list[tuple[Post, str]]:
        """Return the letters that take a session on with these items."""
        pending = _open_calls(state)
        read = inputs.read(listed, pending)
        if state.turn is None:
            return self._begin(name, read.items)
        letters: list[tuple[Post, str]] = []
        for call_id, (text, failed) in read.outputs.items():
            key = f"answer:{state.generation + bool(previous)}:{call_id}"
            letters.append((Answer(call_id, text, failed, self._by), key))
        missing = [theirs for theirs, ours in pending.items() if ours not in read.outputs]
        if missing:
            said = f"No tool output found for function call {missing[0]}."
            raise Wording(400, said, param="input")
        letters += self._approvals(name, state, read.approvals)
        words = [item for item in read.items if isinstance(item, UserItem)]
        for number, item in enumerate(words):
            letters.append((Say("steer", item.content, self._by), f"steer:{name}:{number}"))
        return [*letters, (Say("resume", by=self._by), key_of(name))]

    def _approvals(
        self, name: str, state: State, given: Mapping[str, tuple[bool, str]]
    ) -> list[tuple[Post, str]]:
        letters: list[tuple[Post, str]] = []
        for request, (approve, reason) in given.items():
            action = state.actions.get(request.split("_")[1] if "_" in request else "")
            if action is None or action.kind != "approve":
                raise Wording(400, f"There is no approval request {request}.", param="input")
            decision = Decide(action.id, "allow" if approve else "deny", self._by, reason)
            letters.append((decision, f"approval:{name}:{action.id}"))
        return letters

    def _begin(self, name: str, items: list[ContextItem]) -> list[tuple[Post, str]]:
        """Return the letters that begin a turn with these items."""
        past, words = inputs.split(items)
        letters: list[tuple[Post, str]] = []
        if past:
            letters.append((AddItems(tuple(past), self._by), f"items:{name}"))
        kind: e.InputKind = "message" if words else "resume"
        if not words and not past:
            raise Wording(400, "There is no input to answer.", param="input")
        return [*letters, (Say(kind, words, self._by), key_of(name))]


def conversation_id(value: object) -> str:
    """Return the id in a `conversation` parameter: a string, or an object with an id."""
    if isinstance(value, Mapping):
        return str(value.get("id") or "")
    return str(value)


def _open_calls(state: State) -> dict[str, str]:
    """Return the calls that wait for the client: its id for each, to ours."""
    calls = state.turn.calls if state.turn else {}
    waiting = [a.call_id for a in state.actions.values() if a.kind == "answer"]
    return {calls[c].call.vendor_id or c: c for c in waiting if c in calls}
