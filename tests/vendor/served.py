"""A server for the vendors' own tests: run as a program, it prints its address and serves until
its standard input ends.

Those tests send a fixed key, and ask for resources by fixed ids: `seed` makes some of them.
"""

import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from perdure.app import Options
from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.errors import NotFound
from perdure.doors.documents import Documents
from perdure.doors.http import Call
from perdure.doors.openai.chat.face import KIND as CHAT, ChatRecord
from perdure.doors.openai.conversations.keeping import Conversations
from perdure.doors.openai.files import KIND as FILE, FileRecord
from perdure.doors.openai.problems import Wording
from perdure.doors.openai.responses.reading import Reader
from perdure.doors.openai.responses.wishes import NAME
from perdure.doors.openai.turns.records import KIND, ResponseRecord
from perdure.doors.openai.turns.rendering import key_of
from perdure.doors.principals import Principal
from perdure.doors.settings import ServerSettings
from perdure.engine.deleting import delete_session
from perdure.engine.kit import Bounds
from perdure.models.scripted import Reply, Script, Scripted
from perdure.ports.model import Model
from perdure.serving.server import Plan, Server
from tests.vendor.agents_rest import timed, vaults
from tests.vendor.agents_sessions import MODEL, Standing, hosted, model

KEYS: Final = ("My API Key", "My Admin API Key", "my-anthropic-api-key")
Seed = Callable[[Server], Awaitable[None]]
WHO: Final = Principal("key_vendor", "default", "admin")


class Talk:
    """A model that always says the same, and the one of sessions that are there for tests."""

    def __init__(self) -> None:
        self._model = Scripted(Script((Reply(text="Hello."),) * 8))
        self._seed = model()

    def get(self, name: str) -> tuple[Model, str]:
        return self._seed if name.endswith(f":{MODEL}") else self._model, name


class OpenServer(Server):
    """A server that knows the key in the vendors' tests."""

    async def identify(self, token: str) -> Principal:
        if token in KEYS:
            return WHO
        return await super().identify(token)


async def responses(server: Server) -> None:
    """Make a response that has ended under each of the ids, unless it is there."""
    engine = await server.projects.engine(WHO.project)
    records = Documents(engine.kit.store, KIND, ResponseRecord)
    for name in ("resp_677efb5139a88190b512bc3fef8e535d", "response_id", "resp_123"):
        if await records.find(name) is not None:
            continue
        await engine.create(e.SessionCreated(name, AgentSpec(NAME, "test:talk")))
        session = await engine.session(name)
        await session.send("Hello", key=key_of(name))
        record = ResponseRecord(name, name, 1, 1_700_000_000, "gpt-6-astra", {}, background=True)
        await records.put(name, record)
        await Reader(engine).ended(record)


async def conversations(server: Server) -> None:
    """Make the conversation with its one item, unless both are there."""
    engine = await server.projects.engine(WHO.project)
    request = Request({"type": "http", "headers": [], "path": "/", "query_string": b""})
    kept = Conversations(Call(request, WHO, engine, server.services, "req_seed"))
    try:
        await kept.entry("conv_123", "msg_abc")
    except Wording:
        with contextlib.suppress(NotFound):
            await delete_session(engine, "conv_123")
        said = {"type": "message", "role": "user", "content": "Hello", "id": "msg_abc"}
        await kept.make_as("conv_123", {}, [said])


async def completions(server: Server) -> None:
    """Make a stored completion."""
    engine = await server.projects.engine(WHO.project)
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": "Hello.", "refusal": None},
    }
    done = {
        "id": "completion_id",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-6-astra",
        "choices": [choice],
    }
    sent = {"id": "completion_id-0", "role": "assistant", "content": "Hi", "refusal": None}
    record = ChatRecord("completion_id", done, [sent])
    await Documents(engine.kit.store, CHAT, ChatRecord).put("completion_id", record)


async def files(server: Server) -> None:
    """Make a file."""
    store = (await server.projects.engine(WHO.project)).kit.store
    digest = await store.blobs.put(b"Hello")
    record = FileRecord("file_id", digest, 5, "a.txt", "user_data", 1_700_000_000)
    await Documents(store, FILE, FileRecord).put("file_id", record)


SEEDS: Final[Mapping[str, Seed]] = {
    "vaults": vaults,
    "automations": timed,
    "environments": hosted,
    "responses": responses,
    "conversations": conversations,
    "completions": completions,
    "files": files,
}


class Seeded:
    """The application, with the resources in place before each request: those tests delete what
    the next of them reads.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = asyncio.Lock()
        self.standing = Standing(server, KEYS[0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._lock:
            for make in SEEDS.values():
                await make(self._server)
        await self.standing(scope, receive, send)


async def serve(root: Path, *, seed: bool) -> None:
    """Serve until standard input ends, with the files of environments below `root`."""
    settings = ServerSettings(
        models={"*": "test:*"}, default_model="gpt-6-astra", environment="process"
    )
    options = Options(
        models=Talk(),
        bounds=Bounds(poll_s=0.05, idle_s=0.5),
        work_root=root,
        allow_unsandboxed=True,  # all commands that run here are our own
    )
    server = await OpenServer.open(Plan("memory:", settings, options))
    seeded = Seeded(server)
    listener = socket.create_server(("127.0.0.1", 0))
    app = seeded if seed else server.app
    web = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    serving = asyncio.create_task(web.serve(sockets=[listener]))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    web.should_exit = web.force_exit = True
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await seeded.standing.close()
    await server.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(Path(folder), seed="--seed" in sys.argv))
