"""Sessions as regression tests: would the agent of today decide the same?

    from pathlib import Path
    from perdure.regression import check
    from refunds import agent

    def test_refund() -> None:
        check(Path(__file__).with_name("refund.jsonl"), agent)

Made by `perdure replay ID --save-test FILE`. No model is called, no tool is run, no network used.
"""

import asyncio
from pathlib import Path

from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.errors import InvalidRequest
from perdure.core.evolve import fold
from perdure.core.policy import REMOTE_SOURCE
from perdure.engine.agent import Agent
from perdure.engine.export import read_journal
from perdure.engine.replay import ReplayReport, replay
from perdure.ports.tool import Tool, Toolset
from perdure.tools.workspace import workspace_tools


def check(journal: str | Path, agent: Agent) -> ReplayReport:
    """Fail (`AssertionError`) when `agent` would decide anything in a recorded session differently.

    The wording of instructions and descriptions and the model's name are left out: they decide
    nothing by themselves. Tools of MCP servers are taken as they were recorded, because asking
    for them would need the server.
    """
    return asyncio.run(_check(Path(journal), agent))


async def _check(journal: Path, agent: Agent) -> ReplayReport:
    lines = await asyncio.to_thread(journal.read_bytes)
    exported = await read_journal(lines.splitlines())
    recorded = fold(exported.events).spec
    report = await replay(exported.events, agent=current(agent, recorded))
    if not report.identical:
        raise AssertionError(
            f"{agent.name} would decide differently now. {report}.\n"
            f"If that is intended, record the session again: {journal.name}"
        )
    return report


def current(agent: Agent, recorded: AgentSpec) -> AgentSpec:
    """Return the definition of `agent` as it is now, without opening anything."""
    tools: list[ToolSpec] = []
    if agent.workspace:
        contained = agent.where.kind == "bubblewrap"
        tools += [tool.spec for tool in workspace_tools(contained=contained)]
    for given in agent.tools:
        if isinstance(given, Toolset):
            continue
        if not isinstance(given, Tool):
            raise InvalidRequest("E-TOOL-PLAIN", f"{given} is no tool.", "Put @tool above it.")
        tools.append(given.spec)
    if any(isinstance(given, Toolset) for given in agent.tools):
        tools += [tool for tool in recorded.tools if tool.source.startswith(REMOTE_SOURCE)]
    return agent.spec(tools)
