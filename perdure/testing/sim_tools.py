"""Tools of the simulated world: one of each effect, with everything that tools do wrong.

What a call does is in its arguments (`act`), so the model's plan decides it and a second attempt
does the same again.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import msgspec

from perdure.core.agent import Effect, Limits, RetryPolicy, ToolSpec
from perdure.core.errors import InvalidRequest, error_info
from perdure.ports.tool import HearsLate, OutcomeUnknown, ToolContext, ToolFailed, ToolOutput
from perdure.testing.simloop import Owner
from perdure.testing.world import Entered, World

TIMEOUT_S: Final = 60.0
BIG_CHARS: Final = 100_000
ODD_TEXT: Final = "odd \0 \udcff \ud800 text"
ACTS: Final = (
    "ok",
    "ok",
    "ok",
    "ok",
    "raise",
    "slow",
    "hang",
    "big",
    "odd",
    "lost",
    "deaf",
    "bug",
    "poison",
)
_SCHEMA: Final = msgspec.Raw(
    b'{"type":"object","properties":{"n":{"type":"integer"},"act":{"type":"string"}},'
    b'"required":["n"]}'
)
_PLAIN: Final[Mapping[str, tuple[Effect, bool, str, str]]] = {
    # name: effect, works in the environment, ask, deny
    "look": (Effect.READ, False, "", ""),
    "peek": (Effect.READ, True, "", "n == 9"),
    "stock": (Effect.IDEMPOTENT, False, "n >= 7", ""),
    "pay": (Effect.ONCE, False, "n >= 5", "n == 9"),
    "send": (Effect.ONCE, False, "n >= 8", ""),
    "edit": (Effect.CONTAINED, True, "n >= 7", "n == 9"),
}
NAMES: Final = tuple(_PLAIN)
PROBING: Final = ("pay",)


def spec_of(name: str) -> ToolSpec:
    """Return the definition of one of `NAMES`."""
    effect, environment, ask, deny = _PLAIN[name]
    return ToolSpec(
        name=name,
        description=f"{name} of the simulated world",
        input_schema=_SCHEMA,
        effect=effect,
        ask=ask,
        deny=deny,
        environment=environment,
        mutates=effect is Effect.CONTAINED,
        timeout_s=TIMEOUT_S,
        source="sim",
    )


class SimTool:
    """One tool in the hands of one process."""

    def __init__(self, world: World, owner: Owner, name: str) -> None:
        self._world = world
        self._owner = owner
        self._spec = spec_of(name)

    @property
    def spec(self) -> ToolSpec:
        """See `Tool.spec`."""
        return self._spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Do what `act` says, with a place to die before, in the middle and after it."""
        if not isinstance(arguments.get("n"), int):
            raise InvalidRequest("E-TOOL-ARGUMENTS", "n must be an integer.")
        self._enter(arguments, context)
        await self._world.point(self._owner, f"{self._spec.effect}.before")
        act = arguments.get("act", "ok")
        if act == "bug":
            raise ValueError("a tool that raises what no tool should raise")
        try:
            await self._effect(act, arguments, context)
            await self._world.point(self._owner, f"{self._spec.effect}.after")
            return await self._outcome(act, arguments, context)
        except asyncio.CancelledError:
            if act == "deaf" and self._world.performed[context.session_id, context.call_id]:
                # It learns how it ended while it is being cancelled, and says so.
                return ToolOutput(f"{self._spec.name} ended all the same")
            raise

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """Say whether the effect happened, where this tool can know."""
        if self._spec.name not in PROBING:
            return None
        await self._world.point(self._owner, "probe")
        call = (context.session_id, context.call_id)
        if self._world.done[context.idempotency_key]:
            return ToolOutput(f"{self._spec.name} had happened")
        self._world.denied_probes[call] += 1
        raise ToolFailed(error_info("E-TOOL-NOT-DONE", "tool", "It did not happen."))

    def _enter(self, arguments: Mapping[str, Any], context: ToolContext) -> None:
        entered = Entered(
            self._spec.name,
            context.attempt,
            context.idempotency_key,
            json.dumps(arguments),
            self._owner.name,
            self._world.progress(context.session_id),
        )
        hurts = self._spec.effect is not Effect.READ
        self._world.enter(context.session_id, context.call_id, entered, hurts=hurts)

    async def _effect(self, act: str, arguments: Mapping[str, Any], context: ToolContext) -> None:
        if act == "poison" and self._spec.effect is not Effect.CONTAINED:
            await self._world.point(self._owner, "poison")
        await asyncio.sleep(40 if act == "slow" else self._world.dice.choice((0, 0, 0.3, 4)))
        if act == "hang" and self._spec.effect is not Effect.CONTAINED:
            await asyncio.sleep(2 * TIMEOUT_S)
        if self._spec.effect is Effect.CONTAINED:
            script = script_of(context.call_id, arguments)
            await context.sandbox.run(json.dumps(script))
        elif act != "lost" or arguments["n"] % 2:
            self._world.acting(context.session_id, context.call_id)
            self._world.performed[context.session_id, context.call_id] += 1
            self._world.done[context.idempotency_key] += 1
        context.progress("half-way\n")

    async def _outcome(
        self, act: str, arguments: Mapping[str, Any], context: ToolContext
    ) -> ToolOutput:
        name = f"{self._spec.name} {arguments['n']}"
        match act:
            case "raise":
                raise ToolFailed(error_info("E-SIM-RAISED", "tool", f"{name} failed as planned"))
            case "lost" if self._spec.effect is Effect.ONCE:
                if arguments["n"] % 3 == 0 and isinstance(context, HearsLate):
                    asyncio.get_running_loop().call_later(
                        20.0, context.late, ToolOutput(f"{name} came late")
                    )
                raise OutcomeUnknown(f"{name}: no answer came")
            case "big":
                return ToolOutput(name + "x" * BIG_CHARS, full=b"x" * 2 * BIG_CHARS)
            case "odd":
                return ToolOutput(name + ODD_TEXT)
            case _:
                return ToolOutput(f"{name} done")


def script_of(call_id: str, arguments: Mapping[str, Any]) -> list[list[Any]]:
    """Return what a contained call does to its workspace. Done twice, it shows."""
    number, act = arguments["n"], arguments.get("act", "ok")
    pause = 2 * TIMEOUT_S if act == "hang" else 0.5
    half_way = ["poison"] if act == "poison" else ["pause", pause]
    return [
        ["append", "log", f"<{call_id}"],
        ["write", f"file{number}", call_id],
        half_way,
        ["remove", f"file{(number + 1) % 10}"],
        ["append", "log", ">"],
    ]


@dataclass(frozen=True)
class AgentPlan:
    """What is drawn for the agent of one session."""

    tools: tuple[str, ...]
    limits: Limits
    retry: RetryPolicy


def draw_agent(dice: Random) -> AgentPlan:
    """Draw tools, limits and patience."""
    limits = Limits(
        steps=dice.choice((3, 100)),
        tool_calls=dice.choice((2, 500)),
        tokens=dice.choice((None, None, 2_000, 40_000)),
        usd=dice.choice((None, None, 0.01, 0.2)),
    )
    return AgentPlan(
        tools=tuple(dice.sample(NAMES, dice.randrange(1, len(NAMES) + 1))),
        limits=limits,
        retry=RetryPolicy(attempts=dice.choice((2, 4))),
    )
