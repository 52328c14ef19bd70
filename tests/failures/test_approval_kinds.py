"""Approvals work alike for every kind of tool: Python, MCP, workspace, subagent."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from perdure.app import Options, Runtime
from perdure.core import events as e
from perdure.core.agent import EnvironmentSpec, Rule, Verdict
from perdure.core.errors import Conflict
from perdure.engine.agent import Agent
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.engine.subagents import subagent
from perdure.ports.tool import Tool, Toolset
from perdure.stores.memory import MemoryDisk
from tests.contract.mcp_shop import Shop
from tests.failures.test_approvals import WORDS, payer
from tests.trees.family import Cast, house, part, says, tasks, uses

# Every kind of tool: asked, killed, allowed elsewhere, run once; asked and denied, not run.

KINDS = ("python", "mcp", "workspace", "subagent")


class Kind:
    """An agent with one tool of a kind that asks, and how to see what it did."""

    def __init__(self, kind: str, folder: Path, shop: Shop) -> None:
        self.kind = kind
        self.folder = folder
        self.shop = shop
        calls: dict[str, tuple[str, dict[str, Any]]] = {
            "python": ("pay", {"n": 1}),
            "mcp": ("shop__look", {"order": 4711}),
            "workspace": ("write", {"path": "note.txt", "content": "hello"}),
            "subagent": ("helper", {"task": "look at it"}),
        }
        self.name, self.arguments = calls[kind]
        self.visits: list[str] = []

    def agent(self) -> Agent:
        place = EnvironmentSpec(kind="process" if self.kind == "workspace" else "none")
        return Agent(
            "lead",
            "scripted:lead",
            tools=self.tools(),
            workspace=self.kind == "workspace",
            environment=place,
            permissions=[Rule(self.name, Verdict.ASK, reason="so that we know")],
        )

    def tools(self) -> Sequence[Tool | Toolset]:
        match self.kind:
            case "python":
                return [payer(self.visits)]
            case "mcp":
                return [self.shop.stdio()]
            case "subagent":
                helper = Agent("helper", "scripted:helper")
                return [subagent(helper)]
            case _:
                return []

    def runtime(self) -> Runtime:
        parts = Cast(
            {
                "lead": part(uses(self.name, **self.arguments) | {"text": WORDS}, says("done")),
                "helper": part(says("there it is")),
            }
        )
        options = Options(models=parts, allow_unsandboxed=True)
        return Runtime(f"sqlite:///{self.folder}/perdure.db", options)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    made = Shop(tmp_path)
    yield made
    await made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["allow", "deny"])
async def test_every_kind_of_tool_is_approved_alike(
    kind: str, way: str, tmp_path: Path, shop: Shop
) -> None:
    made = Kind(kind, tmp_path, shop)
    async with made.runtime() as runtime:
        session = await runtime.session("s", made.agent())
        state = await session.send("go")
        (action,) = state.actions.values()
        assert action.said == WORDS and action.question.startswith(made.name)
    async with made.runtime() as runtime:
        session = await runtime.session("s", made.agent())
        if way == "allow":
            await session.allow("a1", by="anna", seen=action.digest)
        else:
            await session.deny("a1", by="anna", reason="not today")
        async for _ in session.watch():
            pass
        done = [x.payload async for x in session.events() if x.type == "tool.finished"]
        started = [x async for x in session.events() if x.type == "tool.started"]
    (end,) = done
    assert isinstance(end, e.ToolFinished)
    assert (len(started), end.status) == ((1, "ok") if way == "allow" else (0, "denied")), end
    assert ("not today" in end.text) == (way == "deny")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_tool_can_be_granted(kind: str, tmp_path: Path, shop: Shop) -> None:
    made = Kind(kind, tmp_path, shop)
    async with made.runtime() as runtime:
        session = await runtime.session("s", made.agent())
        await session.send("go")
        await session.allow("a1", by="anna", scope="rule")
        async for _ in session.watch():
            pass
    async with made.runtime() as runtime:
        (rule,) = await runtime.rules()
        other = await runtime.session("t", made.agent())
        state = await other.send("go")
        assert state.last_status == "completed" and not state.actions, "nobody was asked"
        asked = [x.payload async for x in other.events() if x.type == "tool.requested"]
    assert [p.grant for p in asked if isinstance(p, e.ToolRequested)] == [rule]


async def test_a_subagents_question_is_decided_in_its_own_session() -> None:
    visits: list[str] = []
    helper = Agent("helper", "scripted:helper", tools=[payer(visits)])
    lead = Agent("lead", "scripted:lead", tools=[subagent(helper)])
    parts = {
        "lead": part(tasks("pay it"), says("so")),
        "helper": part(uses("pay", n=7) | {"text": WORDS}, says("paid")),
    }
    disk = MemoryDisk()
    async with house(parts, disk) as engine:
        session = await engine.session("s", lead)
        await session.send("go")
        child = await below(engine)
        assert (await child.state()).actions["a1"].said == WORDS
    async with house(parts, disk, node="n2", seed=2) as engine:
        session = await engine.session("s", lead)
        child = await below(engine)
        await child.allow("a1", by="anna")
        async for _ in session.watch():
            pass
        assert visits == ["pay 7"] and (await session.state()).last_status == "completed"
        with pytest.raises(Conflict, match="anna allowed it"):
            await child.deny("a1", by="bert")


async def below(engine: Engine) -> Session:
    (name,) = [row.id for row in await engine.sessions() if row.parent]
    return await engine.session(name)
