"""Beginning a response: which session it runs in, what goes into it, under which definition.

Without a past it is a session of its own. With `previous_response_id` it is a fork of that
response's session where it ended, so any number of responses may follow one. With a
`conversation` it is one more turn of that session.

The record is written before anything is posted, and everything posted has a key, so a request
that comes again finds what it made, and completes it where a crash had cut it short.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.content import ContextItem, UserItem
from perdure.core.errors import Conflict
from perdure.core.inbox import AddItems, Answer, Decide, Post, Say, Update
from perdure.core.state import State
from perdure.doors.documents import Documents
from perdure.doors.http import Call
from perdure.doors.openai import inputs
from perdure.doors.openai.conversations import entering
from perdure.doors.openai.conversations.keeping import Conversations, locked
from perdure.doors.openai.conversations.reading import Told
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.responses.reading import Reader
from perdure.doors.openai.responses.wishes import definition
from perdure.doors.openai.tools import Declared, declared
from perdure.doors.openai.turns.records import KIND, ResponseRecord
from perdure.doors.openai.turns.rendering import action_of, key_of, waits_for_client
from perdure.doors.repeats import Repeat
from perdure.engine import branching
from perdure.engine.journal import load
from perdure.engine.session import Session

Json = dict[str, Any]
Letters = list[tuple[Post, str]]
_NOT_ECHOED: Final = frozenset((
    "input", "stream", "previous_response_id", "conversation", "model", "background", "store",
    "include", "stream_options", "background_options", "context_management", "type", "stream_id",
    "image", "moderation",  # a response says what came of them, and nothing does here
))  # fmt: skip


@dataclass
class Start:
    """Where a response begins: its session, the state there, and the definition it runs under."""

    session: str
    state: State
    spec: AgentSpec | None = None  # to be put in force first
    told: Told | None = None  # what a conversation holds already


class Maker:
    """Begins responses for one call."""

    def __init__(self, call: Call, kept: Mapping[str, ResponseRecord] | None = None) -> None:
        self._call = call
        self._kept = kept or {}  # responses that only this client's connection knows
        self._engine = call.engine
        self._by = call.principal.id
        self.records = Documents(call.engine.kit.store, KIND, ResponseRecord)

    async def make(self, body: Json) -> ResponseRecord:
        """Begin a response and return its record. Raises `Wording`, `InvalidRequest`."""
        repeat = Repeat(self._call, "responses", body)
        async with repeat.alone():  # the same key at once makes one, too
            return await self._make(body, repeat)

    async def _make(self, body: Json, repeat: Repeat) -> ResponseRecord:
        before = await repeat.before()
        made = await self.records.find(before) if before else None
        if made is not None:
            told = await self._told(made.conversation, made.after) if made.conversation else None
            await self._post(made, Start(made.session, await self._state(made), told=told))
            return made
        if body.get("previous_response_id") and body.get("conversation"):
            said = "Use either previous_response_id or conversation, not both."
            raise Wording(400, said, param="conversation")
        if body.get("background") and body.get("store") is False:
            raise Wording(400, "Background mode requires store=true.", param="store")
        # One that came before and left no record was cut short: what it began has its name.
        name = before or f"resp_{self._call.services.new_id().lower()}"
        new_id = name.removeprefix("resp_")
        given = inputs.as_list(body.get("input") or [])
        instructions = str(body.get("instructions") or "")
        told = await self._told(conversation_id(body.get("conversation")))
        if told is None:
            instructions, given = inputs.with_instructions(given, instructions)
            listed = inputs.named(given, new_id)
        else:  # what is said to the system stays in the conversation
            listed = entering.prepared(given, new_id, {each.id for each in told.story.entries})
            instructions = entering.instructions_in(told, listed, instructions)
        previous = await self.previous(str(body.get("previous_response_id") or ""))
        tools = await self._tools(body)
        model = self._call.services.model(body.get("model"))
        spec = definition(body, model, instructions, tools)
        await self._check(name, listed, previous, told)
        await repeat.makes(name)
        start = await self._start(name, spec, previous, told)
        record = self._record(name, body, start, listed, tools, previous)
        await self.records.put(record.id, record, expect=0)
        await self._post(record, start)
        return record

    async def previous(self, name: str) -> ResponseRecord | None:
        """Return the response to go on from, if one is named. Raises `Wording` (400)."""
        if not name:
            return None
        record = self._kept.get(name) or await self.records.find(name)
        code, param = "previous_response_not_found", "previous_response_id"
        if record is None or not (record.stored or name in self._kept):
            said = f"Previous response with id '{name}' not found."
            raise Wording(400, said, code=code, param=param)
        if not record.until:
            reader = Reader(self._engine)
            await reader.now(record)  # it may have ended with nobody looking
            record = reader.done or record
        if not record.until:
            raise Wording(400, f"Response {name} has not ended yet.", param=param)
        return record

    async def _tools(self, body: Json) -> Declared:
        maker = self._call.services.tools(self._call.principal.project)
        return await declared(body.get("tools") or [], maker)

    async def _check(
        self, name: str, listed: list[Json], previous: ResponseRecord | None, told: Told | None
    ) -> None:
        """Refuse what cannot be read, before anything is made. Raises `Wording` (400, 409)."""
        if previous is not None:
            state, _, _ = await load(self._engine.kit.store, previous.session, previous.until)
            self._letters(name, state, listed)
        elif told is not None:
            state = told.state
            if state.turn is not None and not open_calls(state) and not waits_for_client(state):
                raise locked(retry=True)
            self._talk(name, told, listed)
        else:
            self._letters(name, State(), listed)

    async def _start(
        self, name: str, spec: AgentSpec, previous: ResponseRecord | None, told: Told | None
    ) -> Start:
        """Make the session that the response runs in, unless a try that was cut short did."""
        if told is not None:
            state = told.state
            return Start(state.id, state, spec if state.version != spec.version else None, told)
        if previous is None:
            await self._engine.create(e.SessionCreated(name, spec))
            return Start(name, await Session(self._engine, name).state(1))
        kit, session = self._engine.kit, Session(self._engine, name)
        try:
            await branching.fork(kit, previous.session, previous.until, name, spec, self._by)
        except Conflict as error:
            if error.code != "E-SESSION-EXISTS":
                raise
        async for event in session.events(previous.until):
            if isinstance(event.payload, e.SessionForked) and event.payload.session == name:
                return Start(name, await session.state(event.seq))
        raise AssertionError("a fork begins with an event that says so")

    async def _told(self, conversation: str, until: int | None = None) -> Told | None:
        """Return what a conversation holds. Raises `Wording` (404)."""
        return await Conversations(self._call).told(conversation, until) if conversation else None

    def _record(
        self,
        name: str,
        body: Json,
        start: Start,
        listed: list[Json],
        tools: Declared,
        previous: ResponseRecord | None,
    ) -> ResponseRecord:
        known = previous.labels if previous else []
        news = [each for each in tools.listings if each["server_label"] not in known]
        fresh = [{"id": f"mcpl_{name[5:]}{n:02d}", **each} for n, each in enumerate(news)]
        return ResponseRecord(
            id=name,
            session=start.session,
            after=start.state.seq,
            created_at=self._call.services.seconds(),
            model=str(body.get("model") or self._call.services.settings.default_model),
            request=_echo(body),
            inputs=listed,
            background=bool(body.get("background")),
            conversation=start.session if start.told is not None else "",
            previous=str(body.get("previous_response_id") or ""),
            stored=body.get("store") is not False,
            shown=tools.shown,
            listings=fresh,
            labels=sorted({*known, *(each["server_label"] for each in news)}),
        )

    async def _state(self, record: ResponseRecord) -> State:
        return await Session(self._engine, record.session).state(record.after)

    async def _post(self, record: ResponseRecord, start: Start) -> None:
        """Post what starts the response. Again is harmless: each letter has a key."""
        session = Session(self._engine, record.session)
        if start.told is None:
            letters = self._letters(record.id, start.state, record.inputs)
        else:
            letters = self._talk(record.id, start.told, record.inputs)
        if start.spec is not None:
            update = Update(e.SessionUpdated(self._by, agent=start.spec))
            letters.insert(0, (update, f"spec:{record.id}"))
        for post, key in letters:
            await session.post(post, key)

    def _letters(self, name: str, state: State, listed: list[Json]) -> Letters:
        """Return the letters that take a session on with these items. Raises `Wording` (400)."""
        pending = open_calls(state)
        read = inputs.read(listed, pending)
        if state.turn is None:
            return self._begin(name, state, read.items)
        letters: Letters = []
        for call_id, (text, failed) in read.outputs.items():
            letters.append((Answer(call_id, text, failed, self._by), f"answer:{name}:{call_id}"))
        missing = [theirs for theirs, ours in pending.items() if ours not in read.outputs]
        if missing:
            said = f"No tool output found for function call {missing[0]}."
            raise Wording(400, said, param="input")
        letters += self._approvals(name, state, read.approvals)
        words = [item for item in read.items if isinstance(item, UserItem)]
        for number, item in enumerate(words):
            letters.append((Say("steer", item.content, self._by), f"steer:{name}:{number}"))
        return [*letters, (Say("resume", by=self._by), key_of(name))]

    def _talk(self, name: str, told: Told, listed: list[Json]) -> Letters:
        """Return the letters that take a conversation on. Raises `Wording` (400)."""
        if told.state.turn is None:
            opening = entering.opening(told, listed, self._by)
            letters: Letters = [(opening, f"items:{name}")] if opening.brought else []
            kind: e.InputKind = "resume" if entering.owed(told, opening) else "message"
            if told.state.paused and kind == "message":
                letters.append((Say("resume", by=self._by), f"unpause:{name}"))
            return [*letters, (Say(kind, by=self._by), key_of(name))]
        words = [each for each in listed if each.get("role") not in ("system", "developer")]
        # The answers, and what is said beside them, reach the model as such: here they are listed.
        seen = AddItems(by=self._by, brought=entering.brought(listed, told, read=False))
        letters = [(seen, f"items:{name}")] if listed else []
        *answers, begin = self._letters(name, told.state, words)
        # The turn goes on with the last answer: by then it must be known whose response it is.
        answers.sort(key=lambda letter: not isinstance(letter[0], Say))
        return [*letters, begin, *answers]

    def _approvals(self, name: str, state: State, given: Mapping[str, tuple[bool, str]]) -> Letters:
        """Return the decisions. What nobody decides about is denied, or nothing could go on."""
        letters: Letters = []
        owed = {a.id for a in state.actions.values() if a.kind == "approve"}
        for request, (approve, reason) in given.items():
            action = action_of(request)
            if action not in owed:
                said = f"There is no approval request {request} to answer."
                raise Wording(400, said, param="input")
            decision = Decide(action, "allow" if approve else "deny", self._by, reason)
            letters.append((decision, f"approval:{name}:{action}"))
            owed.discard(action)
        for action in sorted(owed):
            left = Decide(action, "deny", self._by, "The user went on without approving it.")
            letters.append((left, f"approval:{name}:{action}"))
        return letters

    def _begin(self, name: str, state: State, items: list[ContextItem]) -> Letters:
        """Return the letters that begin a turn with these items."""
        past, words = inputs.split(items)
        letters: Letters = []
        if past:
            letters.append((AddItems(tuple(past), self._by), f"items:{name}"))
        # Without any words the instructions alone are the task.
        kind: e.InputKind = "message" if words or not (past or state.owes_reply) else "resume"
        return [*letters, (Say(kind, words, self._by), key_of(name))]


def conversation_id(value: object) -> str:
    """Return the id in a `conversation` parameter: a string, or an object with an id."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return str(value or "")


def open_calls(state: State) -> dict[str, str]:
    """Return the calls that wait for the client: its id for each, to ours."""
    calls = state.turn.calls if state.turn else {}
    waiting = [a.call_id for a in state.actions.values() if a.kind == "answer"]
    return {calls[c].call.vendor_id or c: c for c in waiting if c in calls}


def _echo(body: Json) -> Json:
    """Return what of a request shows in the response; credentials do not."""
    echo = {k: v for k, v in body.items() if k not in _NOT_ECHOED and v is not None}
    if isinstance(echo.get("tools"), list):
        echo["tools"] = [_without_secrets(tool) for tool in echo["tools"]]
    for name, missing in (("reasoning", {"effort": None, "summary": None}), ("text", {})):
        if isinstance(echo.get(name), Mapping):
            echo[name] = missing | echo[name]
    if isinstance(echo.get("text"), Mapping):
        echo["text"] = {"format": {"type": "text"}, "verbosity": "medium"} | echo["text"]
    return echo


def _without_secrets(tool: object) -> object:
    if not isinstance(tool, Mapping):
        return tool
    if tool.get("type") == "function":
        defaults = {"strict": True, "description": None, "parameters": None}
        return defaults | dict(tool)
    return {k: v for k, v in tool.items() if k not in ("authorization", "headers")}
