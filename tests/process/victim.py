"""The process that is killed: it opens a store, works on one session, and dies where told.

`python -m tests.process.victim` is a zygote: it imports everything once, then forks a real
process for each plan it reads (a JSON line) and answers how that process ended. Whatever the
victim learns as durable it tells a file at once, so that the test knows what was acknowledged.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import msgspec

from perdure.core.events import Event
from perdure.core.inbox import Decide
from perdure.core.state import ActionState, State
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.environments.bubblewrap import Bubblewrap
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Model
from perdure.ports.sandbox import Environments
from perdure.ports.store import Batch
from perdure.ports.tool import Tool, ToolContext
from perdure.stores.faults import Faults
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.python import NotDone, tool
from perdure.tools.workspace import workspace_tools


class Plan(msgspec.Struct, frozen=True):
    """Where to work and where to die. `commit` counts commits of the process, from 1."""

    home: str
    script: str
    sandbox: bool = False
    commit: int = 0
    after: bool = False
    effect: str = ""  # "pay:before", "pay:after": in the body of that tool, around its effect
    ms: float = 0.0  # killed from outside after that many milliseconds, wherever it is then
    deed: str = ""  # "fork:12", "rewind:12", "watch:f" in place of working to rest
    naive: bool = False  # a broken variant: the once tool says that it may be run again


class Answer(msgspec.Struct, frozen=True):
    """How the process ended: its wait status, and the commits it counted if it lived."""

    status: int


class KillAt(Faults):
    """Dies at the n-th commit, before or after it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._count = 0

    def before_commit(self, batches: Sequence[Batch]) -> None:
        self._count += 1
        if self._count == self._plan.commit and not self._plan.after:
            die()

    def after_commit(self, batches: Sequence[Batch]) -> None:
        if self._count == self._plan.commit and self._plan.after:
            die()
        (Path(self._plan.home) / "commits").write_text(str(self._count))


class OneModel:
    """Finds the same model under every name."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get(self, name: str) -> tuple[Model, str]:
        return self._model, name


def die() -> None:
    """Die as by `kill -9`: no cleanup, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def tools(plan: Plan) -> list[Tool]:
    """The agent's tools. Each leaves a line in a file outside of everything Perdure keeps."""
    home = Path(plan.home)

    def effect(name: str, line: str) -> None:
        if plan.effect == f"{name}:before":
            die()
        with (home / "world").open("a") as world:
            world.write(line + "\n")
            world.flush()
            os.fsync(world.fileno())
        if plan.effect == f"{name}:after":
            die()

    @tool(effect="read")
    def look(thing: str) -> str:
        """Look at something."""
        return f"{thing} is there"

    @tool(effect="idempotent")
    def book(room: int, *, key: str) -> str:
        """Book a room; the same key books once."""
        effect("book", f"book {key} {room}")
        return f"room {room}"

    @tool(effect="idempotent" if plan.naive else "once")
    def pay(invoice: int, context: ToolContext) -> str:
        """Pay an invoice. Nobody can ask afterwards whether it was paid."""
        effect("pay", f"pay {context.call_id} {invoice}")
        return f"paid {invoice}"

    def was_shipped(context: ToolContext) -> str:
        if f"ship {context.call_id} " in world_of(home):
            return "shipped, says the probe"
        raise NotDone

    @tool(effect="once", probe=was_shipped)
    def ship(parcel: int, context: ToolContext) -> str:
        """Ship a parcel; the carrier can be asked."""
        effect("ship", f"ship {context.call_id} {parcel}")
        return f"shipped {parcel}"

    @tool(ask=True)
    def launch(rocket: int, context: ToolContext) -> str:
        """Launch a rocket, if somebody says so."""
        effect("launch", f"launch {context.call_id} {rocket}")
        return f"launched {rocket}"

    return [look, book, pay, ship, launch]


async def work(plan: Plan) -> None:
    """Work on the session until it is at rest, telling what is acknowledged."""
    home = Path(plan.home)
    store = await SqliteStore.open(home / "p.db", faults=KillAt(plan))
    script = msgspec.json.decode(plan.script, type=Script)
    environments: dict[str, Environments] = {}
    if plan.sandbox:
        environments["bubblewrap"] = Bubblewrap(home / "work", SystemClock())
    kit = Kit(
        store,
        SystemClock(),
        RandomIds(),
        OneModel(Scripted(script)),
        environments,
        workspace_tools=lambda _: workspace_tools(),
        bounds=Bounds(recoveries=1000),
    )
    agent = Agent("victim", "scripted:victim", tools=tools(plan), workspace=plan.sandbox)
    async with Engine(kit) as engine:
        session = await engine.session("s", agent)
        if plan.deed:
            await _branch(session, Session(engine, "f"), *plan.deed.split(":"))
        else:
            await _to_rest(home, session)


async def _branch(session: Session, fork: Session, deed: str, where: str) -> None:
    """Fork the session or take it back, and see to it that the files follow."""
    if deed == "fork":
        await session.fork(int(where), name="f")
    elif deed == "rewind":
        await session.rewind(int(where))
    branch = fork if deed == "fork" or where == "f" else session
    async for _ in branch.watch():
        pass


async def _to_rest(home: Path, session: Session) -> None:
    with (home / "acknowledged").open("a") as told:
        while True:
            state = await _listen(session, told.write, told.flush)
            if not state.actions:
                return
            for action in state.actions.values():
                await session.decide(decision(home, state, action))


async def _listen(session: Session, write: object, flush: object) -> State:
    sending = session.send("go", key="the one message")
    async for piece in sending:
        if isinstance(piece, Event):
            write(f"{piece.seq} {piece.id}\n")  # type: ignore[operator]
            flush()  # type: ignore[operator]
    return await session.state()


def decision(home: Path, state: State, action: ActionState) -> Decide:
    """Decide as an honest person who can look at the world."""
    if action.kind == "approve":
        return Decide(action.id, "allow", by="test", seen=action.digest)
    assert state.turn is not None
    call = state.turn.calls[action.call_id].call
    if f"{call.tool} {call.id} " in world_of(home):
        return Decide(action.id, "done", by="test", result="I saw that it happened")
    return Decide(action.id, "rerun", by="test")


def world_of(home: Path) -> str:
    """Return what the tools did to the world, a line each."""
    world = home / "world"
    return world.read_text() if world.exists() else ""


def zygote(live: Callable[[Plan], Coroutine[object, object, None]] = work) -> None:
    """Fork a victim for every plan on standard input; answer on standard output."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for line in sys.stdin:
        plan = msgspec.json.decode(line, type=Plan)
        child = os.fork()
        if child == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            os.close(0)
            try:
                asyncio.run(live(plan))
            except BaseException as error:  # noqa: BLE001  # told to the test, whatever it is
                (Path(plan.home) / "failed").write_text(repr(error))
                os._exit(1)
            os._exit(0)
        if plan.ms and signal.sigtimedwait([signal.SIGCHLD], plan.ms / 1000) is None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        signal.sigtimedwait([signal.SIGCHLD], 0)  # the signal of this child is spent
        sys.stdout.write(msgspec.json.encode(Answer(status)).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    zygote()
