"""Perdure, as its quick start has it: `Runtime`, `Agent`, `@tool`, `await session.send(...)`."""

import asyncio
import importlib.metadata
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bench.peers.recorder import Recorder
from bench.peers.serve import serve
from perdure import Agent, Runtime, tool
from perdure.app import Options
from perdure.core.agent import Limits
from perdure.core.content import Text, ToolCall, Usage, UserItem, text_of
from perdure.doors.settings import ServerSettings
from perdure.engine.takeover import Takeover
from perdure.ports.model import Delta, ModelReply, ModelRequest
from perdure.ports.tool import Tool, ToolContext


class FakeModel:
    """Asks for the tool until `steps` are done."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.steps = sys.maxsize

    def get(self, name: str) -> tuple["FakeModel", str]:
        """See `Models.get`."""
        return self, name

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | ModelReply]:
        """See `Model.stream`."""
        index = len(request.items) - 1
        usage = Usage(input_tokens=1000, output_tokens=250)
        if index >= self.steps:
            yield ModelReply((Text("done"),), usage, "stop")
            return
        first = request.items[0]
        name = text_of(first.content) if isinstance(first, UserItem) else ""
        text = await self._recorder.step(name, index)
        number = f'{{"number": {index + 1}}}'
        call = ToolCall(f"{request.call_prefix}{request.first_call}", "look", number)
        yield ModelReply((Text(text), call), usage, "tool_calls")

    async def check(self) -> str:
        """See `Model.check`."""
        return "fake"

    async def close(self) -> None:
        """See `Model.close`."""


def _look(recorder: Recorder, effect: str) -> Tool:
    @tool(effect=effect)
    async def look(number: int, context: ToolContext) -> str:
        """Look at something."""
        return await recorder.step(context.session_id, number)

    return look


class Perdure:
    """See `System`. `effect` is the tool's; `once` is what `@tool` alone means."""

    def __init__(self, effect: str) -> None:
        self._effect = effect

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """See `System.open`."""
        self._model = FakeModel(recorder)
        self._agent = Agent(
            "bench",
            "fake:bench",
            tools=[_look(recorder, self._effect)],
            limits=Limits(steps=None, tool_calls=None, wall_s=None),
        )
        self._shared = bool(url)
        options = Options(models=self._model, environ={})
        self._runtime = Runtime(url or f"sqlite:///{folder / 'perdure.db'}", options)
        await self._runtime.register(self._agent)
        return {"perdure": importlib.metadata.version("perdure")}

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """See `System.run`."""
        self._model.steps = steps
        for start in range(0, len(names), at_once):
            await asyncio.gather(*(self._session(name) for name in names[start : start + at_once]))

    async def _session(self, name: str) -> None:
        session = await self._runtime.session(name, self._agent)
        await session.send(name)

    async def resume(self, name: str) -> None:
        """See `System.resume`."""
        if self._shared:
            await self._take_over()
            return
        session = await self._runtime.session(name, self._agent)
        async for _ in session.watch():
            pass

    async def _take_over(self) -> None:
        """Do as `perdure work` does: go on with what a dead node had, when its lease is over."""
        engine = await self._runtime.engine()
        kit = engine.kit
        find, take = kit.store.abandoned, engine.waker.take
        await Takeover(find, take, kit.clock, kit.ids.random, ServerSettings().takeover_s).run()

    async def close(self) -> None:
        """See `System.close`."""
        await self._runtime.close()


if __name__ == "__main__":
    serve(Perdure(sys.argv[1]))
