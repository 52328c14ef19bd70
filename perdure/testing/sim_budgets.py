"""Simulated runs under limits that are reached: steps, calls, tokens and money, for trees and for
sessions without subagents, small trees and wide ones.

When all has come to rest, people raise what a session stopped at, as the error says; then it goes
on.
"""

import re
from collections.abc import Mapping
from dataclasses import replace as with_changes
from random import Random
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e
from perdure.core.agent import Limits
from perdure.core.budget import Price
from perdure.core.content import ReplyItem, Text, ToolCall
from perdure.core.errors import ErrorInfo
from perdure.ports.model import ModelRequest
from perdure.testing.budget_checks import told
from perdure.testing.faults import FaultPlan, Process
from perdure.testing.sim_disks import Disk
from perdure.testing.sim_model import SimModel
from perdure.testing.sim_trees import HELPER, TASK, TreeModel, TreePlan, Trees, TreeUser
from perdure.testing.simloop import SimLoop
from perdure.testing.simulation import Build

WIDE: Final = 50
WIDE_EVERY: Final = 25  # seeds; a wide tree costs as much as some thirty others
ROUNDS: Final = 8
PRICES: Final = (Price(2.0, 8.0), Price(0.3, 0.0), Price(15.0, 75.0, cached=1.5))
PLENTY: Final = Limits(steps=5_000, tool_calls=5_000, wall_s=1e9, tokens=50_000_000, usd=5_000.0)
_RAISE: Final = re.compile(r"perdure resume (\S+) .*--limit (\w+)=N")


class WideModel(TreeModel):
    """A model that gives out very many tasks at once, and does each in a word."""

    def plan(self, dice: Random, place: int, request: ModelRequest) -> tuple[ReplyItem, ...]:
        """Return all tasks first, and words after it."""
        name = self.session_of(request)
        if place or "." in name:
            return super().plan(dice, 12, request)[:1]
        calls = []
        for number in range(WIDE + dice.randrange(10)):
            call = f"{request.call_prefix}{request.first_call + number}"
            task = f'{{"task": "{TASK}{name}.{call}"}}'
            calls.append(ToolCall(call, HELPER, task, f"v-{call}"))
        return (Text("all of you"), *calls)


class Budgets(Trees):
    """A run in which limits are reached."""

    steps_max = 600_000

    def __init__(
        self, seed: int, loop: SimLoop, disk: Disk, build: Build, faults: FaultPlan | None
    ) -> None:
        self.wide = seed % WIDE_EVERY == 7
        super().__init__(seed, loop, disk, build, faults)
        dice = Random(seed + 6_000_011)
        self.price = dice.choice(PRICES)
        priced = dice.random() < 0.95
        self.prices: Mapping[str, Price] = {"sim:*": self.price} if priced else {}
        if self.wide:
            self.sessions = self.sessions[:1]
            self.roots = self.roots[:1]
            self._bounds = with_changes(self._bounds, idle_s=30.0, follower_backlog=2000)

    def draw(self, dice: Random) -> Mapping[str, TreePlan]:
        """Draw a tree, or an agent that has no subagents."""
        drawn = dict(super().draw(dice))
        if self.wide:
            return {"lead": drawn["lead"], "aide": drawn["aide"]}
        return {"lead": drawn["lead"]} if dice.random() < 0.3 else drawn

    def draw_one(self, dice: Random, level: str) -> TreePlan:
        """Draw one agent of a tree."""
        drawn = super().draw_one(dice, level)
        if not self.wide:
            return drawn
        return with_changes(drawn, max_children=100, rules=(), max_depth=3)

    def draw_limits(self, dice: Random, level: str) -> Limits:
        """Draw limits: mostly some that are reached."""
        if self.wide:
            return Limits(
                steps=dice.choice((20, 200)) if level == "lead" else 5,
                tool_calls=dice.choice((30, 500)),
                tokens=dice.choice((None, 40_000, 120_000)),
                usd=dice.choice((None, 0.1, 0.4)),
            )
        return Limits(
            steps=dice.choice((1, 2, 4, 8, 100)),
            tool_calls=dice.choice((1, 2, 5, 500)),
            wall_s=10_000.0,
            tokens=dice.choice((None, 3_000, 6_000, 12_000, 30_000)),
            usd=dice.choice((None, 0.006, 0.02, 0.1)),
        )

    def model(self, process: Process) -> SimModel:
        """Return a process's connection to the provider."""
        kind = WideModel if self.wide else TreeModel
        return kind(self.world, process, self.seed, self.price)

    def check(self) -> None:
        """Look for what must not be."""
        super().check()
        for name in self.sessions:
            for event in self.world.events(name):
                if isinstance(event.payload, e.TurnEnded) and event.payload.status == "budget":
                    for finding in told(self, name, event):
                        self.world.violated("hint", finding)

    async def _settle(self) -> bool:
        if not await super()._settle():
            return False
        for user in list(self.users):
            if user.session in self.roots and isinstance(user, TreeUser):
                await self._go_on(user)
        return await super()._settle()

    async def _go_on(self, user: TreeUser) -> None:
        """Raise each limit that stops a session, as its error says, until none does any more."""
        asked: list[str] = []
        for _ in range(ROUNDS):
            state = self.state(user.session)
            error = state.last_error
            if state.last_status != "budget" or error is None or "PRICE" in error.code:
                return
            if error.code in asked:
                self.world.violated("raise", f"{user.session} stops again at {error.code}")
                return
            asked.append(error.code)
            await user.raise_limit(_raised(state.limits, error))
            await user.resume()
            if not await super()._settle():
                return


def _raised(limits: Limits, error: ErrorInfo) -> Limits:
    """Return the limits with the one raised that the error's hint names."""
    found = _RAISE.search(error.hint)
    name = found[2] if found else ""
    return replace(limits, **{name: getattr(PLENTY, name)}) if name else limits
