"""Sessions by request: which definition they run, and that nothing else can be put in its place.

A client names agents and models that the operator has admitted. It never sends a definition: that
would be a way to tools and models that nobody gave it.
"""

import fnmatch
from collections.abc import Sequence

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.content import as_content
from perdure.core.errors import Forbidden, NotFound
from perdure.core.inbox import Say
from perdure.core.state import State
from perdure.doors.http import Call
from perdure.doors.native.bodies import Create, Fork, Row, row
from perdure.doors.native.table import by_of
from perdure.engine.export import read_journal
from perdure.engine.runtime import Engine
from perdure.engine.session import Session


def definition(engine: Engine, name: str) -> AgentSpec:
    """Return a registered agent's definition. Raises `NotFound` (E-AGENT-UNKNOWN)."""
    known = engine.definitions
    if name not in known:
        raise NotFound(
            "E-AGENT-UNKNOWN",
            f"This server has no agent {name!r}. It has: {', '.join(known) or 'none'}.",
            "The operator names agents behind: perdure up",
        )
    return known[name]


def session_of(call: Call) -> Session:
    """Return the session that the path names. Whether it is there shows when it is used."""
    return Session(call.engine, call.path["id"])


async def row_of(call: Call, name: str) -> Row:
    """Return a session's row. Raises `NotFound`."""
    found = await call.engine.kit.store.session(name)
    if found is None:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {name}.", "perdure ls")
    return row(found)


def admin_only(call: Call, source: str) -> str:
    """Return a directory of the server's; only an admin may name one. Raises `Forbidden`."""
    if source and not call.principal.may("admin"):
        raise Forbidden(
            "E-ROLE",
            "A directory of the server's is named by admins only.",
            "perdure admin keys new --role admin",
        )
    return source


async def opened(call: Call, wanted: Create) -> tuple[Session, bool]:
    """Return the session, made if there is none, and whether it was."""
    engine = call.engine
    source = admin_only(call, wanted.source)
    registered = definition(engine, wanted.agent)
    model = call.services.model(wanted.model) if wanted.model else ""
    name = wanted.id or engine.kit.ids.session()
    session = Session(engine, name)
    created = await engine.kit.store.session(name) is None
    if created:
        spec = replace(
            registered,
            model=model or registered.model,
            limits=wanted.limits or registered.limits,
        )
        engine.kit.models.get(spec.model)  # a name nobody knows makes no session
        await engine.create(e.SessionCreated(name, spec, source))
    else:
        await _moved(engine, session, registered, model, adopt=wanted.adopt)
    if wanted.message:
        await session.post(Say("message", as_content(wanted.message), by_of(call, wanted.by)))
    return session, created


async def _moved(
    engine: Engine, session: Session, registered: AgentSpec, model: str, *, adopt: bool
) -> None:
    """See that a session runs the definition of now; what was said over it stays."""
    state = await session.state()
    model = model or _own_model(state, registered)
    wanted = replace(registered, model=model, limits=state.spec.limits)
    if wanted.version != state.version:
        await engine.move(session, wanted, adopt=adopt)


def _own_model(state: State, registered: AgentSpec) -> str:
    return state.spec.model if state.spec.name == registered.name else registered.model


async def admitted(call: Call, lines: Sequence[bytes]) -> None:
    """Check that a journal brings nothing that the operator has not admitted.

    Raises `Forbidden` (E-ROLE), unless an admin sends it.
    """
    if call.principal.may("admin"):
        return
    for event in (await read_journal(lines)).events:
        match event.payload:
            case e.SessionCreated() | e.SessionForked() | e.SessionUpdated() as p:
                source = p.source if isinstance(p, e.SessionCreated) else ""
                if source or (p.agent is not None and not _is_known(call, p.agent)):
                    raise Forbidden(
                        "E-ROLE",
                        "This journal brings a definition that is not the server's, or a "
                        "directory: only an admin may store it. Nothing was stored.",
                        "perdure admin keys new --role admin",
                    )
            case _:
                pass


def _is_known(call: Call, spec: AgentSpec) -> bool:
    """Whether a definition is a registered one, but for limits and an admitted model."""
    known = call.engine.definitions.get(spec.name)
    if known is None:
        return False
    models = (known.model, *call.services.settings.models.values())
    same = replace(spec, model=known.model, limits=known.limits).version == known.version
    return same and any(fnmatch.fnmatchcase(spec.model, model) for model in models)


async def forked(call: Call, wanted: Fork) -> Session:
    """Return the fork of the session that the path names."""
    session = session_of(call)
    spec: AgentSpec | None = None
    if wanted.agent:
        spec = definition(call.engine, wanted.agent)
    elif wanted.model:
        spec = (await session.state(wanted.at)).spec
    if wanted.model and spec is not None:
        spec = replace(spec, model=call.services.model(wanted.model))
        call.engine.kit.models.get(spec.model)
    by = by_of(call, wanted.by)
    name = wanted.name or None
    return await session.fork(wanted.at, name=name, agent=spec, edit=wanted.edit, by=by)
