"""Grants: what was allowed before, looked for when a rule says that somebody is to be asked.

A grant for a session lives in that session's journal. A rule holds for all sessions of an agent
and lives in the store, as a document of the kind `rule`. It is made in two steps, so that a crash
between them allows nothing: first the document says that it was proposed, then the decision that
carries it is posted. Whether a proposal became a rule only the journal says.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.codec import Reader, encode
from perdure.core.conditions import parse
from perdure.core.errors import Conflict, InvalidRequest, NotFound, PerdureError
from perdure.core.grants import Grant
from perdure.core.policy import asking
from perdure.core.state import ActionState, State
from perdure.engine.journal import events_of, load
from perdure.ports.store import Doc, Store

Scope = Literal["once", "session", "rule"]

KIND: Final = "rule"
BLANK: Final = "?"  # stands for a digest that whoever posts the grant does not know


class StoredRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """A rule as a document: proposed by whoever decides on an action of a session, and in force
    once that session's journal says so.
    """

    grant: Grant
    session: str
    action_id: str
    confirmed: bool = False


_RULES: Final = Reader[StoredRule](StoredRule)


async def rules_for(store: Store, state: State) -> list[Grant]:
    """Return the rules in force, as a session sees them that is just being worked on."""
    try:
        docs = await store.docs(KIND)
    except PerdureError:
        return []  # what cannot be read allows nothing: a person is asked
    found: list[Grant] = []
    for doc in docs:
        rule = _read(doc)
        if rule is None:
            continue
        if not rule.confirmed and rule.session == state.id:
            # What was decided here a moment ago may not be on disk yet; this state knows it.
            mine = state.grants.get(rule.grant.name)
            found += [mine] if mine is not None and mine.scope == "rule" else []
        elif (settled := await _settled(store, doc, rule)) is not None:
            found.append(settled)
    return found


async def rules_in(store: Store) -> list[Grant]:
    """Return all rules in force, by name. Proposals that came to nothing are cleared away."""
    settled = [
        await _settled(store, doc, rule)
        for doc in await store.docs(KIND)
        if (rule := _read(doc)) is not None
    ]
    return [grant for grant in settled if grant is not None]


def _read(doc: Doc) -> StoredRule | None:
    """Read a rule; one that another version wrote in another way allows nothing here."""
    try:
        rule = _RULES.read(doc.data)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    good = rule.grant.scope == "rule" and rule.grant.name == doc.name
    return rule if good else None


async def _settled(store: Store, doc: Doc, rule: StoredRule) -> Grant | None:
    """Return the grant of a rule in force. What became of a proposal the journal says, and what
    was decided there is what holds.
    """
    if rule.confirmed:
        return rule.grant
    try:
        known, grant = await _decided_on(store, rule)
        if grant is not None:
            confirmed = encode(replace(rule, grant=grant, confirmed=True))
            await store.put_doc(KIND, doc.name, confirmed, expect=doc.version)
        elif known:
            await store.delete_doc(KIND, doc.name)
    except PerdureError:
        return None  # changed meanwhile, or not readable now: it is looked at again next time
    return grant


async def _decided_on(store: Store, rule: StoredRule) -> tuple[bool, Grant | None]:
    """Say whether it is known what became of a proposal, and the grant if it was decided on."""
    state, _, _ = await load(store, rule.session)
    held = state.grants.get(rule.grant.name)
    if held is not None and held.scope == "rule":
        return True, held
    if rule.action_id in state.actions:
        return False, None
    revoked, made = False, None
    async for event, _ in events_of(store, rule.session):
        match event.payload:
            case e.ActionResolved(action_id=action_id, grant=Grant(scope="rule") as grant):
                made = grant if action_id == rule.action_id else made
            case e.GrantRevoked(name=name) if name == rule.grant.name:
                revoked = True
            case _:
                pass
    return True, None if revoked else made


async def propose(store: Store, grant: Grant, session: str, action_id: str) -> None:
    """Write a rule down before it is decided on: it allows nothing yet.

    A proposal that somebody left there before is replaced: the journal says which one was taken.
    """
    before = [doc for doc in await store.docs(KIND) if doc.name == grant.name]
    known = _read(before[0]) if before else None
    if known is not None and known.confirmed:
        return  # the action was decided long ago, and that is what the decision will be told
    data = encode(StoredRule(grant, session, action_id))
    version = before[0].version if before else 0
    with suppress(Conflict):  # somebody proposes at the same moment; the journal will say whose
        await store.put_doc(KIND, grant.name, data, expect=version)


async def settle(store: Store, name: str) -> None:
    """Look what became of a proposal, now that its action is decided."""
    for doc in await store.docs(KIND):
        if doc.name == name and (rule := _read(doc)) is not None:
            await _settled(store, doc, rule)


def made(
    state: State,
    action_id: str,
    *,
    scope: Scope,
    by: str,
    when: str,
    until_us: int | None,
    now_us: int,
) -> Grant | None:
    """Return what is to be allowed beside an action; None for the one call alone.

    Raises `InvalidRequest`: E-CONDITION for a condition that cannot be read, E-GRANT for an end in
    the past, for a condition or an end without a scope, and for what is no approval.
    """
    if scope == "once":
        if when or until_us is not None:
            raise _wrong("a condition and an end belong to a session or a rule, not to one call")
        return None
    if scope not in ("session", "rule"):
        raise _wrong(f"there is no scope {scope!r}; there are once, session and rule")
    if when:
        parse(when)
    if until_us is not None and until_us <= now_us:
        raise _wrong(f"it would have ended at {shown_time(until_us)}, which is past")
    action = state.actions.get(action_id)
    call = state.turn.calls.get(action.call_id) if state.turn and action else None
    if action is not None and action.kind != "approve":
        raise _wrong(f"{action_id} is no approval, so nothing can be allowed beyond it")
    spec = state.spec.tool(call.call.tool) if call else None
    return Grant(
        name=f"{state.id}:{action_id}",
        tool=call.call.tool if call else "",
        digest=spec.digest if spec else BLANK,
        when=when,
        scope=scope,
        agent=state.spec.name if scope == "rule" else "",
        until_us=until_us,
        by=by,
        made_at_us=now_us,
        asks=asking(spec, state.spec.permissions) if spec else "",
    )


def like_it(state: State, action: ActionState) -> Grant | None:
    """Return what would allow all calls of an action's tool in its session, nobody's yet."""
    if action.kind != "approve":
        return None
    return made(state, action.id, scope="session", by="", when="", until_us=None, now_us=0)


async def forget(store: Store, name: str) -> bool:
    """Take a rule out of force at once; False when there is none of that name."""
    there = name in [doc.name for doc in await store.docs(KIND)]
    await store.delete_doc(KIND, name)
    return there


def named(grants: Sequence[Grant], name: str) -> Grant | None:
    """Return the grant of that name, or None."""
    return next((grant for grant in grants if grant.name == name), None)


def unknown(name: str) -> NotFound:
    """Return the error about a grant that is not there."""
    return NotFound(
        "E-GRANT-UNKNOWN", f"There is no grant {name!r} in force.", "perdure approve --rules"
    )


def shown_time(at_us: int) -> str:
    """Return a moment in UTC, for messages that may be read anywhere."""
    return f"{datetime.fromtimestamp(at_us / 1_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _wrong(problem: str) -> InvalidRequest:
    return InvalidRequest(
        "E-GRANT",
        f"This cannot be allowed: {problem}. Nothing was decided.",
        'perdure approve ID --allow --for session|rule [--when "eur < 50"] [--until 7d]',
    )
