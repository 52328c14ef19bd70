"""Simulated runs in which agents have subagents, and these have some of their own.

A task names the session that is to do it, so the model knows for whom it speaks. People write to
anybody in a tree, decide for anybody, and stop, pause or close what they like.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import EnvironmentSpec, Limits, RetryPolicy, Rule, ToolSpec, Verdict
from perdure.core.content import ReplyItem, Text, ToolCall, UserItem
from perdure.core.errors import PerdureError
from perdure.core.inbox import Close, Decide
from perdure.core.state import ActionState
from perdure.engine.agent import Agent
from perdure.engine.kin import SOURCE
from perdure.engine.session import Session
from perdure.engine.subagents import Subagent, subagent
from perdure.ports.model import ModelRequest
from perdure.testing.faults import FaultPlan, Process
from perdure.testing.sim_disks import Disk
from perdure.testing.sim_model import SimModel, plan
from perdure.testing.sim_tools import NAMES, AgentPlan, SimTool
from perdure.testing.sim_user import User
from perdure.testing.simloop import SimLoop
from perdure.testing.simulation import Build, Simulation
from perdure.testing.tree_checks import check_trees

TASK: Final = "task for "
HELPER: Final = "helper"  # what every agent calls the one below it
LEVELS: Final = ("lead", "aide", "hand")


@dataclass(frozen=True)
class TreePlan(AgentPlan):
    """What is drawn for an agent that may have subagents."""

    rules: tuple[Rule, ...] = ()
    environment: str = "sim"
    max_depth: int = 3
    max_children: int = 3


class TreeModel(SimModel):
    """A model whose calls of subagents say for which session the task is."""

    def session_of(self, request: ModelRequest) -> str:
        """Return the session that asks: a child was told who it is."""
        for item in request.items:
            for part in item.content if isinstance(item, UserItem) else ():
                if isinstance(part, Text) and part.text.startswith(TASK):
                    return part.text.removeprefix(TASK)
        return request.model

    def plan(self, dice: Random, place: int, request: ModelRequest) -> tuple[ReplyItem, ...]:
        """Return what is said at this place; every other call goes to a subagent."""
        items = plan(dice, place, request)
        helpers = [tool for tool in request.tools if tool.source.startswith(SOURCE)]
        named = {tool.name for tool in helpers}
        return tuple(self._called(dice, request, helpers, named, item) for item in items)

    def _called(
        self,
        dice: Random,
        request: ModelRequest,
        helpers: list[ToolSpec],
        named: set[str],
        item: ReplyItem,
    ) -> ReplyItem:
        if not isinstance(item, ToolCall) or not helpers:
            return item
        if item.tool not in named and dice.random() < 0.5:
            return item
        name = item.tool if item.tool in named else dice.choice(helpers).name
        if dice.randrange(30) == 0:
            return replace(item, tool=name, arguments='{"task": " "}')
        task = f"{TASK}{self.session_of(request)}.{item.id}"
        return replace(item, tool=name, arguments=f'{{"task": "{task}"}}')


class TreeUser(User):
    """Somebody who knows all sessions of a tree."""

    def __init__(self, stage: "Trees", session: str, dice: Random) -> None:
        super().__init__(stage, session, dice)
        self._trees = stage
        self.closed = False

    async def _act(self) -> None:
        await self._trees.discover()
        family = [u for u in self._trees.family(self.session) if not u.closed]
        chosen = self._dice.choice(family) if self._dice.random() < 0.6 else self
        await chosen.act_alone()

    async def act_alone(self) -> None:
        """Do something to this session only."""
        if self._trees.state(self.session).parent and self._dice.randrange(25) == 0:
            await self.close()
        else:
            await super()._act()

    async def close(self) -> None:
        """Let nothing more happen in this session."""
        self.closed = True
        self._world.note(f"user: close {self.session}")

        async def send(process: Process) -> bool:
            key = f"close-{self.session}"
            return await Session(process.running, self.session).post(Close("user"), key)

        await self.request(send)

    async def raise_limit(self, limits: Limits) -> None:
        """Allow the session more."""
        await self._update(e.SessionUpdated(limits=limits))

    def _decision(self, action: ActionState) -> Decide:
        decision = super()._decision(action)
        state = self._trees.state(self.session)
        call = state.turn.calls.get(action.call_id) if state.turn else None
        if call is not None and call.call.tool not in NAMES:
            return replace(decision, arguments=None)  # a task names its session
        return decision


class Trees(Simulation):
    """A run with subagents."""

    whole_nodes = True  # a lease is a node's: it loses a tree as a whole

    def __init__(
        self, seed: int, loop: SimLoop, disk: Disk, build: Build, faults: FaultPlan | None
    ) -> None:
        super().__init__(seed, loop, disk, build, faults)
        dice = Random(seed + 5_000_011)
        self.sessions = self.sessions[:2]
        self.roots = tuple(self.sessions)
        self.family_plans = {root: self.draw(dice) for root in self.roots}
        self.plans: dict[str, AgentPlan] = {
            root: self.family_plans[root]["lead"] for root in self.roots
        }
        self._known = set(self.sessions)

    def draw(self, dice: Random) -> Mapping[str, TreePlan]:
        """Draw the agents of a tree, the one at its top first."""
        drawn = {level: self.draw_one(dice, level) for level in LEVELS}
        if dice.random() < 0.3:
            del drawn["hand"]
        return drawn

    def draw_one(self, dice: Random, level: str) -> TreePlan:
        """Draw one agent of a tree."""
        return TreePlan(
            tools=tuple(dice.sample(NAMES, dice.randrange(1, 4))),
            limits=self.draw_limits(dice, level),
            retry=RetryPolicy(attempts=dice.choice((2, 4))),
            rules=tuple(_rule(dice) for _ in range(dice.choice((0, 0, 1, 2)))),
            environment="none" if level == "hand" and dice.random() < 0.3 else "sim",
            max_depth=dice.choice((1, 2, 3)),
            max_children=dice.choice((1, 2, 3)),
        )

    def draw_limits(self, dice: Random, level: str) -> Limits:
        """Draw the limits of one agent of a tree."""
        return Limits(
            steps=dice.choice((4, 12, 100)),
            tool_calls=dice.choice((3, 12, 500)),
            wall_s=dice.choice((600.0, 3600.0, 10_000.0)),
            tokens=dice.choice((None, None, 20_000, 80_000)),
            usd=dice.choice((None, None, 0.05, 0.5)),
        )

    def model(self, process: Process) -> SimModel:
        """Return a process's connection to the provider."""
        return TreeModel(self.world, process, self.seed)

    def agents(self, process: Process) -> dict[str, Agent]:
        """Return the agent at the top of each tree, with all below it."""
        return {root: self._family(process, root) for root in self.roots}

    def _family(self, process: Process, root: str) -> Agent:
        below: Agent | None = None
        plans = self.family_plans[root]
        for level in reversed(list(plans)):
            drawn = plans[level]
            tools: list[SimTool | Subagent] = [SimTool(self.world, process, n) for n in drawn.tools]
            if below is not None:
                helper = subagent(
                    below,
                    name=HELPER,
                    max_depth=drawn.max_depth,
                    max_children=drawn.max_children,
                )
                tools.append(helper)
            below = Agent(
                name=root if level == "lead" else f"{root}{level}",
                model=f"sim:{root}",
                instructions="Do as planned.",
                tools=[t for t in tools if self.fits(t, drawn)],
                limits=drawn.limits,
                retry=drawn.retry,
                permissions=drawn.rules,
                environment=EnvironmentSpec(kind=drawn.environment),
                max_output_tokens=200,
            )
        assert below is not None
        return below

    @staticmethod
    def fits(tool: SimTool | Subagent, drawn: TreePlan) -> bool:
        """Whether an agent can have the tool."""
        return drawn.environment != "none" or not tool.spec.environment

    def user(self, session: str) -> TreeUser:
        """Return the person at a session."""
        return TreeUser(self, session, Random(f"{self.seed}{session}"))

    def family(self, root: str) -> list[TreeUser]:
        """Return the people at a session and at all below it."""
        mine = [u for u in self.users if u.session == root or u.session.startswith(f"{root}.")]
        return [u for u in mine if isinstance(u, TreeUser)]

    async def discover(self) -> None:
        """Meet the subagents that were made since. All can be written to once they have a task."""
        assert self.world.disk is not None
        for name in self.world.disk.sessions():
            if name in self._known:
                continue
            events = self.world.events(name)
            inputs = [ev.payload for ev in events if isinstance(ev.payload, e.InputAccepted)]
            if not any(p.kind == "message" for p in inputs):
                continue
            self._known.add(name)
            self.plans[name] = self.plan_of(name)
            self.sessions.append(name)
            self.read(name)
            self.users.append(self.user(name))

    def plan_of(self, session: str) -> TreePlan:
        """Return what was drawn for the agent of a session."""
        name = self.state(session).spec.name
        root = session.partition(".")[0]
        plans = self.family_plans.get(root, {})
        return plans.get(
            name.removeprefix(root) or "lead", self.family_plans[self.roots[0]]["lead"]
        )

    async def _catch_up(self) -> None:
        await self.discover()
        await super()._catch_up()
        await self._close_trees()

    async def _close_trees(self) -> None:
        """Close every tree at its top, and see whether somebody still works on it."""
        for user in list(self.users):
            if isinstance(user, TreeUser) and user.session in self.roots:
                await user.close()
        await asyncio.sleep(self.patience_s)
        for name in self.world.loop.pending("drive "):
            self.world.violated("drivers", f"{name} goes on though its tree is closed")
        for root in self.roots:
            if not self.state(root).closed:
                self.world.violated("drivers", f"{root} was to be closed")

    @property
    def patience_s(self) -> float:
        """How long a driver may stay at most, a few times over: one waits for those below it."""
        return 8 * self._bounds.idle_s + 200

    def check(self) -> None:
        """Look for what must not be."""
        try:
            check_trees(self)
        except PerdureError as error:
            self.world.violated("journal", f"it cannot be read: {error}")


def _rule(dice: Random) -> Rule:
    verdict = dice.choice((Verdict.DENY, Verdict.ASK))
    if dice.random() < 0.2:
        return Rule(HELPER, Verdict.ASK, reason="a helper costs money")
    return Rule(dice.choice(NAMES), verdict, f"n == {dice.randrange(10)}", "as drawn")
