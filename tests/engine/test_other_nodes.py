"""A session's files on the node that takes over, and in its forks and rewinds there."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure.core.agent import EnvironmentSpec
from perdure.core.events import Event
from perdure.core.inbox import Say
from perdure.engine.agent import Agent
from perdure.engine.hub import Live, Progress
from perdure.engine.kit import Bounds, Kit
from perdure.engine.replay import replay
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.environments.bubblewrap import Bubblewrap
from perdure.environments.depot import Depot
from perdure.environments.process import Process
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model
from perdure.stores.memory import MemoryDisk, MemoryStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.testing.broken_depots import DepotWatch, PushesLater
from perdure.tools.workspace import workspace_tools
from tests.engine.told import journal
from tests.environments.doubles import needs_sandbox
from tests.environments.trees import Description, describe

KINDS = [
    pytest.param("process"),
    pytest.param("bubblewrap", marks=needs_sandbox()),
]


def bash(command: str) -> dict[str, Any]:
    return {"call": [{"tool": "bash", "arguments": {"command": command}}]}


def write(path: str, content: str) -> dict[str, Any]:
    return {"call": [{"tool": "write", "arguments": {"path": path, "content": content}}]}


FIRST = (
    write("notes.txt", "one\n"),
    bash("mkdir -p deep/er; echo two >deep/er/f; ln -s er deep/link; chmod 750 deep; cd deep"),
    {"text": "done"},
)
SECOND = (bash("echo half >>../notes.txt; echo started; [ -e go ] || sleep 600"), {"text": "done"})
THIRD = (bash("pwd; echo three >>../notes.txt; rm er/f"), {"text": "done"})


class Player:
    """Finds the same scripted model under every name."""

    def __init__(self, replies: Sequence[Mapping[str, Any]]) -> None:
        self._model = Scripted(msgspec.convert({"reply": replies}, Script))

    def get(self, name: str) -> tuple[Model, str]:
        return self._model, name


class Cluster:
    """Machines with work roots of their own, on one store."""

    def __init__(self, folder: Path, kind: str = "process", depot: type[Depot] = Depot) -> None:
        self.folder = folder
        self.disk = MemoryDisk()
        self.watch = DepotWatch(self.disk)
        self.depot = depot
        where = EnvironmentSpec(kind=kind, timeout_s=900.0)
        self.agent = Agent("agent", "scripted:play", workspace=True, environment=where)

    def node(self, name: str, *replies: Mapping[str, Any]) -> Engine:
        store = MemoryStore(self.disk, name, faults=self.watch)
        clock = SystemClock()
        depot = self.depot(store.blobs, store, clock)
        root = self.folder / name
        kit = Kit(
            store=store,
            clock=clock,
            ids=RandomIds(),
            models=Player(replies),
            environments={
                "bubblewrap": Bubblewrap(root, clock, depot=depot),
                "process": Process(root, clock, allow=True, depot=depot),
            },
            workspace_tools=lambda _: workspace_tools(),
            bounds=Bounds(idle_s=0.05, poll_s=0.05),
        )
        return Engine(kit)

    def files(self, name: str, session: str = "s") -> Description:
        """Return what lies in a session's workspace on a machine."""
        return describe(self.folder / name / "sessions" / session / "workspace")

    def text(self, name: str, session: str = "s") -> str:
        return (self.folder / name / "sessions" / session / "workspace" / "notes.txt").read_text()


async def killed_in_mid_command(engine: Engine, session: Session) -> None:
    """Send, and let the process die while the command runs."""
    await session.post(Say("message", by="anna"), "second")
    async with asyncio.timeout(30):
        async for item in session.follow():
            piece = item.piece if isinstance(item, Live) else None
            if isinstance(piece, Progress) and "started" in piece.text:
                break
    assert isinstance(engine.kit.store, MemoryStore)
    engine.kit.store.kill()


async def replays(engine: Engine, name: str) -> bool:
    return (await replay(await journal(engine.kit.store, name))).identical


@pytest.mark.parametrize("kind", KINDS)
async def test_a_session_goes_on_with_the_same_files_elsewhere(tmp_path: Path, kind: str) -> None:
    cluster = Cluster(tmp_path, kind)
    async with cluster.node("a", *FIRST) as engine:
        session = await engine.session("s", cluster.agent)
        await session.send("go")
        left = cluster.files("a")
    async with cluster.node("b", *FIRST, *THIRD) as engine:
        session = await engine.session("s", cluster.agent)
        await session.send("go on")
        opened = [ev.payload async for ev in session.events() if ev.type == "environment.restored"]
        assert len(opened) == 1
        now = cluster.files("b")
        assert {n: now[n] for n in now if n not in (b"/notes.txt", b"/deep/er/f")} == {
            n: left[n] for n in left if n not in (b"/notes.txt", b"/deep/er/f")
        }
        assert cluster.text("b") == "one\nthree\n"
        told = [ev.payload async for ev in session.events() if ev.type == "tool.finished"]
        assert "/deep" in str(told[2]), "the shell is in the directory that it was left in"
        assert await replays(engine, "s")
    # And back, where an older state of it lies.
    async with cluster.node("a", *FIRST, *THIRD, *THIRD) as engine:
        assert cluster.files("a") == left
        session = await engine.session("s", cluster.agent)
        await session.send("and on")
        assert cluster.text("a") == "one\nthree\nthree\n"
        assert await replays(engine, "s")
    assert cluster.watch.violations == []
    assert len(cluster.watch.named) >= 4


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_that_died_with_its_node_begins_anew_elsewhere(
    tmp_path: Path, kind: str
) -> None:
    cluster = Cluster(tmp_path, kind)
    async with cluster.node("a", *FIRST, *SECOND) as engine:
        session = await engine.session("s", cluster.agent)
        await session.send("go")
        before = cluster.files("a")
        await killed_in_mid_command(engine, session)
    assert cluster.text("a") == "one\nhalf\n"
    again = (bash("cat ../notes.txt; echo whole >>../notes.txt"), {"text": "done"})
    async with cluster.node("b", *FIRST, *again) as engine:
        await engine.register(cluster.agent)
        session = Session(engine, "s")
        died = (await session.state()).seq
        engine.wake("s")
        async with asyncio.timeout(30):
            async for item in session.follow():
                if isinstance(item, Live) and isinstance(item.piece, Progress):
                    break
        # The call is the one that was asked for: it adds its half to what was whole.
        assert cluster.text("b") == "one\nhalf\n"
        await session.interrupt(by="anna")
        async with asyncio.timeout(30):
            async for item in session.follow():
                if isinstance(item, Event) and item.seq > died and item.type == "turn.ended":
                    break
        assert cluster.files("b") == before, "what the command had changed was taken back"
        assert await replays(engine, "s")
    assert cluster.watch.violations == []


async def test_a_fork_and_a_rewind_on_another_machine(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    async with cluster.node("a", *FIRST, *THIRD) as engine:
        session = await engine.session("s", cluster.agent)
        await session.send("go")
        then = (await session.state()).seq
        left = cluster.files("a")
        await session.send("on")
        assert cluster.text("a") == "one\nthree\n"
    async with cluster.node("b", *FIRST, *THIRD) as engine:
        await engine.register(cluster.agent)
        session = Session(engine, "s")
        fork = await session.fork(then, name="f")
        await fork.resume()
        await fork.send("on, there")
        assert cluster.text("b", "f") == "one\nthree\n"
        assert not (tmp_path / "b" / "sessions" / "s").exists(), "nobody needed it"
        await session.rewind(then)
        await session.resume()
        await session.send("again")
        assert cluster.text("b") == "one\nthree\n"
        assert await replays(engine, "s")
        assert await replays(engine, "f")
    assert left
    assert cluster.watch.violations == []


async def test_a_snapshot_that_is_named_before_it_is_pushed_is_seen(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, depot=PushesLater)
    async with cluster.node("a", *FIRST) as engine:
        await (await engine.session("s", cluster.agent)).send("go")
    assert cluster.watch.violations
    async with cluster.node("b", *FIRST, *THIRD) as engine:
        session = await engine.session("s", cluster.agent)
        state = await session.send("go on")
        assert state.parked is not None
        assert state.parked.code == "E-SNAPSHOT-MISSING"


async def test_what_is_worked_on_in_place_waits_for_its_machine(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    where = EnvironmentSpec(kind="process", in_place=True, timeout_s=60.0)
    agent = Agent("agent", "scripted:play", workspace=True, environment=where)
    async with cluster.node("a", *FIRST) as engine:
        session = await engine.session("s", agent, source=str(project))
        await session.send("go")
    async with cluster.node("b", *FIRST, *THIRD) as engine:
        session = await engine.session("s", agent)
        state = await session.send("go on")
        assert state.parked is not None
        assert state.parked.code == "E-SANDBOX-ELSEWHERE"
        assert "on the machine where it began" in state.parked.message
        assert await replays(engine, "s")
    assert (project / "notes.txt").read_text() == "one\n"
    async with cluster.node("a", *FIRST, *THIRD) as engine:
        session = await engine.session("s", agent)
        await session.resume()
        await session.send("go on")
    assert (project / "notes.txt").read_text() == "one\nthree\n"
