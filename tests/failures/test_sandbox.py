"""A stopped command is a dead command: scenarios 40 and 41, with real processes."""

import asyncio
from pathlib import Path

from perdure.core import events as e
from perdure.core.events import Event
from perdure.core.inbox import Say
from perdure.engine.agent import Agent
from perdure.engine.hub import Live, Progress
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.models.scripted import Call, Reply, Script, Scripted
from perdure.ports.model import Model
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.workspace import workspace_tools
from tests.environments.doubles import bubblewrap, needs_sandbox

pytestmark = needs_sandbox()

MARK = "86401.1234"  # nobody else sleeps for so long
# One child in the foreground, one in the background, and one in a session of its own.
COMMAND = f"""
echo half > done.txt
sleep {MARK} & setsid sleep {MARK} & (setsid setsid sleep {MARK} &)
echo started; sleep {MARK}
"""


class Player:
    """Finds the same scripted model under every name."""

    def __init__(self, *replies: Reply) -> None:
        self._model = Scripted(Script(reply=replies))

    def get(self, name: str) -> tuple[Model, str]:
        return self._model, name


def kit(root: Path, disk: MemoryDisk, *replies: Reply) -> Kit:
    return Kit(
        store=MemoryStore(disk),
        clock=SystemClock(),
        ids=RandomIds(),
        models=Player(*replies),
        environments={"bubblewrap": bubblewrap(root)},
        workspace_tools=lambda _environment: workspace_tools(),
        bounds=Bounds(idle_s=0.05, poll_s=0.05),
    )


def sleepers() -> int:
    """Count the processes of this machine that our command left."""
    found = 0
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += MARK.encode() in line.read_bytes() and b"sleep" in line.read_bytes()
        except OSError:
            continue
    return found


async def until_started(session: Session) -> None:
    async for item in session.follow():
        piece = item.piece if isinstance(item, Live) else None
        if isinstance(piece, Progress) and "started" in piece.text:
            return


async def until_event(session: Session, kind: type) -> Event:
    async for item in session.follow():
        if isinstance(item, Event) and isinstance(item.payload, kind):
            return item
    raise AssertionError("a follower does not end")


async def run_to_the_middle(engine: Engine) -> Session:
    agent = Agent("agent", "scripted:play", workspace=True)
    session = await engine.session("s", agent)
    watching = asyncio.create_task(until_started(session))
    await session.post(Say("message", by="anna"))
    async with asyncio.timeout(60):
        await watching
        while sleepers() < 4:  # noqa: ASYNC110 - the kernel has no event for it
            await asyncio.sleep(0)
    return session


async def test_failure_40_an_interrupt_leaves_no_process(tmp_path: Path) -> None:
    replies = (Reply(call=(Call("bash", {"command": COMMAND}),)), Reply(text="done"))
    async with Engine(kit(tmp_path, MemoryDisk(), *replies)) as engine:
        session = await run_to_the_middle(engine)
        await session.interrupt(by="anna")
        async with asyncio.timeout(60):
            await until_event(session, e.TurnEnded)
        assert sleepers() == 0


async def test_failure_41_a_cancel_is_written_down_when_the_work_is_dead(tmp_path: Path) -> None:
    replies = (Reply(call=(Call("bash", {"command": COMMAND}),)), Reply(text="done"))
    alive_at_the_end: list[int] = []
    async with Engine(kit(tmp_path, MemoryDisk(), *replies)) as engine:
        session = await run_to_the_middle(engine)
        await session.interrupt(by="anna")
        async with asyncio.timeout(60):
            done = await until_event(session, e.ToolFinished)
            alive_at_the_end.append(sleepers())
            await until_event(session, e.TurnEnded)
        assert alive_at_the_end == [0]
        assert isinstance(done.payload, e.ToolFinished)
        assert done.payload.status == "cancelled"
        assert "taken back" in done.payload.text
        state = await session.state()
        sandbox = await engine.kit.environments["bubblewrap"].open("s", state.spec.environment, "")
        try:
            assert "done.txt" not in await sandbox.files.list(), "what it changed was taken back"
        finally:
            await sandbox.close()


async def test_failure_41_leaving_in_order_kills_what_runs_and_the_next_owner_begins_anew(
    tmp_path: Path,
) -> None:
    disk = MemoryDisk()
    replies = (Reply(call=(Call("bash", {"command": COMMAND}),)), Reply(text="done"))
    async with Engine(kit(tmp_path, disk, *replies)) as engine:
        await run_to_the_middle(engine)
    assert sleepers() == 0
    async with Engine(kit(tmp_path, disk, *replies)) as engine:
        await engine.register(Agent("agent", "scripted:play", workspace=True))
        session = Session(engine, "s")
        watching = asyncio.create_task(until_started(session))
        engine.wake("s")
        async with asyncio.timeout(60):
            await watching
        await session.interrupt(by="anna")
        async with asyncio.timeout(60):
            await until_event(session, e.TurnEnded)
        starts = [ev.payload async for ev in session.events() if ev.type == "tool.started"]
        assert [p.attempt for p in starts if isinstance(p, e.ToolStarted)] == [1, 2]
    assert sleepers() == 0
