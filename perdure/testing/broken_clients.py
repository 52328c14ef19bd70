"""Engines that are wrong about clients' calls, each in one way. None of them is for use.

`client_checks` must see each of them.
"""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import AgentSpec, ToolSpec
from perdure.core.events import Payload
from perdure.engine.driver import Driver
from perdure.engine.journal import Journal
from perdure.engine.runtime import Engine
from perdure.ports.tool import Tool, ToolContext, ToolOutput
from perdure.testing.broken_engines import Rewrites


class _Started:
    """A client's tool that is run like any other."""

    def __init__(self, inner: Tool) -> None:
        self.spec: ToolSpec = replace(inner.spec, client=False)

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Make an answer up."""
        return ToolOutput("red")

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Know nothing."""
        return None


class StartsClientTools(Engine):
    """Runs a client's call itself."""

    async def _toolbox(self, spec: AgentSpec) -> Mapping[str, Tool]:
        tools = await super()._toolbox(spec)
        return {k: _Started(t) if t.spec.client else t for k, t in tools.items()}


class _AnswersItself(Journal):
    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and take a question for answered."""
        super().append(*payloads, taken=taken)
        for p in payloads:
            if isinstance(p, e.ActionRequested) and p.kind == "answer":
                made_up = e.ActionResolved(p.action_id, "done", "nobody", p.digest, result="(none)")
                super().append(made_up)


class _TakesTwice(Rewrites):
    """Lets a later answer take the place of the one that was taken."""

    def instead(self, payload: Payload) -> Payload:
        """Tell the model something else than what is recorded as the answer."""
        if isinstance(payload, e.ToolFinished) and payload.status == "ok":
            return replace(payload, text=f"{payload.text}, no: blue")
        return payload


def engine_with(journal: type[Journal]) -> type[Engine]:
    """Return an engine whose drivers write such journals."""
    driver = type("Broken", (Driver,), {"journal_type": journal})
    return type("BrokenEngine", (Engine,), {"driver_type": driver})


AnswersItself = engine_with(_AnswersItself)
TakesTwice = engine_with(_TakesTwice)
