"""Responses over a WebSocket: the same requests and the same events, many on one connection.

A client sends `response.create`; what comes back are the events of a stream. Requests with one
`stream_id` are answered one after the other, those with different ones side by side. With
`response.steer` it puts words in: they wait until the response has ended, and begin the next one.

The queue of such words is the connection's: when it breaks, what was not begun is not begun. What
was begun is a response like any other, and can be fetched.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from starlette.requests import Request
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from perdure.core.errors import Forbidden, InvalidRequest, PerdureError
from perdure.core.state import State
from perdure.doors.http import Call, read_json, token_of
from perdure.doors.limits import TooMany
from perdure.doors.openai import inputs
from perdure.doors.openai.problems import Wording, body_of
from perdure.doors.openai.responses.making import Maker, open_calls
from perdure.doors.openai.responses.reading import Reader
from perdure.doors.openai.turns.records import ResponseRecord
from perdure.doors.principals import Identify
from perdure.doors.services import Services
from perdure.engine.session import Session

Json = dict[str, Any]
PATH: Final = "/responses"
_POLICY: Final = 1008  # the close code for a caller that may not
_STEERS: Final = 32  # that wait for one response
_WAITING: Final = 256  # requests that wait on one connection
_LANES: Final = 256  # that one connection may name
_OUTPUTS: Final = {
    "custom": "custom_tool_call_output",
    "shell": "shell_call_output",
    "local_shell": "local_shell_call_output",
    "apply_patch": "apply_patch_call_output",
}


@dataclass
class Steer:
    """Words that wait for a response to end."""

    id: str
    target: str
    input: object
    told: bool = False  # that it waits for something else


@dataclass
class Lane:
    """Requests that are answered one after the other."""

    name: str
    due: asyncio.Queue[Json] = field(default_factory=asyncio.Queue)


def socket_routes(prefix: str, services: Services, identify: Identify) -> list[BaseRoute]:
    """Return the route of the WebSocket, below the prefix of OpenAI's face."""

    async def answer(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            call = await _call(websocket, services, identify)
        except PerdureError as error:
            await websocket.send_text(json.dumps(_error(error)))
            await websocket.close(_POLICY)
            return
        limits, key = services.limits, call.principal.id

        async def admit() -> None:
            """Look anew at each request: a key may be revoked while its connection stands."""
            limits.admit((await identify(token_of(websocket.headers))).id)

        limits.begin_stream(key)
        try:
            await Connection(websocket, call, admit).run()
        finally:
            limits.end_stream(key)

    return [WebSocketRoute(prefix + PATH, answer)]


async def _call(websocket: WebSocket, services: Services, identify: Identify) -> Call:
    services.limits.check_head(websocket)
    principal = await identify(token_of(websocket.headers))
    services.limits.check_streams(principal.id)
    if not principal.may("operator"):
        raise Forbidden("E-ROLE", "This needs the role operator.")
    engine = await services.projects.engine(principal.project)
    # A WebSocket has all of a request that a call looks at: headers, path and query.
    request = cast(Request, websocket)
    return Call(request, principal, engine, services, services.request_id())


class Connection:
    """One client's connection."""

    def __init__(
        self, websocket: WebSocket, call: Call, admit: Callable[[], Awaitable[None]]
    ) -> None:
        self._socket = websocket
        self._admit = admit
        self._call = call
        self._sending = asyncio.Lock()
        self._lanes: dict[str, Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: dict[str, Json] = {}  # what responses that are being made were asked with
        self._ended: set[str] = set()
        self._steers: dict[str, list[Steer]] = {}
        self._kept: dict[str, ResponseRecord] = {}  # responses that nobody else may go on from
        self._number = 0

    async def run(self) -> None:
        """Serve until the client goes."""
        try:
            while True:
                await self._take(await self._socket.receive_text())
        except (WebSocketDisconnect, KeyError):
            pass  # KeyError: Starlette's answer to a frame that is not text
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, text: str) -> None:
        try:
            event = read_json(text.encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            await self._refuse(InvalidRequest("E-BODY-JSON", "A frame is a JSON object."), "")
            return
        lane = str(event.get("stream_id") or "")
        try:
            await self._admit()
        except PerdureError as error:
            await self._refuse(error, lane)
            return
        match event.get("type"):
            case "response.create":
                await self._queue(event, lane)
            case "response.steer":
                await self._steer(event)
            case kind:
                said = f"There are no client events of type {kind!r}."
                await self._refuse(Wording(400, said, param="type"), lane)

    async def _queue(self, event: Json, name: str) -> None:
        if name not in self._lanes:
            if len(self._lanes) >= _LANES:
                said = f"{_LANES} different stream_ids were named on this connection already."
                await self._refuse(TooMany("E-STREAMS", said), name)
                return
            lane = self._lanes[name] = Lane(name)
            self._tasks.add(asyncio.create_task(self._work(lane)))
        if sum(lane.due.qsize() for lane in self._lanes.values()) >= _WAITING:
            many = TooMany("E-RATE", f"{_WAITING} requests wait on this connection already.")
            await self._refuse(many, name)
            return
        self._lanes[name].due.put_nowait(event)

    async def _work(self, lane: Lane) -> None:
        """Answer the requests of a lane, each with those that follow from words put in."""
        while True:
            body: Json | None = await lane.due.get()
            while body is not None:
                try:
                    body = await self._respond(body, lane.name)
                except PerdureError as error:
                    await self._refuse(error, lane.name)
                    body = None
                except Exception as error:  # noqa: BLE001  # what it was goes to the log, not out
                    call = self._call
                    call.services.log_failure(call.request_id, PATH, error)
                    said = f"The server failed; see its log: {call.request_id}."
                    await self._refuse(PerdureError("E-INTERNAL", said), lane.name)
                    body = None

    async def _respond(self, event: Json, lane: str) -> Json | None:
        """Make one response and send its events; return what is to be asked next, if anything."""
        if event.get("background"):
            raise Wording(400, "background is not supported over WebSocket.", param="background")
        body = {k: v for k, v in event.items() if k not in ("type", "stream_id")} | {"stream": True}
        previous = str(body.get("previous_response_id") or "")
        waiting = self._steers.pop(previous, [])
        if waiting:
            said = [each for steer in waiting for each in inputs.as_list(steer.input)]
            body["input"] = [*said, *inputs.as_list(body.get("input") or [])]
        maker, reader = Maker(self._call, self._kept), Reader(self._call.engine)
        record = await maker.make(body)
        self._active[record.id] = body
        try:
            async for each in reader.stream(record):
                await self._send(each, lane)
        finally:
            self._active.pop(record.id, None)
        self._ended.add(record.id)
        done = reader.done or record
        if not done.stored:
            self._kept[done.id] = done
        return await self._next(done, body, lane)

    async def _next(self, done: ResponseRecord, body: Json, lane: str) -> Json | None:
        steers = self._steers.get(done.id)
        if not steers:
            return None
        status = (done.final or {}).get("status")
        if status != "completed":
            del self._steers[done.id]
            for steer in steers:
                said = f"The response ended {status}."
                await self._failed(
                    steer.input, done.id, "successor_creation_failed", said, steer.id
                )
            return None
        state = await Session(self._call.engine, done.session).state(done.until)
        if state.turn is None:
            return {**body, "previous_response_id": done.id, "input": []}  # `_respond` adds them
        for steer in steers:
            if not steer.told:
                steer.told = True
                await self._tell(
                    "response.steer.pending", lane,
                    steer={"id": steer.id, "previous_response_id": done.id},
                    reason="waiting_for_required_input", required_input=_required(done, state),
                )  # fmt: skip
        return None

    async def _steer(self, event: Json) -> None:
        target, given = str(event.get("previous_response_id") or ""), event.get("input")
        body = self._active.get(target)
        why = ("response_not_found", "There is no such response on this connection.")
        if target in self._ended:
            why = ("response_already_completed", "The response has ended already.")
        elif body is not None:
            why = _unsteerable(body, given, len(self._steers.get(target, [])))
        if body is None or why[0]:
            await self._failed(given, target, *why)
            return
        steer = Steer(self._call.services.new_id("steer_").lower(), target, given)
        self._steers.setdefault(target, []).append(steer)
        lane = str(body.get("stream_id") or "")
        told = {"id": steer.id, "previous_response_id": target}
        await self._tell("response.steer.accepted", lane, steer=told)

    async def _failed(
        self, given: object, target: str, code: str, message: str, name: str = ""
    ) -> None:
        error = {"code": code, "message": message, "type": "invalid_request_error"}
        steer = {"id": name or None, "previous_response_id": target, "input": given}
        await self._tell("response.steer.failed", "", steer=steer, error=error)

    async def _refuse(self, error: PerdureError, lane: str) -> None:
        await self._send(_error(error), lane)

    async def _tell(self, kind: str, lane: str, **fields: Any) -> None:
        """Send an event that belongs to no response; those have numbers of their own."""
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        await self._send(event, lane)

    async def _send(self, event: Json, lane: str) -> None:
        text = json.dumps(event | {"stream_id": lane} if lane else event)
        async with self._sending:
            with contextlib.suppress(RuntimeError):  # closed: `run` hears of it
                await self._socket.send_text(text)


def _unsteerable(body: Json, given: object, waiting: int) -> tuple[str, str]:
    """Return why words cannot be put in, or two empty texts."""
    if body.get("conversation") or body.get("context_management"):
        said = "Responses with a conversation or with compaction are not steered."
        return "steering_not_supported", said
    if waiting >= _STEERS:
        return "too_many_pending_steers", f"{_STEERS} of them wait already."
    if isinstance(given, str) and given:
        return "", ""
    plain = isinstance(given, list) and all(
        isinstance(i, dict) and i.get("role") == "user" and set(i) <= {"type", "role", "content"}
        for i in given
    )
    return ("", "") if plain and given else ("invalid_input", "Only the user's messages steer.")


def _required(record: ResponseRecord, state: State) -> Sequence[Json]:
    """Return stubs of what the client owes before the response can be gone on from."""
    calls = state.turn.calls if state.turn else {}
    stubs: list[Json] = []
    for theirs, ours in open_calls(state).items():
        name = calls[ours].call.tool
        shown = record.shown.get(name)
        kind = _OUTPUTS.get(shown.look if shown else "", "function_call_output")
        more = {"name": name} if kind == "function_call_output" else {}
        stubs.append({"type": kind, "call_id": theirs, **more})
    for action in state.actions.values():
        if action.kind == "approve":
            request = f"mcpr_{action.id}_{record.id}"
            stubs.append({"type": "mcp_approval_response", "approval_request_id": request})
    return stubs


def _error(error: PerdureError) -> Json:
    said = body_of(error)["error"]
    status = error.status if isinstance(error, Wording) else None
    plain = {"code": said["code"], "message": said["message"], "param": said["param"]}
    return {"type": "error", "sequence_number": 0, "status": status, "error": said, **plain}
