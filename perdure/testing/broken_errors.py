"""Engines that deal with errors in a wrong way, each on purpose in one. None of them is for use."""

from collections.abc import Coroutine
from typing import Any

from msgspec.structs import replace

from perdure.core import events as e, step as due
from perdure.core.agent import Effect
from perdure.core.events import Payload
from perdure.core.state import CallState
from perdure.engine.breaker import Breakers
from perdure.engine.driver import Driver
from perdure.engine.journal import Journal
from perdure.engine.remedies import models_due
from perdure.engine.runtime import Engine
from perdure.engine.tool_calls import run_tools
from perdure.engine.work import Work


class _TriesOnceAgain(Driver):
    @staticmethod
    def _effect_of(work: Work, step: due.Step) -> Coroutine[Any, Any, None]:
        if isinstance(step, due.RunTools):
            return run_tools(work, tuple(_as_if_harmless(call) for call in step.calls))
        return Driver._effect_of(work, step)  # noqa: SLF001 - its own parent


def _as_if_harmless(call: CallState) -> CallState:
    return replace(call, effect=Effect.IDEMPOTENT)


class TriesOnceAgain(Engine):
    """Tries a `once` call again that failed with an error which says nothing of its effect."""

    driver_type = _TriesOnceAgain


class _ForgetsAttempts(Driver):
    @staticmethod
    def _effect_of(work: Work, step: due.Step) -> Coroutine[Any, Any, None]:
        if isinstance(step, due.RunTools) and work.journal.claim.epoch > 1:
            return run_tools(work, tuple(replace(call, failures=0) for call in step.calls))
        return Driver._effect_of(work, step)  # noqa: SLF001 - its own parent


class ForgetsAttempts(Engine):
    """Counts attempts in the process that makes them: after a crash none was made."""

    driver_type = _ForgetsAttempts


class _ShopsJournal(Journal):
    def append(self, *payloads: Payload, taken: str = "") -> None:
        """Append, and let another model try whatever was refused."""
        super().append(*[self._shopped(p) for p in payloads], taken=taken)

    def _shopped(self, payload: Payload) -> Payload:
        later = models_due(self.state)[1:]
        if isinstance(payload, e.ModelResponded) and payload.error is not None and later:
            return replace(payload, remedy="fallback", fallback=later[0], retry_at_us=None)
        return payload


class _Shops(Driver):
    journal_type = _ShopsJournal


class Shops(Engine):
    """Goes from model to model with a transcript that was refused or is too long."""

    driver_type = _Shops


class NeverCloses(Breakers):
    """Keeps the place of a trial that nobody waits for."""

    def given_up(self, model: str, call: int) -> None:
        """Do nothing."""
