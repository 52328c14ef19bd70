"""A server's engine, as its clients hold it: the same methods, and nothing runs here."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterable, Iterable, Sequence
from typing import Self

from msgspec.structs import replace

from perdure.core.agent import AgentSpec
from perdure.core.errors import Conflict, InvalidRequest, NotFound, PerdureError
from perdure.core.grants import Grant
from perdure.core.schedules import Schedule
from perdure.doors.native.bodies import (
    By,
    Create,
    FileChanges,
    Info,
    Opened,
    Plans,
    PlanSchedule,
    PlanView,
    Ran,
    Row,
    Rules,
)
from perdure.doors.native.bodies_nodes import Node, Nodes, NodeView
from perdure.engine.agent import Agent
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.engine.schedules import Past, Schedules
from perdure.engine.session import Session
from perdure.ports.sandbox import Change
from perdure.ports.tool import Tool
from perdure.remote.link import Link, part
from perdure.remote.session import RemoteSession


class RemoteSchedules(Schedules):
    """A server's schedules. They fire there."""

    def __init__(self, host: Engine, link: Link) -> None:
        super().__init__(host)
        self._link = link

    async def add(self, schedule: Schedule) -> Schedule:
        """See `Schedules.add`."""
        body = PlanSchedule(
            schedule.name, schedule.agent, content=schedule.prompt, cron=schedule.cron,
            at_us=schedule.at_us, tz=schedule.tz, session=schedule.session,
            source=schedule.source, missed=schedule.missed, overlap=schedule.overlap,
            ends_us=schedule.ends_us, by=schedule.made_by,
        )  # fmt: skip
        return await self._link.ask("POST", "/schedules", Schedule, body)

    async def all(self) -> list[Schedule]:
        """See `Schedules.all`."""
        return (await self._link.ask("GET", "/schedules", Plans)).schedules

    async def get(self, name: str) -> Schedule:
        """See `Schedules.get`."""
        return (await self._view(name)).schedule

    async def history(self, name: str) -> list[Past]:
        """See `Schedules.history`."""
        return [Past(past.run, past.row) for past in (await self._view(name)).runs]

    async def pause(self, name: str) -> Schedule:
        """See `Schedules.pause`."""
        return await self._link.ask("POST", f"/schedules/{part(name)}/pause", Schedule)

    async def resume(self, name: str) -> Schedule:
        """See `Schedules.resume`."""
        return await self._link.ask("POST", f"/schedules/{part(name)}/resume", Schedule)

    async def remove(self, name: str) -> None:
        """See `Schedules.remove`."""
        await self._link.octets("DELETE", f"/schedules/{part(name)}")

    async def run_now(self, name: str) -> str:
        """See `Schedules.run_now`."""
        return (await self._link.ask("POST", f"/schedules/{part(name)}/now", Ran)).session

    async def _view(self, name: str) -> PlanView:
        return await self._link.ask("GET", f"/schedules/{part(name)}", PlanView)


class RemoteEngine(Engine):
    """The engine of a server. `kit.store` reads the server's."""

    def __init__(self, kit: Kit, link: Link) -> None:
        super().__init__(idle(kit))
        self.link = link
        self.schedules = RemoteSchedules(self, link)
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._listening: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin nothing: the server polls, wakes and fires."""
        return self

    async def close(self) -> None:
        """Let go of the connection; the server goes on."""
        self._closing = True
        waking, listening = list(self._waking.values()), list(self._listening)
        for task in listening:
            task.cancel()
        await asyncio.gather(*waking, *listening, return_exceptions=True)
        await super().close()

    async def info(self) -> Info:
        """Return who we are there, and what there is."""
        return await self.link.ask("GET", "/info", Info)

    async def nodes(self) -> list[Node]:
        """Return the processes that share the server's store, by name."""
        return (await self.link.ask("GET", "/nodes", Nodes)).nodes

    async def node(self, name: str) -> NodeView:
        """Return one of them with what it owns. Raises `NotFound` (E-NODE-UNKNOWN)."""
        return await self.link.ask("GET", f"/nodes/{part(name)}", NodeView)

    async def drain_node(self, name: str) -> None:
        """Tell one of them to end. Raises `Forbidden` (E-ROLE), `NotFound` (E-NODE-UNKNOWN),
        `Conflict` (E-NODE-DEAD).
        """
        await self.link.ask("POST", f"/nodes/{part(name)}/drain", Node)

    async def definition(self, name: str) -> AgentSpec:
        """Return an agent as the server has it. Raises `NotFound` (E-AGENT-UNKNOWN)."""
        return await self.link.ask("GET", f"/agents/{part(name)}", AgentSpec)

    async def register(self, agent: Agent) -> AgentSpec:
        """Return the server's definition of that agent, which must say the same: its code runs
        there. Raises `NotFound` (E-AGENT-UNKNOWN), `Conflict` (E-CODE-DRIFT).
        """
        there = await self.definition(agent.name)
        here = agent.spec([])
        tools = self._plain_tools(agent)
        if tools is not None:
            here = replace(here, tools=tuple(tool.spec for tool in tools))
        differs = [
            name
            for name in AgentSpec.__struct_fields__
            if getattr(here, name) != getattr(there, name)
        ]
        if tools is None and "tools" in differs:
            differs.remove("tools")  # which a toolset has is known where it is open
        if "tools" in differs and [t.terms for t in here.tools] == [t.terms for t in there.tools]:
            differs.remove("tools")
        if differs:
            raise Conflict(
                "E-CODE-DRIFT",
                f"{self.link.url} has another agent {agent.name} than the one given here: "
                f"{', '.join(differs)} differ. Nothing was begun.",
                "Start the server with this definition, or name the agent instead of giving it.",
            )
        return there

    def _plain_tools(self, agent: Agent) -> Sequence[Tool] | None:
        """Return the agent's tools where all are known without opening anything."""
        found: list[Tool] = []
        if agent.workspace:
            found += self.kit.workspace_tools(agent.where)
        for tool in agent.tools:
            if not isinstance(tool, Tool) or tool.spec.source:
                return None
            found.append(tool)
        return found

    async def session(
        self,
        session_id: str | None = None,
        agent: Agent | str | None = None,
        *,
        source: str = "",
        adopt: bool = False,
    ) -> Session:
        """See `Engine.session`. A directory of this machine is no workspace there: `InvalidRequest`
        (E-REMOTE-HERE).
        """
        if source:
            raise here_only("A directory of this machine")
        if agent is not None:
            spec = await self.register(agent) if isinstance(agent, Agent) else None
            name = spec.name if spec is not None else str(agent)
            return await self.open(Create(name, session_id or "", adopt=adopt))
        if session_id is None or await self.kit.store.session(session_id) is None:
            raise NotFound("E-SESSION-UNKNOWN", f"There is no session {session_id}.", "perdure ls")
        return RemoteSession(self, session_id)

    async def open(self, wanted: Create) -> Session:
        """Open a session there, as `wanted` says."""
        if wanted.id:
            part(wanted.id)
        made = await self.link.ask("POST", "/sessions", Opened, wanted)
        return RemoteSession(self, made.row.id)

    async def rules(self) -> list[Grant]:
        """See `Engine.rules`."""
        return (await self.link.ask("GET", "/rules", Rules)).rules

    async def revoke_rule(self, name: str, *, by: str = "") -> None:
        """See `Engine.revoke_rule`."""
        await self.link.octets("DELETE", f"/rules/{part(name)}", by=by)

    async def bring(
        self, lines: Iterable[bytes] | AsyncIterable[bytes], name: str = "", *, by: str = ""
    ) -> str:
        """See `Engine.bring`. The server checks the chain."""
        if isinstance(lines, AsyncIterable):
            lines = [line async for line in lines]
        data = b"\n".join(line.rstrip(b"\n") for line in lines) + b"\n"
        answer = await self.link.octets("POST", "/import", data, name=name)
        return self.link.read(answer, Opened).row.id

    async def changes(self, first: str, last: str, sessions: Sequence[str]) -> tuple[Change, ...]:
        """Return what differs between two snapshots, which those sessions (one or two) made."""
        names = {"first": first, "last": last}
        if len(sessions) > 1:
            names["other"] = sessions[1]
        path = f"/sessions/{part(sessions[0])}/changes"
        found = await self.link.ask("GET", path, FileChanges, **names)
        return tuple(Change(c.path, c.kind, c.before, c.after) for c in found.changes)

    def keep(self, task: asyncio.Task[None]) -> None:
        """Remember a task that listens, to end it when we close."""
        self._listening.add(task)
        task.add_done_callback(self._listening.discard)

    def wake(self, session_id: str) -> None:
        """See to it that the server works on the session."""
        running = self._waking.get(session_id)
        if not self._closing and (running is None or running.done()):
            self._waking[session_id] = asyncio.create_task(self._wake(session_id))

    async def _wake(self, session_id: str) -> None:
        with contextlib.suppress(PerdureError):  # who may only read does not wake
            await self.link.ask("POST", f"/sessions/{part(session_id)}/wake", Row, By())


def here_only(what: str) -> InvalidRequest:
    """Return the error for what has no meaning at a server."""
    return InvalidRequest(
        "E-REMOTE-HERE",
        f"{what} has no meaning at a server. Nothing was done.",
        "PERDURE_URL= perdure …    works on this machine",
    )


def idle(kit: Kit) -> Kit:
    """Return the kit of a process that works on nothing."""
    return dataclasses.replace(kit, clerk=True, schedules=False, wakes=False)
