"""The people of the simulated world: they write, steer, interrupt, decide, repeat themselves, and
follow what happens. They live outside of every process and try again when one dies on them.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, Final, Protocol, TypeVar

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.content import Text
from perdure.core.errors import Conflict, InvalidRequest, NotFound, PerdureError, SessionBusy
from perdure.core.events import Decision, Event
from perdure.core.inbox import Decide, Say
from perdure.core.state import ActionState, Phase, State
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.testing.faults import Process
from perdure.testing.simloop import SimulationStuck
from perdure.testing.world import Posted, World

T = TypeVar("T")

TRIES: Final = 200
_TOLD: Final = ("E-ACTION-DECIDED", "E-ACTION-REFUSED", "E-SESSION-CLOSED")


class Gone(Exception):
    """The process died before it answered."""


async def ask(world: World, process: Process, work: Callable[[], Awaitable[T]]) -> T:
    """Let `process` do something for an outsider. Raises `Gone` when it dies over it."""

    async def run() -> T:
        return await work()

    task = world.loop.start(process, run(), name=f"request to {process.name}")
    await asyncio.wait({task, process.died}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    raise Gone


class Stage(Protocol):
    """Where people meet processes."""

    @property
    def world(self) -> World: ...

    def state(self, session: str) -> State: ...

    def raised_limits(self, session: str) -> Limits: ...

    async def somebody(self) -> Process: ...


class User:
    """One person at one session."""

    def __init__(self, stage: Stage, session: str, dice: Random) -> None:
        self._stage = stage
        self._world = stage.world
        self.session = session
        self._dice = dice
        self._count = 0
        self.patience = 20

    async def live(self, actions: int) -> None:
        """Do some things, with pauses, and leave."""
        await self._say("message")
        for _ in range(actions):
            await self._bide()
            await self._act()
        if any("poison" in text for _, text in self._world.story):
            await asyncio.sleep(120)  # long enough to see whether it is tried for ever

    async def _bide(self) -> None:
        """Wait a little, or for a moment at which acting is awkward."""
        match self._dice.randrange(5):
            case 0:
                await self._until(lambda state: state.turn and state.turn.model)
            case 1 | 2:
                await self._until(_runs_a_call)
            case 3:
                await self._until(lambda state: state.actions)
            case _:
                await asyncio.sleep(self._dice.choice((0, 0.01, 0.5, 5, 70)))

    async def _until(self, due: Callable[[State], object]) -> None:
        for _ in range(25):
            if due(self._stage.state(self.session)):
                return
            await asyncio.sleep(self._dice.choice((0.001, 0.05, 0.5, 3)))

    async def _act(self) -> None:
        match self._dice.randrange(15):
            case 0 | 1 | 2:
                await self._say("message")
            case 3 | 4:
                await self._say("steer")
            case 5 | 6:
                await self._say("interrupt")
            case 7:
                await self._say("pause")
            case 8:
                await self._say("resume")
            case 9:
                await self._say("message", twice=True)
            case 10:
                await self._update(e.SessionUpdated(limits=self._stage.raised_limits(self.session)))
            case 11:
                await self._adopt()
            case _:
                await self.decide_something()

    async def letters(self, process: Process) -> int:
        """Return how many letters nobody has taken."""
        return len(await process.running.kit.store.inbox(self.session))

    async def _say(self, kind: e.InputKind, *, twice: bool = False) -> None:
        self._count += 1
        key = f"{self.session}-{self._count}"
        text = f"{kind} {self._count}" if kind in ("message", "steer") else ""
        post = Say(kind, (Text(text),) if text else (), by="user")
        self._world.note(f"user: {kind} {key}")

        async def send(process: Process) -> bool:
            return await Session(process.running, self.session).post(post, key)

        times = 2 if twice else 1
        await asyncio.gather(*(self.request(send) for _ in range(times)))
        self._world.acked.append(Posted(self.session, key, kind, text))

    async def _adopt(self) -> None:
        """Move the session to a longer definition: the next context is larger than counted."""
        spec = self._stage.state(self.session).spec
        longer = replace(spec, instructions=spec.instructions + " Take more care." * 40)
        await self._update(e.SessionUpdated(agent=longer))

    async def _update(self, update: e.SessionUpdated) -> None:
        self._world.note(f"user: update {self.session}")

        async def send(process: Process) -> None:
            await Session(process.running, self.session).update(update)

        await self.request(send)

    async def resume(self) -> None:
        """Go on after a pause or a parking."""
        self.patience -= 1
        if not self.patience:
            self._world.violated("liveness", f"{self.session} parks itself again and again")
        await self._say("resume")

    async def decide_something(self) -> None:
        """Answer one open action, if there is one; now and then twice, or with other arguments."""
        actions = list(self._stage.state(self.session).actions.values())
        if not actions:
            return
        action = self._dice.choice(actions)
        decision = self._decision(action)
        times = self._dice.choice((1, 1, 1, 2))
        await asyncio.gather(*(self._decide(decision) for _ in range(times)))

    def _decision(self, action: ActionState) -> Decide:
        if action.kind != "approve":
            answers: tuple[Decision, ...] = ("done", "failed", "rerun")
            choice = self._dice.choice(answers)
            return Decide(action.id, choice, "user", "no", seen=action.digest, result="as I saw")
        if self._dice.random() < 0.3:
            return Decide(action.id, "deny", "user", "not today", seen=action.digest)
        edited = None
        if self._dice.random() < 0.3:
            act = self._dice.choice(("ok", "slow", "poison"))
            edited = json.dumps({"n": self._dice.choice((8, 8, 9)), "act": act})
        return Decide(action.id, "allow", "user", seen=action.digest, arguments=edited)

    async def _decide(self, decision: Decide) -> None:
        self._world.note(f"user: {decision.decision} {self.session}:{decision.action_id}")
        self._world.decided.add((self.session, decision.action_id, decision.decision))

        async def send(process: Process) -> Event:
            session = Session(process.running, self.session)
            if decision.decision == "allow":
                return await session.allow(
                    decision.action_id, by="user", seen=decision.seen, arguments=decision.arguments
                )
            return await session.decide(decision)

        try:
            answer = await self.request(send)
        except (InvalidRequest, Conflict):
            return  # decided by somebody else, or its turn is over
        known = self._world.events(self.session)
        if len(known) < answer.seq or known[answer.seq - 1] != answer:
            self._world.violated(
                "acknowledged before durable", f"{self.session}: the answer {answer.type}"
            )

    async def request(self, work: Callable[[Process], Awaitable[T]]) -> T:
        """Ask any living process, again and again until one has answered."""
        for _ in range(TRIES):
            process = await self._stage.somebody()
            try:
                return await ask(self._world, process, partial(work, process))
            except (InvalidRequest, NotFound):
                raise
            except Conflict as error:
                if error.code in _TOLD:
                    raise
                await asyncio.sleep(self._dice.choice((0.1, 3, 20)))
            except (Gone, PerdureError):
                await asyncio.sleep(self._dice.choice((0.1, 3, 20)))
        raise SimulationStuck("nobody answers")


def _runs_a_call(state: State) -> bool:
    return any(call.phase is Phase.STARTED for call in state.open_calls)


class Reader:
    """Follows one session, and goes on elsewhere where it was when its process dies."""

    def __init__(self, stage: Stage, session: str, dice: Random) -> None:
        self._stage = stage
        self._world = stage.world
        self._session = session
        self._dice = dice

    async def follow(self) -> None:
        """Read for ever."""
        while True:
            process = await self._stage.somebody()
            try:
                await ask(self._world, process, partial(self._read, process.running))
            except Gone:
                pass
            except SessionBusy as error:
                self._world.violated("follower", f"{self._session}: {error}")
            except PerdureError:
                pass  # what its driver died of; another connection may fare better
            await asyncio.sleep(self._dice.choice((0, 1, 30)))

    async def _read(self, engine: Engine) -> None:
        seen = self._world.seen[self._session]
        async for item in Session(engine, self._session).follow(len(seen)):
            if isinstance(item, Event):
                self._take(seen, item)
            if self._dice.random() < 0.05:
                await asyncio.sleep(self._dice.choice((0.1, 10)))
            if self._dice.random() < 0.02:
                return

    def _take(self, seen: list[Event], item: Event) -> None:
        if item.seq != len(seen) + 1:
            self._world.violated("follower", f"{self._session}: event {item.seq} after {len(seen)}")
            return
        known: list[Any] = self._world.events(self._session)
        if len(known) < item.seq or known[item.seq - 1] != item:
            self._world.violated(
                "acknowledged before durable", f"{self._session}: event {item.seq} {item.type}"
            )
        seen.append(item)
