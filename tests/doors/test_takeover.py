"""What a server goes on with that another one left, in projects that nobody asks it for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure import Agent
from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.inbox import Say
from perdure.core.journal import Record
from perdure.doors.projects import Projects
from perdure.doors.settings import ServerSettings
from perdure.models.scripted import Call, Reply
from perdure.ports.store import Doc, SessionRow
from perdure.serving.takeover import AllProjects, takeover_of
from perdure.stores.projects import ProjectStores
from perdure.stores.sqlite import SqliteStore
from perdure.stores.system import SystemClock
from perdure.testing.sim_store import StoreProxy
from perdure.tools.waiting import sleep
from tests.doors.serving import Up, script, up
from tests.doors.test_native import ask, client, till
from tests.engine.inn import a_moment

SETTINGS = ServerSettings(takeover_s=0.1)
NAPPER = Agent("napper", "test:nap", tools=[sleep])
TALKER = Agent("talker", "test:talk")
MODELS = {
    "nap": script(Reply(call=(Call("sleep", {"seconds": 1}),)), Reply(text="Rested.")),
    "talk": script(Reply(text="One."), Reply(text="Two.")),
}


def server(path: Path) -> Any:
    return up(MODELS, path, agents=[NAPPER, TALKER], settings=SETTINGS)


async def until(server: Up, project: str, holds: Callable[[list[Any]], object]) -> list[Any]:
    """Wait until something holds of a project's sessions, asking nobody but the store."""
    store = ProjectStores(server.server.stores.base).of(project)
    for _ in range(1000):
        rows = await store.sessions()
        if holds(rows):
            return rows
        await a_moment()
    raise AssertionError("it never came to that")


async def test_timers_schedules_and_letters_of_a_project_that_nobody_asks_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.db"
    async with server(path) as one, client(one, "shop") as http:
        body = {"agent": "talker", "id": "s1", "message": "Hi"}
        await ask(http, "POST", "/sessions", 201, json=body)
        await till(http, "s1", "turn.ended")
        body = {"agent": "napper", "id": "s2", "message": "Hi"}
        await ask(http, "POST", "/sessions", 201, json=body)
        await till(http, "s2", "timer.set")
        at_us = SystemClock().now_us() + 1_500_000
        plan = {"name": "soon", "agent": "talker", "prompt": "Do.", "at_us": at_us}
        await ask(http, "POST", "/schedules", 201, json=plan)
    store = await SqliteStore.open(path)
    await (
        ProjectStores(store).of("shop").post("s1", "k", encode(Say("message", as_content("again"))))
    )
    await store.close()
    async with server(path) as other:
        rows = await until(other, "shop", lambda rows: len(rows) == 3 and all(map(done, rows)))
        assert {row.id: row.turns for row in rows if row.id in ("s1", "s2")} == {"s1": 2, "s2": 1}
        assert "shop" in other.server.projects.open_ones


def done(row: SessionRow) -> bool:
    return row.status == "idle" and row.turns == (2 if row.id == "s1" else 1)


class Counting(StoreProxy):
    """Counts the questions."""

    questions: int = 0

    async def abandoned(self, limit: int = 100) -> list[str]:
        self.questions += 1
        return await super().abandoned(limit)

    async def due(self, now_us: int, limit: int = 100, prefix: str = "") -> list[str]:
        self.questions += 1
        return await super().due(now_us, limit, prefix)

    async def docs(
        self, kind: str, *, prefix: str = "", after: str = "", limit: int | None = None
    ) -> list[Doc]:
        self.questions += 1
        return await super().docs(kind, prefix=prefix, after=after, limit=limit)

    async def session(self, session: str) -> SessionRow | None:
        self.questions += 1
        return await super().session(session)

    async def read(self, session: str, after: int = 0, limit: int = 1000) -> list[Record]:
        self.questions += 1
        return await super().read(session, after, limit)


async def test_looking_costs_the_same_however_many_rest(tmp_path: Path) -> None:
    async with server(tmp_path / "s.db") as here, client(here) as http:
        counts = []
        for name in (["s0"], [f"s{n}" for n in range(1, 30)]):
            for each in name:
                body = {"agent": "talker", "id": each, "message": "Hi"}
                await ask(http, "POST", "/sessions", 201, json=body)
            await until(
                here, "default", lambda rows: all(r.status == "idle" and r.turns for r in rows)
            )
            counting = Counting(here.server.stores.base)
            stores = ProjectStores(counting)
            looking = AllProjects(stores, Projects(stores, here.server._engine), SystemClock())
            looking._projects._engines.update(here.server.projects.open_ones)
            assert not await takeover_of(looking, SystemClock(), lambda: 0.5, 2.0).round()
            counts.append(counting.questions)
        assert counts[0] == counts[1] <= 3
