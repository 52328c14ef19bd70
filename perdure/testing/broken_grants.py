"""Engines that are wrong about grants, each in one way. None of them is for use.

`grant_checks` must see each of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from perdure.core import step as due
from perdure.core.agent import ToolSpec
from perdure.core.codec import decode
from perdure.core.grants import Grant
from perdure.engine.driver import Driver
from perdure.engine.grants import KIND, StoredRule
from perdure.engine.work import Work
from perdure.ports.tool import Tool, ToolContext, ToolOutput


class AnyDefinition(Driver):
    """Looks at a tool's name alone: its definition, the condition and the end do not count."""

    async def _perform(self, work: Work, step: due.Step) -> None:
        async def careless(call_id: str) -> Sequence[Grant]:
            state = work.state
            pinned = {spec.name: spec.digest for spec in state.spec.tools}
            return [
                replace(grant, digest=pinned.get(grant.tool, ""), when="", until_us=None)
                for grant in state.grants.values()
            ]

        work.rules = careless
        await super()._perform(work, step)


class ProposalsCount(Driver):
    """Believes a rule as soon as it is proposed."""

    async def _perform(self, work: Work, step: due.Step) -> None:
        async def proposed(call_id: str) -> Sequence[Grant]:
            docs = await work.kit.store.docs(KIND)
            return [decode(doc.data, StoredRule).grant for doc in docs]

        work.rules = proposed
        await super()._perform(work, step)


class BeatsDeny(Driver):
    """Takes a grant for stronger than what forbids."""

    async def _tools(self) -> Mapping[str, Tool]:
        assert self._work is not None
        tools = await super()._tools()
        granted = {grant.tool for grant in self._work.state.grants.values()}
        return {n: Unforbidden(tool) if n in granted else tool for n, tool in tools.items()}


class Unforbidden:
    """A tool that forbids nothing."""

    def __init__(self, tool: Tool) -> None:
        self._tool = tool
        self.spec: ToolSpec = replace(tool.spec, deny="")

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """See `Tool.call`."""
        return await self._tool.call(arguments, context)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """See `Tool.probe`."""
        return await self._tool.probe(arguments, context)
