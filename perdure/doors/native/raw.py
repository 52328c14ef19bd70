"""The store as it is, for clients that read journals themselves: records with their hashes, so that
a client checks the chain, and inboxes. Nothing here makes anybody the owner of a session.
"""

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from starlette.responses import Response

from perdure.core import inbox, journal
from perdure.core.errors import InvalidRequest, NotFound
from perdure.core.events import ToolFinished
from perdure.core.forms import problems
from perdure.core.inbox import Post
from perdure.core.policy import approval_digest
from perdure.core.state import State
from perdure.doors.http import Call
from perdure.doors.native.bodies import Posted
from perdure.doors.native.bodies_raw import (
    Mailboxes,
    PostLetter,
    RawErrors,
    RawLetter,
    RawLetters,
    RawRecord,
    RawRecords,
    RawRow,
    RawRows,
)
from perdure.doors.native.making import row_of, session_of
from perdure.doors.native.table import BYTES, Operation, Query, answer, by_of
from perdure.engine.decisions import check_edit

_PAGE: Final = 1000


async def rows(call: Call) -> Response:
    """List all sessions' rows."""
    return answer(RawRows(await call.engine.kit.store.sessions()))


async def row(call: Call) -> Response:
    """Return a session's row, or none."""
    return answer(RawRow(await call.engine.kit.store.session(call.path["id"])))


async def records(call: Call) -> Response:
    """List a journal's records, to be checked by whoever reads them."""
    after = call.number("after", 0, most=2**53)
    limit = call.number("limit", _PAGE, least=1, most=_PAGE)
    found = await call.engine.kit.store.read(call.path["id"], after, limit)
    return answer(
        RawRecords([RawRecord(r.seq, r.type, r.hash.hex(), msgspec.Raw(r.data)) for r in found])
    )


async def blob(call: Call) -> Response:
    """Send a large payload that an event names. Only by that event can it be asked for."""
    store, digest = call.engine.kit.store, call.path["digest"]
    seq = call.path["seq"]
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 16 else 0
    found = await store.read(call.path["id"], number - 1, 1) if number else []
    names: set[str] = set()
    for record in found:
        aside = journal.aside(record)
        payload = await store.blobs.get(aside.blob) if aside else None
        event = journal.read(record, payload)
        names |= {aside.blob} if aside else set()
        names |= {event.payload.full} if isinstance(event.payload, ToolFinished) else set()
    if not digest or digest not in names:
        raise NotFound("E-EVENT-UNKNOWN", f"{call.path['id']} has no such payload at {seq}.")
    return Response(await store.blobs.get(digest), media_type=BYTES)


async def letters(call: Call) -> Response:
    """List the letters that wait in a session's inbox."""
    waiting = await call.engine.kit.store.inbox(call.path["id"])
    return answer(RawLetters([RawLetter(each.key, msgspec.Raw(each.body)) for each in waiting]))


async def post(call: Call) -> Response:
    """Post a letter. Who it is from is what the key says."""
    body = await call.read(PostLetter)
    if not body.key:
        raise InvalidRequest("E-BODY", "A letter has a key.")
    session = session_of(call)
    await row_of(call, session.id)
    checked = _checked(body.post, await session.state())
    fresh = await session.post(_signed(checked, lambda by: by_of(call, by)), body.key)
    return answer(Posted(fresh), 202)


def _checked(letter: Post, state: State) -> Post:
    """Return a letter that anybody may post. Raises `InvalidRequest` (E-LETTER, E-ANSWER-FORM)."""
    match letter:
        case inbox.Late() | inbox.AddItems() | inbox.DropItem():
            raise InvalidRequest("E-LETTER", f"A client posts no {type(letter).__name__}.")
        case inbox.Update(update=update) if update.agent is not None:
            raise InvalidRequest(
                "E-LETTER",
                "A definition is not posted: name a registered agent.",
                "POST /sessions with adopt",
            )
        case inbox.Answer(call_id=call_id, text=text, failed=False):
            _check_form(state, call_id, text)
        case inbox.Decide(action_id=action_id, arguments=str() as arguments):
            if (action := state.actions.get(action_id)) is not None:
                check_edit(state.id, state, action, arguments)
            # What is allowed is bound to these arguments by us, whatever the client says.
            return replace(letter, arguments_digest=_digest(state, action_id, arguments))
        case _:
            pass
    return letter


def _check_form(state: State, call_id: str, text: str) -> None:
    found = state.turn.calls.get(call_id) if state.turn else None
    tool = state.spec.tool(found.call.tool) if found else None
    if tool is None or not tool.answer_schema:
        return
    wrong = problems(tool.answer_schema, text)
    if wrong and problems(tool.answer_schema, _plain(text)):
        raise InvalidRequest(
            "E-ANSWER-FORM",
            f"The answer was not posted, the question stays open: {'; '.join(wrong)}.",
        )


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _digest(state: State, action_id: str, arguments: str) -> str:
    action = state.actions.get(action_id)
    found = state.turn.calls.get(action.call_id) if state.turn and action else None
    tool = state.spec.tool(found.call.tool) if found else None
    return approval_digest(tool, arguments) if tool else ""


def _signed(letter: Post, sign: Callable[[str], str]) -> Post:
    """Return the letter with the key's name on it, and on what it grants."""
    match letter:
        case inbox.Update(update=update):
            return replace(letter, update=replace(update, by=sign(update.by)))
        case inbox.Decide(by=by, grant=grant):
            granted = None if grant is None else replace(grant, by=sign(grant.by))
            return replace(letter, by=sign(by), grant=granted)
        case inbox.Put() | inbox.Late():
            return letter
        case _:
            return replace(letter, by=sign(letter.by))


async def mailboxes(call: Call) -> Response:
    """List the sessions whose inbox is not empty."""
    return answer(Mailboxes(await call.engine.kit.store.mailboxes()))


async def errors(call: Call) -> Response:
    """Return the index of errors over all sessions."""
    return answer(RawErrors(await call.engine.kit.store.errors()))


_RECORDS: Final = (
    Query("after", "the last record that is known", number=True, most=2**53),
    Query("limit", "how many, at most", number=True, least=1, most=_PAGE),
)

OPERATIONS: Final = (
    Operation("GET", "/store/sessions", rows, "viewer", "raw_rows", "store", result=RawRows),
    Operation("GET", "/store/sessions/{id}", row, "viewer", "raw_row", "store", result=RawRow),
    Operation("GET", "/store/sessions/{id}/records", records, "viewer", "raw_records", "store",
              result=RawRecords, query=_RECORDS),
    Operation("GET", "/store/sessions/{id}/records/{seq}/blobs/{digest}", blob, "viewer",
              "raw_blob", "store", media=BYTES),
    Operation("GET", "/store/sessions/{id}/inbox", letters, "viewer", "raw_inbox", "store",
              result=RawLetters),
    Operation("POST", "/store/sessions/{id}/inbox", post, "operator", "raw_post", "store",
              body=PostLetter, result=Posted, status=202),
    Operation("GET", "/store/mailboxes", mailboxes, "viewer", "raw_mailboxes", "store",
              result=Mailboxes),
    Operation("GET", "/store/errors", errors, "viewer", "raw_errors", "store",
              result=RawErrors),
)  # fmt: skip
