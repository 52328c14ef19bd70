"""DBOS Transact: a workflow whose model and tool calls are steps, as its quick start has it."""

import asyncio
import importlib.metadata
from pathlib import Path

from dbos import DBOS, SetWorkflowID

from bench.peers.recorder import Recorder
from bench.peers.serve import serve


class Dbos:
    """See `System`."""

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """See `System.open`. Its launch takes up what was left, by itself."""
        url = url.replace("postgresql://", "postgresql+psycopg://")
        database = url or f"sqlite:///{folder / 'dbos.sqlite'}"
        DBOS(config={"name": "bench", "system_database_url": database, "log_level": "ERROR"})

        async def model(session: str, index: int) -> str:
            return await recorder.step(session, index)

        async def look(session: str, index: int) -> str:
            return await recorder.step(session, index)

        model_step, look_step = DBOS.step()(model), DBOS.step()(look)

        async def agent(session: str, steps: int) -> str:
            for index in range(0, steps, 2):
                await model_step(session, index)
                await look_step(session, index + 1)
            return "done"

        self._agent = DBOS.workflow()(agent)
        DBOS.launch()
        return {"dbos": importlib.metadata.version("dbos")}

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """See `System.run`."""
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            await asyncio.gather(*(self._session(name, steps) for name in some))

    async def _session(self, name: str, steps: int) -> None:
        with SetWorkflowID(name):
            await self._agent(name, steps)

    async def resume(self, name: str) -> None:
        """See `System.resume`."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See `System.close`."""
        DBOS.destroy()


if __name__ == "__main__":
    serve(Dbos())
