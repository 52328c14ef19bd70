"""The process that is killed while it works on a session with subagents.

`python -m tests.process.crew` is a zygote as `tests.process.victim` is. Its deed says how many
tokens the tree may use, and which part of it is broken: `9000`, `9000:spawns`, `9000:ledger`.
"""

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.core.agent import Limits
from perdure.core.inbox import Decide
from perdure.core.state import ActionState
from perdure.engine.agent import Agent
from perdure.engine.kit import Bounds, Kit
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.subagents import Subagent, subagent
from perdure.engine.work import CallContext
from perdure.models.scripted import Script, Scripted
from perdure.ports.model import Delta, Model, ModelReply, ModelRequest
from perdure.ports.tool import Tool, ToolContext, ToolOutput
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import RandomIds, SystemClock
from perdure.tools.python import tool
from tests.process.victim import KillAt, Plan, die, world_of, zygote
from tests.trees.family import Cast
from tests.trees.test_budgets import BrokenEngine

MOST_OUTPUT: Final = 64


class Billed:
    """A provider that writes its bill before it answers: it is owed, whoever dies now."""

    def __init__(self, model: Model, home: Path) -> None:
        self._model = model
        self._home = home

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """Answer as the model does."""
        async for piece in self._model.stream(request):
            if isinstance(piece, ModelReply):
                leave(
                    self._home / "bills", str(piece.usage.input_tokens + piece.usage.output_tokens)
                )
            yield piece

    async def check(self) -> str:
        """Say what answers."""
        return await self._model.check()

    async def close(self) -> None:
        """Nothing to close."""


class SpawnsAgain(Subagent):
    """A broken subagent: each attempt of a call gets a child of its own."""

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Start another child."""
        assert isinstance(context, CallContext)
        fresh = f"{context.call_id}-{context.attempt}"
        return await super().call(arguments, with_changes(context, call_id=fresh))


def leave(file: Path, line: str) -> None:
    """Leave a line in a file outside of everything Perdure keeps."""
    with file.open("a") as world:
        world.write(line + "\n")
        world.flush()
        os.fsync(world.fileno())


def lead(plan: Plan, tokens: int, *, spawns: bool) -> Agent:
    """Return an agent with two workers and a manager, who has a worker too."""
    home = Path(plan.home)

    @tool(effect="once")
    async def pay(n: int, context: ToolContext) -> str:
        """Pay. Nobody can ask afterwards whether it was paid."""
        if plan.effect == f"{context.session_id}:before":
            die()
        leave(home / "world", f"pay {context.session_id}")
        if plan.effect == f"{context.session_id}:after":
            die()
        return paid(context.session_id)

    def below(agent: Agent) -> Tool:
        good = subagent(agent)
        parts = good.agent, good.name, good.description, good.max_depth, good.max_children
        return SpawnsAgain(*parts) if spawns else good

    free = Limits(None, None, None)
    little = MOST_OUTPUT
    worker = Agent("worker", "scripted:worker", tools=[pay], limits=free, max_output_tokens=little)
    manager = Agent(
        "manager", "scripted:manager", tools=[below(worker)], limits=free, max_output_tokens=little
    )
    return Agent(
        "lead",
        "scripted:lead",
        tools=[below(worker), below(manager)],
        limits=Limits(None, None, None, tokens),
        max_output_tokens=little,
    )


def paid(session: str) -> str:
    """Return the result of a payment."""
    return f"paid by {session}"


async def live(plan: Plan) -> None:
    """Bring the tree to rest."""
    home = Path(plan.home)
    tokens, _, broken = plan.deed.partition(":")
    store = await SqliteStore.open(home / "p.db", faults=KillAt(plan))
    scripts = msgspec.json.decode(plan.script, type=dict[str, Script])
    cast = Cast({name: Billed(Scripted(script), home) for name, script in scripts.items()})
    bounds = Bounds(recoveries=1000, poll_s=0.02)
    kit = Kit(store, SystemClock(), RandomIds(), cast, bounds=bounds)
    engine_type = BrokenEngine if broken == "ledger" else Engine
    async with engine_type(kit) as engine:
        agent = lead(plan, int(tokens), spawns=broken == "spawns")
        session = await engine.session("s", agent)
        await session.send("go", key="the one message")
        while (tree := await engine.tree("s")).waiting:
            for row in tree.rows:
                child = Session(engine, row.id)
                for action in (await child.state()).actions.values():
                    await child.decide(_honest(home, row.id, action))
            async for _ in session.watch():
                pass


def _honest(home: Path, session: str, action: ActionState) -> Decide:
    if f"pay {session}\n" in world_of(home):
        return Decide(action.id, "done", by="test", result=paid(session))
    return Decide(action.id, "rerun", by="test")


if __name__ == "__main__":
    zygote(live)
