"""The engine as one object: agents go in, sessions come out, drivers run behind it."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from perdure.core import events as e
from perdure.core.agent import AgentSpec
from perdure.core.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    LeaseLost,
    NotFound,
    PerdureError,
    SessionBusy,
    StaleAppend,
    Unavailable,
)
from perdure.core.grants import Grant
from perdure.core.rights import narrowed
from perdure.engine.agent import Agent
from perdure.engine.decisions import revoke_rule
from perdure.engine.drift import as_pinned, difference, missing
from perdure.engine.driver import Driver
from perdure.engine.export import Lines, import_session
from perdure.engine.grants import rules_in
from perdure.engine.hub import Hub
from perdure.engine.journal import Journal, load
from perdure.engine.kin import Tree, summed, tree_of, with_waiting
from perdure.engine.kit import Kit
from perdure.engine.lookout import left_lying, look_out
from perdure.engine.schedules import Schedules
from perdure.engine.session import Session
from perdure.engine.subagents import Subagent
from perdure.engine.trees import Trees, elsewhere
from perdure.engine.waker import Waker
from perdure.ports.store import SessionRow
from perdure.ports.tool import Tool, Toolset


class Engine:
    """Runs sessions. Use it as an async context manager; leaving it lets effects in flight go
    and gives up ownership, so that another process can go on at once.
    """

    driver_type: type[Driver] = Driver

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.hub = Hub(kit.bounds.follower_backlog)
        self.trees = Trees(self)
        self.schedules = Schedules(self)
        self.waker = Waker(self)
        self._opening: set[str] = set()
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._agents: dict[str, tuple[Agent, AgentSpec, Mapping[str, Tool]]] = {}
        self._toolsets: list[Toolset] = []
        self._drivers: dict[str, tuple[Driver, asyncio.Task[None]]] = {}
        self._own: list[asyncio.Task[None]] = []
        self._closing = False

    async def __aenter__(self) -> Self:
        self._own.append(asyncio.create_task(look_out(self), name="perdure poll"))
        if self.kit.wakes and not self.kit.clerk:
            self._own.append(asyncio.create_task(self.waker.run(), name="perdure waker"))
        if self.kit.schedules:
            self._own.append(asyncio.create_task(self.schedules.run(), name="perdure schedules"))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def drain(self, seconds: float) -> None:
        """Begin nothing new and wait, at most `seconds`, until what runs has ended; then `close`.

        Turns that are not over are gone on with by whoever opens the store next.
        """
        self._closing = True
        for driver, _ in self._drivers.values():
            driver.finish()
        tasks = [task for _, task in self._drivers.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    async def close(self) -> None:
        """Stop driving, close toolsets and the store."""
        self._closing = True
        self.trees.closing.set()
        tasks = [*self._own, *(task for _, task in self._drivers.values())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for toolset in self._toolsets:
            with contextlib.suppress(PerdureError):
                await toolset.close()
        await self.kit.store.close()

    async def register(self, agent: Agent) -> AgentSpec:
        """Make an agent's tools known here; opens its toolsets. Returns its definition as data."""
        known = self._agents.get(agent.name)
        if known is not None and known[0] is agent:
            return known[1]
        if agent.name in self._opening:
            raise InvalidRequest(
                "E-SUBAGENT-LOOP", f"Agent {agent.name} is a subagent of itself.", "Name it anew."
            )
        self._opening.add(agent.name)
        try:
            tools = await self._open_tools(agent)
        finally:
            self._opening.discard(agent.name)
        spec = agent.spec([tool.spec for tool in tools])
        for tool in tools:
            if isinstance(tool, Subagent) and tool.pinned is not None:
                narrowed(spec, spec.limits, tool.pinned)  # refused here, where its author looks
        self._agents[agent.name] = (agent, spec, {tool.spec.name: tool for tool in tools})
        self.waker.forget()
        return spec

    async def _open_tools(self, agent: Agent) -> list[Tool]:
        tools: list[Tool] = []
        if agent.workspace:
            tools.extend(self.kit.workspace_tools(agent.where))
        for given in agent.tools:
            if isinstance(given, Toolset):
                self._toolsets.append(given)
                tools.extend(await given.open())
            elif isinstance(given, Subagent):
                tools.append(given.bound(self.trees, await self.register(given.agent)))
            elif isinstance(given, Tool):
                tools.append(given)
            else:
                raise Unavailable(
                    "E-TOOL-PLAIN",
                    f"{getattr(given, '__name__', given)!s} is a plain function.",
                    "Put @tool above it.",
                )
        return tools

    async def session(
        self,
        session_id: str | None = None,
        agent: Agent | str | None = None,
        *,
        source: str = "",
        adopt: bool = False,
    ) -> Session:
        """Return the session of that id, making it when there is none and an agent is given, or the
        name of one that is registered.

        `source` is the directory its workspace begins with. An existing session keeps the agent
        version it is pinned to: another version raises `Conflict` (E-CODE-DRIFT) unless `adopt`,
        which moves the session to it. Raises `NotFound` without an agent.
        """
        spec = None
        if agent is not None:
            spec = await self.register(self._registered(agent) if isinstance(agent, str) else agent)
        name = session_id or self.kit.ids.session()
        row = await self.kit.store.session(name)
        session = Session(self, name)
        if row is None:
            if spec is None:
                raise NotFound("E-SESSION-UNKNOWN", f"There is no session {name}.", "perdure ls")
            await self.create(e.SessionCreated(name, spec, source))
        elif spec is not None and row.version != spec.version:
            await self.move(session, spec, adopt=adopt)
        return session

    def agent(self, name: str) -> Agent | None:
        """Return the agent of that name, if it was registered here."""
        known = self._agents.get(name)
        return known[0] if known else None

    def _registered(self, name: str) -> Agent:
        known = self.agent(name)
        if known is None:
            names = ", ".join(self.definitions) or "none"
            raise NotFound(
                "E-AGENT-UNKNOWN", f"No agent {name!r} is registered; there is: {names}."
            )
        return known

    @property
    def definitions(self) -> dict[str, AgentSpec]:
        """The agents that were registered here, as data, by name."""
        return {name: spec for name, (_, spec, _) in sorted(self._agents.items())}

    @property
    def driven(self) -> list[str]:
        """The sessions that this process is at work on."""
        return sorted(self._drivers)

    async def bring(self, lines: Lines, name: str = "", *, by: str = "") -> str:
        """Store an exported journal; return the session. See `export.import_session`."""
        return await import_session(self.kit.store, lines, name, by=by)

    async def sessions(self) -> list[SessionRow]:
        """Return all sessions, last updated first. One whose subagent waits for a person waits."""
        return with_waiting(await self.kit.store.sessions())

    async def rules(self) -> list[Grant]:
        """Return the rules in force: what people allowed beyond one session, by name."""
        return await rules_in(self.kit.store)

    async def revoke_rule(self, name: str, *, by: str = "") -> None:
        """Take a rule out of force, in all processes at once. Raises `NotFound`
        (E-GRANT-UNKNOWN).
        """
        maker = Session(self, name.rpartition(":")[0])
        await revoke_rule(self.kit, maker, name, by)

    async def tree(self, session_id: str) -> Tree:
        """Return the session with all its subagents, and what they used together.

        Raises `NotFound`.
        """
        rows = tree_of(await self.kit.store.sessions(), session_id)
        if not rows:
            raise NotFound("E-SESSION-UNKNOWN", f"There is no session {session_id}.", "perdure ls")
        return summed(rows)

    async def owns(self, session_id: str) -> bool:
        """Wait until it is known whether this process works on the session, and say so."""
        running = self._drivers.get(session_id)
        return running is not None and await running[0].owns()

    def drives(self, session_id: str) -> bool:
        """Whether this process is at work on the session."""
        return session_id in self._drivers

    def drop_lost(self) -> None:
        """Stop, at once, working on sessions that are not this process's any more."""
        for driver, _ in self._drivers.values():
            driver.stop_if_lost()

    async def let_go(self, session_id: str) -> None:
        """Stop driving a session here, at once; what is in flight is left as a crash leaves it."""
        running = self._drivers.get(session_id)
        if running is not None:
            running[1].cancel()
            await asyncio.wait([running[1]])

    async def tools_of(self, spec: AgentSpec) -> Mapping[str, Tool]:
        """Return the code behind a pinned definition, which must be known here by its name.

        Raises `NotFound` (E-AGENT-MISSING), `Conflict` (E-CODE-DRIFT).
        """
        known = spec.name in self._agents
        if not known and self.kit.agents is not None:
            known = await self.kit.agents.tools(spec) is not None
        if not known:
            raise missing(spec)
        return await self._toolbox(spec)

    def wake(self, session_id: str) -> None:
        """See to it that somebody works on the session: this process, unless another one does."""
        running = self._drivers.get(session_id)
        if running is not None:
            running[0].post_arrived()
            return
        if self._closing:
            return
        driver = self.driver_type(
            self.kit, self.hub, self._toolbox, self.wake, session_id, self.trees
        )
        driver.held = self.waker.held(session_id)
        task = asyncio.create_task(self._drive(driver, session_id), name=f"drive {session_id}")
        self._drivers[session_id] = (driver, task)

    async def _drive(self, driver: Driver, session_id: str) -> None:
        again = False
        try:
            driver.guest = not await self.trees.at_home(session_id)
            await driver.run()
            if driver.guest and self.trees.awaited[session_id]:
                again = True  # its tree became ours meanwhile, and the work is ours
            elif driver.guest:
                again = driver.left_work  # whoever owns the tree may be letting go of it just now
                self.hub.fail(session_id, elsewhere(session_id))
        except (LeaseLost, StaleAppend):
            again = True  # if another process works on it now, that will say so
        except SessionBusy:
            driver.woken_again()  # another process works on it, and its followers read on
            again = await left_lying(self, session_id) or self.trees.held_elsewhere(session_id)
        except Exception as error:  # noqa: BLE001  # one session's end must not be another's
            self.hub.fail(session_id, error)
            again = isinstance(error, Unavailable)  # the store may be back soon
        finally:
            driver.over()
            del self._drivers[session_id]
            self.waker.let_go(session_id, driver.held)
            for child in self.trees.below(session_id) if driver.worked else ():
                if child in self._drivers:  # they are driven where their root is, or not at all
                    self._drivers[child][1].cancel()
            self.trees.leave(session_id)
        if driver.woken_again():
            self.wake(session_id)
        elif again:
            loop = asyncio.get_running_loop()
            loop.call_later(self.kit.bounds.poll_s, self.wake, session_id)

    async def create(self, created: e.SessionCreated, *then: e.Payload) -> None:
        """Write session.created and `then`, unless somebody else does at the same moment."""
        name = created.session
        making = self._making.setdefault(name, asyncio.Lock())
        beside = making.locked() or name in self._drivers
        async with making:
            # Claimed twice by one process, a session would be lost to who is at work on it.
            if not (beside and await self.kit.store.session(name)):
                await self._create(created, then)

    async def _create(self, created: e.SessionCreated, then: Sequence[e.Payload]) -> None:
        try:
            claim = await self.kit.store.claim(created.session)
            try:
                if claim.seq == 0:
                    journal = await Journal.open(self.kit, claim)
                    journal.append(created, *then)
                    await journal.durable()
                    await journal.close()
            finally:
                await self.kit.store.release(claim)
        except Unavailable:
            # It may be ours now, with nobody at work on it who would let go of it.
            self._own.append(asyncio.create_task(self._let_go(created.session)))
            raise

    async def _let_go(self, session_id: str) -> None:
        """Give up a session that could not be given up when it was made."""
        while True:
            await asyncio.sleep(self.kit.bounds.poll_s)
            if session_id in self._drivers:
                return
            try:
                await self.kit.store.release(await self.kit.store.claim(session_id))
                return
            except PerdureError as error:
                if not isinstance(error, Unavailable):
                    return  # another process has it

    async def move(self, session: Session, spec: AgentSpec, *, adopt: bool) -> None:
        """Move a session to another definition of its agent, if that was asked for with `adopt`.

        Raises `Conflict` (E-CODE-DRIFT) without, `Forbidden` (E-SUBAGENT-RIGHTS).
        """
        state, _, _ = await load(self.kit.store, session.id)
        if state.parent:
            raise Forbidden(
                "E-SUBAGENT-RIGHTS",
                f"{session.id} is a subagent of {state.parent}: its definition was narrowed to "
                "its parent's rights when it began, and no other one can be put in its place.",
            )
        if adopt:
            await session.update(e.SessionUpdated(agent=spec))
            return
        raise Conflict(
            "E-CODE-DRIFT",
            f"{session.id} runs {state.spec.name} {state.version}; the definition given now is "
            f"{spec.version}: {difference(state.spec, spec)}. The session was not touched.",
            f"perdure resume {session.id} --adopt    to go on with the new definition",
        )

    async def _toolbox(self, spec: AgentSpec) -> Mapping[str, Tool]:
        """Return the code behind a pinned definition; it must still be the same tools."""
        if not spec.tools:
            return {}
        known = self._agents.get(spec.name)
        found = known[2] if known else None
        if found is None and self.kit.agents is not None:
            found = await self.kit.agents.tools(spec)
        if found is None:
            raise missing(spec)
        return as_pinned(spec, found)
