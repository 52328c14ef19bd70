"""What was used, which agents there are, and who you are."""

from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace
from starlette.responses import Response

from perdure.core.agent import AgentSpec
from perdure.core.content import Usage as Tokens
from perdure.core.events import Event, ModelRequested, ModelResponded, SessionForked
from perdure.doors.http import Call
from perdure.doors.native.bodies import Agents, Info, Usage, Used
from perdure.doors.native.making import definition
from perdure.doors.native.table import Operation, Query, answer
from perdure.engine.session import Session

_DAY_US: Final = 24 * 3600 * 1_000_000
_KEPT_DAYS: Final = 30


async def usage(call: Call) -> Response:
    """Sum up what model calls took, by agent, model and day (UTC)."""
    default = max(0, call.services.clock.now_us() - _KEPT_DAYS * _DAY_US)
    since_us = call.number("since_us", default, most=2**53)
    sums: dict[tuple[str, str, str], Used] = {}
    for row in await call.engine.kit.store.sessions():
        if row.updated_at_us < since_us:
            continue
        for used in await _of_session(Session(call.engine, row.id), row.agent, since_us):
            key = (used.agent, used.model, used.day)
            sums[key] = _added(sums[key], used) if key in sums else used
    return answer(Usage(since_us, [sums[key] for key in sorted(sums)]))


async def _of_session(session: Session, agent: str, since_us: int) -> list[Used]:
    """Return a session's own calls; those before a fork are its origin's."""
    found: list[Used] = []
    model = ""
    async for event in session.events():
        match event.payload:
            case SessionForked(session=name) if name == session.id:
                found.clear()
            case ModelRequested(model=asked):
                model = asked
            case ModelResponded(usage=tokens) if event.at_us >= since_us:
                found.append(_used(event, agent, model, tokens))
            case _:
                pass
    return found


def _used(event: Event, agent: str, model: str, tokens: Tokens) -> Used:
    day = datetime.fromtimestamp(event.at_us / 1_000_000, UTC).date().isoformat()
    cost = tokens.cost_micro_usd
    counted = tokens.input_tokens + tokens.output_tokens > 0
    return Used(
        agent, model, day, 1, tokens.input_tokens, tokens.output_tokens, tokens.cached_tokens,
        cost or 0, int(counted and cost is None),
    )  # fmt: skip


def _added(one: Used, other: Used) -> Used:
    numbers = Used.__struct_fields__[3:]
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in numbers})


async def agents(call: Call) -> Response:
    """List the agents that are registered here."""
    return answer(Agents(list(call.engine.definitions.values())))


async def agent(call: Call) -> Response:
    """Show an agent as it is defined now."""
    return answer(definition(call.engine, call.path["name"]))


async def info(call: Call) -> Response:
    """Say who you are here, and what there is."""
    who = call.principal
    models = list(call.services.settings.models)
    rows = await call.engine.kit.store.sessions()
    version = call.services.about.get("version", "")
    names = list(call.engine.definitions)
    return answer(Info(version, who.id, who.project, who.role, names, models, len(rows)))


OPERATIONS: Final = (
    Operation("GET", "/usage", usage, "viewer", "get_usage", "server", result=Usage, query=(
        Query("since_us", "from then on, microseconds since the epoch; default: 30 days ago",
              number=True, most=2**53),)),
    Operation("GET", "/agents", agents, "viewer", "list_agents", "server", result=Agents),
    Operation("GET", "/agents/{name}", agent, "viewer", "get_agent", "server",
              result=AgentSpec),
    Operation("GET", "/info", info, "viewer", "get_info", "server", result=Info),
)  # fmt: skip
