"""When to try a failed model call again. Pure: the dice come in as a number."""

from typing import Final

from perdure.core.agent import RetryPolicy
from perdure.core.errors import ErrorInfo

LONGEST_S: Final = 3600.0  # a provider that asks for more is not waited for


def delay_s(policy: RetryPolicy, failures: int, error: ErrorInfo, dice: float) -> float | None:
    """Return how long to wait after the `failures`-th failure (from 1), or None: give up.

    Exponential with full jitter in the upper half; what the provider asked for by retry-after
    is obeyed exactly, and given up on when it is longer than an hour.
    """
    if not error.retryable or failures >= policy.attempts:
        return None
    if error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= LONGEST_S else None
    full: float = min(policy.cap_s, policy.base_s * 2.0 ** (failures - 1))
    return full * (0.5 + dice / 2)
