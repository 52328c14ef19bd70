"""The index of errors says what a reader of all journals would say."""

from pathlib import Path
from random import Random

import pytest

from perdure.core import events as e
from perdure.core.errors import ErrorInfo, error_info
from perdure.core.events import Decision, Event, Payload
from perdure.core.inbox import Decide
from perdure.engine.errors import rows_of
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Call, Failure, Reply, Script
from perdure.ports.store import ErrorRow, Store
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.offload import Inline
from perdure.stores.sqlite import SqliteStore
from tests.engine.stands import World, running, scanned

KINDS = ("overloaded", "bad_request", "torn", "auth")
VERDICTS: tuple[Decision, ...] = ("done", "failed", "rerun")
CALLS = (
    Call("look", {"thing": "door"}),
    Call("pay", {"invoice": 7}),
    Call("look", "{"),
    Call("fly"),
)


def script(chance: Random) -> Script:
    """A dozen replies, some of which fail, for good or once, or call tools."""
    return Script(tuple(reply(chance) for _ in range(12)), chunk_chars=1000)


def reply(chance: Random) -> Reply:
    error = None
    if chance.random() < 0.4:
        error = Failure(chance.choice(KINDS), times=chance.randint(1, 3), partial="to")
    calls = chance.sample(CALLS, chance.choice((0, 0, 1, 1, 2)))
    return Reply(text="well", call=tuple(calls), error=error)


async def live(store: Store, seed: int) -> None:
    """Let sessions and their forks run into errors, as a seed says."""
    chance, world = Random(seed), World()
    async with running(store, script(chance), world) as (engine, agent):
        for number in range(3):
            session = await engine.session(f"ses_{number}", agent)
            for _ in range(5):
                await stumble(chance, world, session)
            if chance.random() < 0.7:
                await fork(chance, engine, session, world)


async def stumble(chance: Random, world: World, session: Session) -> None:
    """Do one thing that may go wrong."""
    world.broken = {tool for tool in ("look", "pay") if chance.random() < 0.4}
    state = await session.send("go") if chance.random() < 0.6 else await session.resume()
    for action in state.actions.values():
        if chance.random() < 0.8:
            await session.post(Decide(action.id, chance.choice(VERDICTS), by="test"))
    if chance.random() < 0.2:
        await session.interrupt()


async def fork(chance: Random, engine: Engine, session: Session, world: World) -> None:
    """Fork a session somewhere, and its fork again, and let both go on."""
    for _ in range(2):
        at = chance.randint(1, (await session.state()).seq)
        session = await session.fork(at, name=f"fork_of_{session.id}")
        await session.resume()
        await stumble(chance, world, session)


@pytest.mark.parametrize("seed", range(40))
async def test_the_index_is_what_a_full_scan_gives(seed: int) -> None:
    disk = MemoryDisk()
    await live(MemoryStore(disk, commit_s=0.0005 * (seed % 3)), seed)
    reader = MemoryStore(disk)
    assert await reader.errors() == await scanned(reader)


async def test_the_index_is_what_a_full_scan_gives_on_disk(tmp_path: Path) -> None:
    for seed in range(5):
        path = tmp_path / f"{seed}.db"
        await live(await SqliteStore.open(path, offload=Inline()), seed)
        reader = await SqliteStore.open(path)
        assert await reader.errors() == await scanned(reader)
        await reader.close()


async def test_the_seeds_reach_the_interesting_corners() -> None:
    found: list[ErrorRow] = []
    for seed in range(40):
        disk = MemoryDisk()
        await live(MemoryStore(disk), seed)
        found += await MemoryStore(disk).errors()
    assert {row.code for row in found} >= CODES
    assert any(row.count > 2 for row in found)
    assert {row.stopped for row in found} == {True, False}
    assert any(not row.session.startswith("ses_") for row in found), "no fork met an error"


CODES = frozenset(
    [
        "E-LIMIT-STEPS",
        "E-MODEL-AUTH",
        "E-MODEL-OVERLOADED",
        "E-MODEL-REJECT",
        "E-MODEL-TORN",
        "E-TOOL-ARGUMENTS",
        "E-TOOL-MISSING",
        "E-TOOL-RAISED",
        "E-TOOL-UNKNOWN",
    ]
)


def event(seq: int, payload: Payload, turn: int = 1) -> Event:
    return Event(seq, f"{seq:026d}", seq * 10, turn, payload)


def test_what_counts_as_an_error() -> None:
    raised = error_info("E-TOOL-RAISED", "tool", "no", subject="read", origin="shop.py:7")
    denied = error_info("E-TOOL-DENIED", "tool", "no")
    rows = rows_of(
        "ses_1",
        [
            event(1, e.ToolFinished("c1", "ok", "fine")),
            event(2, e.ToolFinished("c2", "error", "no", raised)),
            event(3, e.ToolFinished("c3", "denied", "no", denied)),
            event(4, e.ToolFinished("c4", "cancelled", "stopped")),
            event(5, e.TurnEnded("cancelled")),
            event(6, e.NoteRecorded("E-NOTHING"), turn=0),
        ],
    )
    assert rows == [
        ErrorRow(
            raised.fingerprint,
            "ses_1",
            "E-TOOL-RAISED",
            "tool",
            "no",
            2,
            20,
            20,
            subject="read",
            origin="shop.py:7",
            turn=1,
        )
    ]


def test_an_error_that_ends_its_turn_is_one_error() -> None:
    refused = error_info("E-MODEL-AUTH", "model", "no", subject="m")
    events: list[Payload] = [
        e.ModelResponded("error", error=refused),
        e.TurnEnded("failed", refused),
    ]
    asked, ended = rows_of("s", [event(seq, each) for seq, each in enumerate(events, 7)])
    one = asked.followed_by(ended)
    assert (one.count, one.seq, one.stopped, one.first_at_us, one.last_at_us) == (
        1,
        8,
        True,
        70,
        80,
    )


def test_journals_of_earlier_versions_name_no_subject() -> None:
    bare = ErrorInfo("E-MODEL-AUTH", "model", "no")
    (row,) = rows_of("s", [event(1, e.ModelResponded("error", model="m", error=bare))])
    assert row.subject == "m"
    assert row.fingerprint == error_info("E-MODEL-AUTH", "model", "other", subject="m").fingerprint
