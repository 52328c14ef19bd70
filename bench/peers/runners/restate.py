"""Restate: a service in this process, whose model and tool calls are `ctx.run_typed`.

Its server is a process of its own, which the benchmark started; `url` is that of its ingress, with
that of its administration behind a space.
"""

import asyncio
import importlib.metadata
import socket
from pathlib import Path
from typing import Any

import httpx
import restate
from hypercorn.asyncio import serve as serve_http
from hypercorn.config import Config

from bench.peers.recorder import Recorder
from bench.peers.serve import serve


class Restate:
    """See `System`."""

    async def open(self, folder: Path, url: str, recorder: Recorder) -> dict[str, str]:
        """See `System.open`."""
        ingress, admin = url.split()
        self._done: dict[str, asyncio.Event] = {}
        service = restate.Service("Agent")

        async def run(context: restate.Context, given: dict[str, Any]) -> str:
            name = given["name"]

            async def call(index: int) -> str:
                return await recorder.step(name, index)

            for index in range(0, given["steps"], 2):
                await context.run_typed("model", call, restate.RunOptions(), index)
                await context.run_typed("look", call, restate.RunOptions(), index + 1)
            if name in self._done:
                self._done[name].set()
            return "done"

        service.handler("run")(run)
        place = folder / "port"
        fresh = not place.exists()
        port = _free_port() if fresh else int(place.read_text())
        place.write_text(str(port))
        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        config.loglevel = "ERROR"
        stop = asyncio.Event()
        self._stop = stop
        serving: Any = serve_http
        app: Any = restate.app([service])
        self._task = asyncio.create_task(serving(app, config, shutdown_trigger=stop.wait))
        limits = httpx.Limits(max_connections=200)
        self._http = httpx.AsyncClient(base_url=ingress, timeout=60.0, limits=limits)
        if fresh:
            await self._register(admin, port)
        return {"restate-sdk": importlib.metadata.version("restate-sdk")}

    async def _register(self, admin: str, port: int) -> None:
        await _listening(port)
        where = {"uri": f"http://127.0.0.1:{port}", "force": True}
        async with httpx.AsyncClient(timeout=60.0) as http:
            answer = await http.post(f"{admin}/deployments", json=where)
            answer.raise_for_status()

    async def run(self, names: list[str], steps: int, at_once: int) -> None:
        """See `System.run`."""
        for start in range(0, len(names), at_once):
            some = names[start : start + at_once]
            await asyncio.gather(*(self._session(name, steps) for name in some))

    async def _session(self, name: str, steps: int) -> None:
        self._done[name] = asyncio.Event()
        answer = await self._http.post("/Agent/run/send", json={"name": name, "steps": steps})
        answer.raise_for_status()
        await self._done[name].wait()

    async def resume(self, name: str) -> None:
        """See `System.resume`. The server calls again by itself."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See `System.close`."""
        self._stop.set()
        await self._http.aclose()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return


if __name__ == "__main__":
    serve(Restate())
