"""What the tests of tools stand on: a context that remembers what it was told."""

import asyncio
from dataclasses import dataclass, field

from perdure.core.errors import Unavailable
from perdure.ports.sandbox import Sandbox
from perdure.ports.tool import Tool, ToolContext, ToolOutput


@dataclass
class Context:
    """A `ToolContext` outside any session."""

    box: Sandbox | None = None
    session_id: str = "s-1"
    call_id: str = "t1.1"
    attempt: int = 1
    idempotency_key: str = "s-1/t1.1"
    shown: list[str] = field(default_factory=list)

    @property
    def sandbox(self) -> Sandbox:
        if self.box is None:
            raise Unavailable("E-NO-ENVIRONMENT", "The session has no environment.")
        return self.box

    def progress(self, text: str) -> None:
        self.shown.append(text)


@dataclass
class LateContext(Context):
    """A context that also takes results that come too late."""

    came: "asyncio.Queue[ToolOutput]" = field(default_factory=asyncio.Queue)

    def late(self, output: ToolOutput) -> None:
        self.came.put_nowait(output)


async def run(made: Tool, context: ToolContext | None = None, /, **arguments: object) -> ToolOutput:
    """Call a tool outside any session."""
    return await made.call(arguments, context or Context())
