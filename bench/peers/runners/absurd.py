"""Absurd: a task whose model and tool calls are steps, and one worker."""

import asyncio
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any, Final

from absurd_sdk import AsyncAbsurd

from bench.peers.recorder import Recorder
from bench.peers.serve import serve

# Its default is 120 s, and that long nobody takes up what a dead worker had.
_CLAIM_S: Final = 5


class AbsurdSystem:
    """See `System`."""

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """See `System.open`."""
        self._left = 0
        control = str(Path(sys.executable).parent / "absurdctl")
        environ = {**os.environ, "ABSURD_DATABASE_URL": url}
        fresh = not (folder / "schema").exists()
        if fresh:
            process = await asyncio.create_subprocess_exec(control, "init", env=environ)
            if await process.wait():
                raise RuntimeError("absurdctl init did not get through")
            (folder / "schema").touch()
        self._app = AsyncAbsurd(url, queue_name="bench")
        if fresh:
            await self._app.create_queue("bench")

        async def agent(params: Any, context: Any) -> str:
            name, steps = params["name"], params["steps"]
            for index in range(steps):
                kind = "tool" if index % 2 else "model"

                async def call(index: int = index) -> str:
                    return await recorder.step(name, index)

                await context.step(f"{kind}-{index}", call)
            self._left -= 1
            if not self._left:
                self._app.stop_worker()
            return "done"

        self._app.register_task(name="agent")(agent)
        return {"absurd-sdk": importlib.metadata.version("absurd-sdk")}

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """See `System.run`."""
        self._left = len(names)
        for name in names:
            await self._app.spawn("agent", {"name": name, "steps": steps})
        await self._app.start_worker(claim_timeout=_CLAIM_S, concurrency=at_once)

    async def resume(self, name: str) -> None:
        """See `System.resume`."""
        await self._app._ensure_connected()
        await self._app.start_worker(claim_timeout=_CLAIM_S)

    async def close(self) -> None:
        """See `System.close`."""
        await self._app.close()


if __name__ == "__main__":
    serve(AbsurdSystem())
