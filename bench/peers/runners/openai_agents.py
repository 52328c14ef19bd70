"""openai-agents: its runner with a `SQLiteSession` in a file."""

import asyncio
import importlib.metadata
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents import (
    Agent,
    Model,
    ModelResponse,
    RunContextWrapper,
    Runner,
    SQLiteSession,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from bench.peers.recorder import Recorder
from bench.peers.serve import serve


def _message(number: int, text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(annotations=[], text=text, type="output_text")
    return ResponseOutputMessage(
        id=f"m{number}", content=[content], role="assistant", status="completed", type="message"
    )


class FakeModel(Model):
    """Asks for the tool until `steps` are done."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.steps = sys.maxsize

    async def get_response(self, *arguments: Any, **options: Any) -> ModelResponse:
        """See `Model.get_response`."""
        given = options.get("input", arguments[1] if len(arguments) > 1 else "")
        items = given if isinstance(given, list) else []
        # A message, a call and its result for each two steps.
        index = len(items) // 3 * 2
        usage = Usage(requests=1, input_tokens=1000, output_tokens=250, total_tokens=1250)
        if index >= self.steps:
            return ModelResponse([_message(index, "done")], usage, None)
        first: Any = items[0] if items else {"content": given}
        text = await self._recorder.step(first["content"], index)
        call = ResponseFunctionToolCall(
            arguments=f'{{"number": {index + 1}}}',
            call_id=f"c{index}",
            name="look",
            type="function_call",
        )
        return ModelResponse([_message(index, text), call], usage, None)

    def stream_response(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        """See `Model.stream_response`."""
        raise NotImplementedError


class OpenaiAgents:
    """See `System`."""

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """See `System.open`."""
        set_tracing_disabled(True)

        async def look(context: RunContextWrapper[str], number: int) -> str:
            """Look at something."""
            return await recorder.step(context.context, number)

        self._path = folder / "sessions.db"
        self._model = FakeModel(recorder)
        self._agent = Agent[str](name="bench", model=self._model, tools=[function_tool(look)])
        return {"openai-agents": importlib.metadata.version("openai-agents")}

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """See `System.run`."""
        self._model.steps = steps
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            await asyncio.gather(*(self._session(name, name) for name in some))

    async def _session(self, name: str, said: str) -> None:
        session = SQLiteSession(name, self._path)
        await Runner.run(self._agent, said, context=name, session=session, max_turns=1_000_000)
        session.close()

    async def resume(self, name: str) -> None:
        """See `System.resume`. Nothing resumes by itself: the program says something again."""
        await self._session(name, "go on")

    async def close(self) -> None:
        """See `System.close`."""


if __name__ == "__main__":
    serve(OpenaiAgents())
