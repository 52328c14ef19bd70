"""Simulated runs in which calls wait: for people who allow once or for good, for clients who
answer twice or late, for moments, for signals, and for the next attempt after an error.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from perdure.core.agent import Effect, EnvironmentSpec, Limits, OnError, RetryPolicy, ToolSpec
from perdure.core.content import ReplyItem, ToolCall
from perdure.core.errors import Conflict, InvalidRequest, NotFound, error_info
from perdure.core.events import Event
from perdure.core.grants import Scope
from perdure.core.state import ActionState
from perdure.core.step import Sleep, next_step
from perdure.engine.agent import Agent
from perdure.engine.session import Session
from perdure.ports.model import Delta, ModelReply, ModelRequest
from perdure.ports.tool import Tool, ToolContext, ToolFailed, ToolOutput
from perdure.testing.faults import FaultPlan, Process
from perdure.testing.sim_disks import Disk
from perdure.testing.sim_model import SimModel
from perdure.testing.sim_tools import NAMES, AgentPlan, SimTool, spec_of
from perdure.testing.sim_user import User
from perdure.testing.simloop import Owner, SimLoop
from perdure.testing.simulation import Build, Simulation
from perdure.testing.wait_checks import BUSY, TOLD, check_waits
from perdure.testing.world import World
from perdure.tools.client import client_tool
from perdure.tools.waiting import sleep, wait_for

SIGNALS: Final = ("ship", "bill")
FLAKY: Final[Mapping[str, Effect]] = {
    "scan": Effect.READ,
    "fetch": Effect.IDEMPOTENT,
    "book": Effect.ONCE,
}
FLAKY_ASKS: Final[Mapping[str, str]] = {"book": "n >= 3"}
_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
CONDITIONS: Final = ("", "", "n == 3", "n >= 3", "n < 5")
SAID_MAX: Final = 12
OFTEN: Final = ("book", "book", "book", "sleep", "wait_for", "form")


class WaitsModel(SimModel):
    """A model that calls what waits as often as what runs."""

    def plan(self, dice: Random, place: int, request: ModelRequest) -> tuple[ReplyItem, ...]:
        """Return what is said at this place."""
        said = super().plan(dice, min(place, 1) if place < 20 else place, request)
        return tuple(_fitting(dice, i) if isinstance(i, ToolCall) else i for i in said)

    async def _fail(
        self, session: str, dice: Random, request: ModelRequest
    ) -> AsyncIterator[Delta | ModelReply]:
        """Fail now and then: other kinds of runs do so more often."""
        if dice.random() < 0.3:
            async for piece in super()._fail(session, dice, request):
                yield piece


def _fitting(dice: Random, call: ToolCall) -> ToolCall:
    tool = dice.choice(OFTEN) if dice.random() < 0.5 else call.tool
    call = replace(call, tool=tool)
    match tool:
        case "sleep":
            seconds = dice.choice((0, 0.5, 20, 400))
            return replace(call, arguments=f'{{"seconds": {seconds}}}')
        case "wait_for":
            limit = dice.choice(("", ', "timeout_s": 30', ', "timeout_s": 900'))
            return replace(call, arguments=f'{{"event": "{dice.choice(SIGNALS)}"{limit}}}')
        case "form":
            return replace(call, arguments="{}")
        case "book" if dice.random() < 0.5:  # much that is asked about, and works
            return replace(call, arguments=f'{{"n": {dice.choice((3, 3, 4, 6))}}}')
        case "fetch" | "book" | "scan":
            act = dice.choice(("busy", "busy", "told", "no", "bug"))
            return replace(call, arguments=f'{{"n": {dice.randrange(6)}, "act": "{act}"}}')
        case _:
            return call


class FlakyTool:
    """Fails `n` modulo 3 times, in the way that `act` says: with an error that certainly had no
    effect and can pass (busy), with one that can pass and may have had (told), with one that cannot
    (no), or as no tool should (bug).
    """

    def __init__(self, world: World, owner: Owner, spec: ToolSpec) -> None:
        self._world = world
        self._owner = owner
        self.spec = spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Fail, or happen."""
        call = (context.session_id, context.call_id)
        self._world.attempts[call] += 1
        await self._world.point(self._owner, f"{self.spec.name}.before")
        if context.attempt <= arguments["n"] % 3:
            return self._fail(str(arguments.get("act", "busy")))
        if self.spec.effect is not Effect.READ:  # the start of a read need not be on disk yet
            self._world.acting(*call)
        self._world.performed[call] += 1
        self._world.done[context.idempotency_key] += 1
        await self._world.point(self._owner, f"{self.spec.name}.after")
        return ToolOutput(f"{self.spec.name} done")

    @staticmethod
    def _fail(act: str) -> ToolOutput:
        if act == "bug":
            raise ValueError("a tool that raises what no tool should raise")
        if act == "told":
            told = error_info(TOLD, "tool", "told", retryable=True)
            return ToolOutput("told", error=told)
        raise ToolFailed(error_info(BUSY, "tool", act, retryable=act != "no"))

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Nobody can tell."""
        return None


@dataclass(frozen=True)
class WaitPlan(AgentPlan):
    """What is drawn for an agent whose calls wait."""

    attempts: int = 1
    on_error: OnError = "model"
    expires_s: float = 7 * 24 * 3600.0


class WaitUser(User):
    """Somebody who answers, signals and grants, and who is not the only one."""

    def __init__(self, stage: "Waits", session: str, dice: Random) -> None:
        super().__init__(stage, session, dice)
        self._waits = stage
        self._told = 0
        self._met: dict[str, ActionState] = {}  # all actions this person has ever seen

    async def _act(self) -> None:
        match self._dice.randrange(9):
            case 0 | 1:
                await self.signal(self._dice.choice(SIGNALS))
            case 2 | 3 | 4:
                await self.decide_something()
            case 5:
                await self._revoke()
            case 6:
                await self._come_late()
            case _:
                await super()._act()

    async def signal(self, name: str) -> None:
        """Tell the session of an event; now and then twice under one key."""
        self._told += 1
        key = f"sig-{self.session}-{self._told}"
        text = f"{name} {self._told}"
        self._world.note(f"user: signal {key} {name}")

        async def send(process: Process) -> bool:
            return await Session(process.running, self.session).signal(name, text, key=key)

        for _ in range(self._dice.choice((1, 1, 2))):
            await self.request(send)
        self._world.signalled[key] = (self.session, name, text)

    async def decide_something(self) -> None:
        """Decide or answer one open action; sometimes two people do, and not the same."""
        if self._dice.random() < 0.2:
            await self._revoke()
        actions = list(self._waits.state(self.session).actions.values())
        if not actions:
            return
        action = self._dice.choice(actions)
        self._met[action.id] = action
        if action.kind == "answer":
            texts = [f"answer {self._dice.randrange(1000)}" for _ in range(2)]
            times = self._dice.choice((1, 2))
            await asyncio.gather(*(self._answer(action, text) for text in texts[:times]))
            if self._dice.random() < 0.2:
                await self._answer(action, f"answer, late {self._dice.randrange(1000)}")
        elif action.kind == "approve" and self._dice.random() < 0.6:
            await self._grant(action)
        else:
            deciding = [self._decision(action) for _ in range(self._dice.choice((1, 1, 2)))]
            await asyncio.gather(*(self._decide(each) for each in deciding))

    async def _come_late(self) -> None:
        """Decide something, or answer it, that was mostly over long ago."""
        for name in list(self._met)[-3:-2]:
            action = self._met[name]
            if action.kind == "answer":
                await self._answer(action, f"answer, much later {self._dice.randrange(1000)}")
            else:
                await self._decide(self._decision(action))

    async def _answer(self, action: ActionState, text: str) -> None:
        failed = self._dice.random() < 0.25
        self._world.note(f"user: answers {self.session}:{action.call_id} {text}, failed: {failed}")
        self._world.decided.add((self.session, action.id, "failed" if failed else "done"))
        self._world.answers.add((self.session, action.call_id, text))
        await self._ask(lambda s: s.answer(action.call_id, text, failed=failed, by="user"))

    async def _grant(self, action: ActionState) -> None:
        scope: Scope = self._dice.choice(("session", "session", "rule"))
        when = self._dice.choice(CONDITIONS)
        lasts_s = self._dice.choice((None, None, 15, 300))
        until_us = None if lasts_s is None else self._world.now_us() + lasts_s * 1_000_000
        said = f"{scope} {when!r} {lasts_s}"
        self._world.note(f"user: grants {self.session}:{action.id} {said}")
        self._world.decided.add((self.session, action.id, "allow"))
        await self._ask(
            lambda s: s.allow(
                action.id, by="user", seen=action.digest, scope=scope, when=when, until_us=until_us
            )
        )
        if self._count < SAID_MAX:
            await self._say("message")  # the grant is for what comes

    async def _revoke(self) -> None:
        grants = list(self._waits.state(self.session).grants)
        if grants:
            name = self._dice.choice(grants)
            self._world.note(f"user: revokes {self.session}:{name}")
            await self._ask(lambda s: s.revoke(name, by="user"))
            if self._count < SAID_MAX:
                await self._say("message")  # it counts no more for what comes

    async def _ask(self, work: Any) -> None:
        async def send(process: Process) -> Event | None:
            try:
                return await work(Session(process.running, self.session))  # type: ignore[no-any-return]
            except (Conflict, InvalidRequest, NotFound):
                return None  # somebody was faster, or its turn is over

        answer = await self.request(send)
        known = self._world.events(self.session)
        if answer is not None and known[answer.seq - 1 : answer.seq] != [answer]:
            self._world.violated("acknowledged before durable", f"{self.session}: {answer.type}")


class Waits(Simulation):
    """A run with calls that wait."""

    def __init__(
        self, seed: int, loop: SimLoop, disk: Disk, build: Build, faults: FaultPlan | None
    ) -> None:
        super().__init__(seed, loop, disk, build, faults)
        dice = Random(seed + 7_000_003)
        self.plans: dict[str, AgentPlan] = {n: _draw(dice, p) for n, p in self.plans.items()}

    async def live(self) -> None:
        """Let everybody do what they came for, and stay for longer: grants count afterwards."""
        await asyncio.gather(*(u.live(self._dice.randrange(3, 12)) for u in self.users))

    def _jump(self, dice: Random) -> None:
        """Let the clock jump forwards: set back, a moment would come twice, and "never early" would
        mean nothing.
        """
        seconds = dice.choice((0.5, 30, 2000))
        self.world.note(f"** the clock jumps by {seconds} s")
        self.world.clock_offset_us += int(seconds * 1_000_000)

    def user(self, session: str) -> WaitUser:
        """Return the person at a session."""
        return WaitUser(self, session, Random(f"{self.seed}{session}"))

    def model(self, process: Process) -> SimModel:
        """Return a process's connection to the provider."""
        return WaitsModel(self.world, process, self.seed)

    def _agent(self, process: Process, session: str) -> Agent:
        plan = self.plans[session]
        assert isinstance(plan, WaitPlan)
        policy = RetryPolicy(attempts=plan.attempts, base_s=2.0, cap_s=30.0)
        tools: list[Tool] = [SimTool(self.world, process, name) for name in plan.tools]
        for name, effect in FLAKY.items():
            spec = replace(
                spec_of("look"),
                name=name,
                effect=effect,
                ask=FLAKY_ASKS.get(name, ""),
                retry=policy,
                on_error=plan.on_error,
            )
            tools.append(FlakyTool(self.world, process, spec))
        form = client_tool(name="form", parameters=_OBJECT)
        return Agent(
            name=session,
            model=f"sim:{session}",
            instructions="Wait as planned.",
            tools=[*tools, form, sleep, wait_for],
            limits=plan.limits,
            retry=plan.retry,
            environment=EnvironmentSpec(kind="sim"),
            max_output_tokens=200,
            approval_expires_s=plan.expires_s,
        )

    async def _rests(self, user: User) -> bool:
        rests = await super()._rests(user)
        match next_step(self.state(user.session)):
            case Sleep(timers=timers) if isinstance(user, WaitUser):
                for name in {timer.signal: None for timer in timers if timer.due_us is None}:
                    await user.signal(name)
            case _:
                pass
        return rests

    def check(self) -> None:
        """Look for what must not be."""
        check_waits(self)


def _draw(dice: Random, plan: AgentPlan) -> WaitPlan:
    return WaitPlan(
        tools=tuple(dice.sample(NAMES, 2)),
        limits=Limits(
            steps=dice.choice((6, 100, 100)),
            tool_calls=dice.choice((8, 500, 500)),
            wall_s=None,
            tokens=dice.choice((plan.limits.tokens, None, None)),
            usd=dice.choice((plan.limits.usd, None, None)),
        ),
        retry=plan.retry,
        attempts=dice.choice((1, 2, 4)),
        on_error=dice.choice(("model", "model", "ask", "ask", "fail")),
        expires_s=dice.choice((5.0, 300.0, 7 * 24 * 3600.0)),
    )
