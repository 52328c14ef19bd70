"""Subagents of API agents: kept as data, found again by what a tool's definition names."""

from typing import Final

import msgspec

from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.codec import decode, encode
from perdure.engine.agent import Agent
from perdure.engine.kin import SOURCE
from perdure.engine.subagents import Subagent
from perdure.engine.trees import Trees
from perdure.ports.store import Store

NAME: Final = "create_subagent"
_KIND: Final = "api-subagent"
_DEPTH: Final = 1  # a subagent has none of its own
_WORDS: Final = (
    "Give a task to a subagent and get its answer. It knows nothing of this conversation: say all "
    "that it needs. Several at once work side by side."
)


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A subagent as it is kept: its definition, and how many there may be at once."""

    agent: AgentSpec
    at_once: int


async def keep(store: Store, agent: AgentSpec, at_once: int) -> ToolSpec:
    """Keep a subagent; return the tool that starts one."""
    kept = Kept(agent, at_once)
    tool = _tool(kept, None)
    await store.put_doc(_KIND, tool.spec.source, encode(kept))
    return tool.spec


async def kept(store: Store, spec: ToolSpec, trees: Trees | None) -> Subagent | None:
    """Return the code behind the definition of a tool that starts subagents; None: it is none."""
    if not spec.source.startswith(SOURCE):
        return None
    doc = await store.doc(_KIND, spec.source)
    return None if doc is None else _tool(decode(doc.data, Kept), trees)


def _tool(kept: Kept, trees: Trees | None) -> Subagent:
    # The number is part of the name: with another one it is another tool.
    agent = Agent(f"{kept.agent.name}-{kept.at_once}", kept.agent.model)
    return Subagent(agent, NAME, _WORDS, _DEPTH, kept.at_once, trees, kept.agent)
