"""Replays of stored sessions, with everything put together: what the command line uses.

Reads one store and writes none. Runs that call a model happen in a store of their own, in memory.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from perdure.core.agent import AgentSpec
from perdure.core.budget import Price
from perdure.core.errors import NotFound
from perdure.core.events import Event
from perdure.engine.compare import Changes, Comparison, compare
from perdure.engine.compare_text import comparison_text, rerun_text
from perdure.engine.counterfactual import Mode, Rerun, replay_with
from perdure.engine.export import export_session, import_session, read_journal
from perdure.engine.journal import events_of
from perdure.engine.kept_test import journal_name, render_test
from perdure.engine.kit import Kit
from perdure.engine.replay import ReplayReport, replay
from perdure.ports.model import Models
from perdure.ports.store import Store
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import RandomIds, SystemClock

__all__ = [
    "Changes",
    "Comparison",
    "Mode",
    "ReplayReport",
    "Rerun",
    "compare",
    "comparison_text",
    "export_session",
    "import_session",
    "read_journal",
    "recorded",
    "replay",
    "replay_session",
    "replay_session_with",
    "replay_with",
    "rerun_text",
    "save_test",
]


async def recorded(store: Store, session: str, at: int | None = None) -> list[Event]:
    """Return the events of a session until event `at` (default: all). Raises `NotFound`."""
    events: list[Event] = []
    async for event, _ in events_of(store, session):
        if at is not None and event.seq > at:
            break
        events.append(event)
    if not events:
        raise NotFound("E-SESSION-UNKNOWN", f"There is no session {session}.", "perdure ls")
    if at is not None and events[-1].seq != at:
        raise NotFound(
            "E-EVENT-UNKNOWN", f"{session} has no event {at}.", f"perdure show {session}"
        )
    return events


async def replay_session(
    store: Store,
    session: str,
    at: int | None = None,
    *,
    prices: Mapping[str, Price] | None = None,
    agent: AgentSpec | None = None,
) -> ReplayReport:
    """Replay a stored session: free, read-only, byte for byte. Raises `NotFound`."""
    return await replay(await recorded(store, session, at), prices=prices, agent=agent)


async def replay_session_with(
    store: Store,
    session: str,
    models: Models,
    at: int | None = None,
    *,
    model: str = "",
    instructions: str | None = None,
    mode: Mode = "stop",
    prices: Mapping[str, Price] | None = None,
) -> Rerun:
    """Run a stored session's inputs again with another model or other instructions.

    The model is called and costs money; nothing else happens. Raises `NotFound`.
    """
    events = await recorded(store, session, at)
    kit = Kit(
        store=MemoryStore(MemoryDisk()),
        clock=SystemClock(),
        ids=RandomIds(),
        models=models,
        prices=prices or {},
    )
    return await replay_with(kit, events, model=model, instructions=instructions, mode=mode)


async def save_test(store: Store, session: str, file: Path, agent: str) -> tuple[Path, Path]:
    """Write a session as a regression test: `file` and, beside it, its journal.

    `agent` is where the agent is defined, `module:name`. Returns both paths. Raises `NotFound`,
    `InvalidRequest` (E-REPLAY-AGENT).
    """
    lines = [line async for line in export_session(store, session)]
    events = (await read_journal(lines)).events
    text = render_test(events, agent=agent, file=file.name)
    journal = file.with_name(journal_name(file.name))
    await asyncio.to_thread(journal.write_bytes, b"".join(lines))
    await asyncio.to_thread(file.write_text, text, encoding="utf-8")
    return file, journal
