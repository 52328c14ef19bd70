"""A circuit breaker for each provider: whoever fails for everybody is left alone for a while.

One object for all sessions of a process. It reads no clock: `now_s` is monotonic time and comes
in. A breaker is closed (calls go through), open (none does, until the cool-down is over) or half
open (one does; how that ends decides). It only ever delays a call or sends it to another model:
that it was open is a fact of the process, written down where it changed what happened.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from perdure.core.errors import ErrorInfo, error_info

CODE: Final = "E-MODEL-BREAKER"
PROVIDERS_MAX: Final = 256  # remembered; a name is free to be anything, memory is not


class BreakerRules(msgspec.Struct, frozen=True):
    """When a breaker opens, and for how long. Times in seconds.

    It opens after `failures` in a row (0: never) that came within `window_s`. It stays open for
    `cool_s`, and twice as long each time the one call that is then let through fails too, up to
    `cool_cap_s`.
    """

    failures: int = 5
    window_s: float = 60.0
    cool_s: float = 30.0
    cool_cap_s: float = 300.0


class Way(msgspec.Struct, frozen=True):
    """Where a call may go: to `model`, which is another one than was due `because`; or nowhere
    for `wait_s`, and `because` says why.
    """

    model: str
    because: str = ""
    wait_s: float = 0.0


@dataclass
class _Breaker:
    """One provider. `open_until_s` is None while it is closed."""

    times: list[float] = field(default_factory=list)  # of the failures in a row
    last: str = ""  # the code of the last failure
    open_until_s: float | None = None
    opened: int = 0  # times in a row
    trying: int = 0  # the call that was let through, by its number


class Breakers:
    """The breakers of all providers. What was never seen to fail costs no memory."""

    def __init__(self, poll_s: float = 1.0) -> None:
        self._known: dict[str, _Breaker] = {}
        self._poll_s = poll_s
        self._calls = 0

    def pick(
        self, models: Sequence[str], missing: Mapping[str, str], now_s: float, rules: BreakerRules
    ) -> Way:
        """Return which of `models`, the due one first, may be called now. `missing` says of some
        why they cannot be called at all.

        A later one is taken only where the ones before it are missing, or where the breaker of
        the first that is there is open and the later one's is closed.
        """
        usable = [model for model in models if model not in missing]
        if not usable:
            return Way(models[0], missing[models[0]])
        first = usable[0]
        because = missing.get(models[0], "")
        wait_s = self._wait_s(provider_of(first), now_s, rules)
        if wait_s <= 0:
            return Way(first, because)
        because = self._why(provider_of(first), wait_s)
        for model in usable[1:]:
            if self._wait_s(provider_of(model), now_s, rules, trial=False) <= 0:
                return Way(model, because)
        return Way(first, because, wait_s)

    def leaves(self, model: str) -> int:
        """Note that a call to `model` leaves now; return the number under which it comes back."""
        self._calls += 1
        breaker = self._known.get(provider_of(model))
        if breaker is not None and breaker.open_until_s is not None:
            breaker.trying = breaker.trying or self._calls
        return self._calls

    def comes_back(
        self, model: str, call: int, error: ErrorInfo | None, now_s: float, rules: BreakerRules
    ) -> None:
        """Note how the call ended: None for a reply.

        An error that would come again (a wrong key, a refusal) says that the provider answers.
        """
        name = provider_of(model)
        if error is not None and error.code == "E-KEY-MISSING":
            self.given_up(model, call)  # nothing was sent
            return
        if error is None or not error.retryable:
            self._known.pop(name, None)
            return
        if not rules.failures:
            return
        breaker = self._known.pop(name, None) or _Breaker()
        self._known[name] = breaker  # the last one in the order: what fails now is kept
        self._forget()
        breaker.last = error.code
        if breaker.open_until_s is not None:
            if breaker.trying == call:
                self._open(breaker, now_s, rules)
            return  # a call that left before it opened says nothing new
        breaker.times = [t for t in breaker.times if now_s - t <= rules.window_s]
        breaker.times.append(now_s)
        if len(breaker.times) >= rules.failures:
            self._open(breaker, now_s, rules)

    def given_up(self, model: str, call: int) -> None:
        """Note that nobody waits for the call any more: it says nothing about the provider."""
        breaker = self._known.get(provider_of(model))
        if breaker is not None and breaker.trying == call:
            breaker.trying = 0

    @property
    def remembered(self) -> int:
        """How many providers are remembered."""
        return len(self._known)

    def _wait_s(
        self, provider: str, now_s: float, rules: BreakerRules, *, trial: bool = True
    ) -> float:
        """Return how long a call must wait; with `trial`, it may be the one that tries."""
        breaker = self._known.get(provider)
        if breaker is None or breaker.open_until_s is None or not rules.failures:
            return 0.0
        if now_s < breaker.open_until_s:
            return breaker.open_until_s - now_s
        return 0.0 if trial and not breaker.trying else self._poll_s

    def _why(self, provider: str, wait_s: float) -> str:
        breaker = self._known[provider]
        return (
            f"{CODE}: {provider} fails again and again ({breaker.last}); "
            f"it is asked again in {wait_s:.0f} s at the earliest"
        )

    @staticmethod
    def _open(breaker: _Breaker, now_s: float, rules: BreakerRules) -> None:
        cool_s = min(rules.cool_cap_s, rules.cool_s * 2.0 ** min(breaker.opened, 30))
        breaker.open_until_s = now_s + cool_s
        breaker.opened += 1
        breaker.trying = 0
        breaker.times = []

    def _forget(self) -> None:
        while len(self._known) > PROVIDERS_MAX:
            del self._known[next(iter(self._known))]


def provider_of(model: str) -> str:
    """Return whose model it is: what stands before the colon."""
    return model.partition(":")[0]


def told(text: str) -> ErrorInfo | None:
    """Return the error that a note, or the reason for another model, tells of, if it is ours."""
    code, colon, rest = text.partition(": ")
    if code != CODE or not colon:
        return None
    return error_info(CODE, "model", rest, subject=rest.partition(" ")[0])
