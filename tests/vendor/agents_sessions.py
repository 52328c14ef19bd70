"""What the vendor's tests of agents, sessions and environments ask for.

A session, a turn, a subagent and an artifact get their ids from the server. Where a test names one
by a fixed id, a real one that was just made stands in its place.
"""

from typing import Any, Final

import httpx2
import openai
from starlette.types import Receive, Scope, Send

from perdure.doors.credentials import Credentials, VaultRecord
from perdure.doors.documents import Documents
from perdure.doors.openai.agents.environments import (
    Host,
    TemplateRecord,
    environments,
    templates,
)
from perdure.doors.openai.agents.hosting import Hosting
from perdure.doors.openai.files import KIND as FILE, FileRecord
from perdure.models.scripted import Alternative, Call, Reply, Script, Scripted
from perdure.serving.server import Server

MODEL: Final = "seed"
_FILE: Final = Call("bash", {"command": "mkdir -p outputs; echo Hi > outputs/a.txt"})
_DELEGATE: Final = Call("create_subagent", {"task": "Count the stars."})
_SESSIONS: Final = "/openai/v1/agents/sessions/session_id"

Real = dict[str, str]


def model() -> Scripted:
    """Return the model of the sessions that are made here: it does what it is told, and ends."""
    first = Reply(
        text="Hello.",
        when=(
            Alternative(text="There are nine.", if_user_contains="Count the stars"),
            Alternative(call=(_DELEGATE,), if_user_contains="Delegate"),
            Alternative(call=(_FILE,), if_user_contains="Write"),
        ),
    )
    return Scripted(Script((first, Reply(text="It is done."), Reply(text="All of it."))))


async def hosted(server: Server) -> None:
    """Make an environment, a template, the file and the vault that tests put into them."""
    engine = await server.projects.engine("default")
    store = engine.kit.store
    vaults = Credentials(store, server.vault_of("default")).vaults
    if await vaults.find("string") is None:
        await vaults.put("string", VaultRecord("string", 1, 1, "v"))
    files = Documents(store, FILE, FileRecord)
    if await files.find("x") is None:
        digest = await store.blobs.put(b"Hello")
        await files.put("x", FileRecord("x", digest, 5, "a.txt", "user_data", 1_700_000_000))
    name = "environment_template_id"
    if await templates(store).find(name) is None:
        await templates(store).put(name, TemplateRecord(name, 1, 1, Hosting()))
    if await environments(store).find("environment_id") is None:
        host = Host(engine, server.services)
        await host.prepare(Hosting(), "environment_id", (), name="environment_id")


class Standing:
    """The application, in which fixed ids in paths are those of sessions that are there.

    What is only read serves for more than one request; behind any other request all is made anew.
    """

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._real: dict[str, Real] = {}
        web = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=server.app))
        self._client: Any = openai.AsyncOpenAI(
            base_url="http://here/openai/v1", api_key=key, http_client=web
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if path.startswith(_SESSIONS):
            for literal, real in (await self._made(path)).items():
                path = path.replace(f"/{literal}", f"/{real}")
            scope = {**scope, "path": path, "raw_path": path.encode()}
            if scope["method"] != "GET":
                self._real.clear()
        await self._server.app(scope, receive, send)

    async def close(self) -> None:
        """Close the client by which sessions are made."""
        await self._client.close()

    async def _made(self, path: str) -> Real:
        kind = next((word for word in ("subagent", "artifact") if f"/{word}s" in path), "session")
        if kind not in self._real:
            self._real[kind] = await getattr(self, f"_{kind}")()
        return self._real[kind]

    async def _session(self, said: str = "Hi", kind: str = "none", *, team: bool = False) -> Real:
        """Run a session to its rest."""
        sessions = self._client.beta.agents.sessions
        agent = {"model": MODEL, "multi_agent": {"enabled": team}}
        async with await sessions.create(
            agent=agent, environment={"type": kind}, input=said, stream=True
        ) as stream:
            ended = [event async for event in stream][-1].session
        turns = await sessions.turns.list(ended.id)
        return {"session_id": ended.id, "turn_id": turns.data[0].id}

    async def _subagent(self) -> Real:
        real = await self._session("Delegate", team=True)
        found = self._client.beta.agents.sessions.subagents
        subagent = (await found.list(real["session_id"])).data[0].id
        turns = await found.turns.list(subagent, session_id=real["session_id"])
        return {**real, "subagent_id": subagent, "turn_id": turns.data[0].id}

    async def _artifact(self) -> Real:
        real = await self._session("Write", "openai_hosted")
        found = await self._client.beta.agents.sessions.artifacts.list(real["session_id"])
        return {**real, "artifact_id": found.data[0].id}
