"""Engines that are wrong about what waits, each on purpose in one way. None of them is for use."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.codec import arguments_of
from perdure.core.events import Payload
from perdure.core.grants import Grant
from perdure.core.state import Phase
from perdure.engine.driver import Driver
from perdure.engine.journal import Journal
from perdure.engine.kit import Kit
from perdure.engine.runtime import Engine
from perdure.engine.waits import Held
from perdure.engine.waker import Waker
from perdure.engine.work import Work, context_of
from perdure.testing import broken_clients as clients, broken_timers as timers
from perdure.testing.broken import Variant
from perdure.testing.broken_engines import (
    AsksNobody,
    Rewrites,
    RunsAgain,
    with_driver,
    with_journal,
)
from perdure.testing.broken_errors import ForgetsAttempts, TriesOnceAgain
from perdure.testing.broken_grants import AnyDefinition
from perdure.testing.sim_waits import Waits
from perdure.testing.simulation import Build, Report, simulate

SEEDS_MAX: Final = 300


class KeepsRevoked(Driver):
    """Remembers what was granted, and never that it was taken back."""

    async def _perform(self, work: Work, step: due.Step) -> None:
        kept = self.__dict__.setdefault("_kept", {})
        kept.update(work.state.grants)

        async def remembered(call_id: str) -> Sequence[Grant]:
            return list(kept.values())

        work.rules = remembered
        await super()._perform(work, step)


class DoesItAllTheSame(Driver):
    """Tells the model that a call was refused, and makes it."""

    async def _perform(self, work: Work, step: due.Step) -> None:
        if isinstance(step, due.Settle):
            tools = await work.tools()
            for call in step.calls:
                tool = tools.get(call.call.tool)
                if call.phase is Phase.REFUSED and tool is not None:
                    context = context_of(work, call, 1, None)
                    await tool.call(arguments_of(call.call.arguments), context)
        await super()._perform(work, step)


class SilenceIsYes(Rewrites):
    """Takes it for a yes when nobody decides in time."""

    def instead(self, payload: Payload) -> Payload:
        """Allow what expires."""
        if isinstance(payload, e.ActionResolved) and payload.decision == "expired":
            action = self.state.actions[payload.action_id]
            return replace(payload, decision="allow", digest=action.digest)
        return payload


class UsesTwice(Journal):
    """Keeps a signal that a call has got for the next one."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and put back what was used."""
        for payload in payloads:
            before = self.state.signals
            super().append(payload, taken=taken)
            if isinstance(payload, e.TimerFired) and payload.signal:
                self.state = replace(self.state, signals=before)


class TakesTwice(Journal):
    """Writes each signal down twice."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and once more what came from outside and ended no wait."""
        super().append(*payloads, taken=taken)
        if len(payloads) == 1 and isinstance(payloads[0], e.SignalReceived):
            super().append(payloads[0])


class _Hasty(Held):
    def is_over(self, name: str, due_us: int, now_us: int) -> bool:
        """Say that everything is over."""
        return True


class _HastyWaker(Waker):
    def held(self, session_id: str) -> Held:
        """Return waits that are over."""
        return _Hasty(self._host.kit.clock)


class FiresEarly(Engine):
    """Ends every wait as soon as it looks at it."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.waker = _HastyWaker(self)


class _IdleWaker(Waker):
    def let_go(self, session_id: str, held: Held) -> None:
        """Forget the session."""


class WakesNobody(timers.ForgetsWakes):
    """Knows of no session that sleeps once nobody works on it."""

    def __init__(self, kit: Kit) -> None:
        super().__init__(kit)
        self.waker = _IdleWaker(self)


class SleepsLess(Rewrites):
    """Sets timers for a little earlier than was asked."""

    def instead(self, payload: Payload) -> Payload:
        """Take a second off."""
        if isinstance(payload, e.TimerSet) and payload.due_us:
            return replace(payload, due_us=payload.due_us - 1_000_000)
        return payload


class TriesTooOften(Journal):
    """Does not count the attempts that failed."""

    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and forget how often the call has failed."""
        super().append(*payloads, taken=taken)
        for p in payloads:
            if isinstance(p, e.ToolFinished) and p.status == "retry" and self.state.turn:
                call = self.state.turn.calls[p.call_id]
                self.state = self.state.with_call(replace(call, failures=0))


class SaysItOtherwise(Rewrites):
    """Tells the model of the end of a wait in words that depend on nothing that is recorded."""

    def instead(self, payload: Payload) -> Payload:
        """Say something else."""
        if isinstance(payload, e.TimerFired) and not payload.signal:
            return replace(payload, text="It is time.")
        return payload


def _engine(engine: type[Engine], *seen_by: str) -> Variant:
    return Variant(Build(engine=engine), seen_by)


WAIT_VARIANTS: Final[Mapping[str, Variant]] = {
    "an approval for two attempts": _engine(with_driver(RunsAgain), "uses"),
    "nobody is asked": _engine(with_journal(AsksNobody), "allowed"),
    "grants without condition and end": _engine(with_driver(AnyDefinition), "grants", "allowed"),
    "revoked grants hold": _engine(with_driver(KeepsRevoked), "grants", "allowed"),
    "denied calls happen": _engine(with_driver(DoesItAllTheSame), "harmless", "permission"),
    "silence is a yes": _engine(with_journal(SilenceIsYes), "decisions"),
    "the last answer counts": _engine(clients.TakesTwice, "answers"),
    "nobody answers": _engine(clients.AnswersItself, "answers", "decisions"),
    "clients' calls run here": _engine(clients.StartsClientTools, "answers", "liveness"),
    "timers fire twice": _engine(timers.BROKEN_TIMERS["fires twice"], "liveness", "timers"),
    "timers fire early": _engine(FiresEarly, "timers"),
    "timers are set early": _engine(with_journal(SleepsLess), "moments"),
    "timers are set late": _engine(timers.BROKEN_TIMERS["oversleeps"], "moments"),
    "nobody wakes sleepers": _engine(WakesNobody, "liveness"),
    "signals lost": _engine(timers.BROKEN_TIMERS["loses signals"], "signals"),
    "signals taken twice": _engine(with_journal(TakesTwice), "signals"),
    "signals used twice": _engine(with_journal(UsesTwice), "signals", "prefixes", "journal"),
    "once tried again": _engine(TriesOnceAgain, "attempts"),
    "attempts forgotten by the next owner": _engine(ForgetsAttempts, "attempts"),
    "attempts not counted": _engine(with_journal(TriesTooOften), "attempts"),
    "not what a replay says": _engine(with_journal(SaysItOtherwise), "replay"),
}


def catch_wait(name: str, seeds_max: int = SEEDS_MAX) -> Report | None:
    """Run a variant until it is seen; None when it was not."""
    variant = WAIT_VARIANTS[name]
    for seed in range(seeds_max):
        report = simulate(seed, "memory", variant.build, kind=Waits)
        if any(each.partition(":")[0] in variant.seen_by for each in report.violations):
            return report
    return None
