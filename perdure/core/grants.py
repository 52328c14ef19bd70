"""Grants: what a person allowed beyond a single call.

A grant turns a question into a yes for calls of one tool, as it was defined when the person looked
at it, whose arguments certainly fit its condition. It never weakens what forbids.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from perdure.core.agent import ToolSpec
from perdure.core.conditions import Problem, parse_or_problem

Scope = Literal["session", "rule"]


class Asked(NamedTuple):
    """Who asks: the session's agent, and all that may ask there (see `policy.asking`)."""

    agent: str
    asks: str


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """Calls of `tool` need no further question while this holds.

    `digest` is that of the tool's definition, `when` a condition on the arguments (empty: any),
    `until_us` the end (microseconds since the epoch; None: none), `asks` stands for the rules whose
    questions it answers. With scope `session` it holds in
    that session; a `rule` holds in all sessions of `agent` (empty: of every agent).
    """

    name: str
    tool: str
    digest: str
    when: str = ""
    scope: Scope = "session"
    agent: str = ""
    until_us: int | None = None
    by: str = ""
    made_at_us: int = 0
    asks: str = ""

    def covers(
        self, spec: ToolSpec, asked: Asked, arguments: Mapping[str, Any], now_us: int
    ) -> bool:
        """Whether a call falls under this. What cannot be told is not covered."""
        if self.tool != spec.name or self.digest != spec.digest or self.asks != asked.asks:
            return False
        if self.until_us is not None and now_us >= self.until_us:
            return False
        if self.agent and self.agent != asked.agent:
            return False
        if not self.when:
            return True
        condition = parse_or_problem(self.when)
        return not isinstance(condition, Problem) and condition.holds(arguments) is True

    @property
    def shown(self) -> str:
        """The grant in the words people read."""
        scope = "this session" if self.scope == "session" else f"rule {self.name}"
        return f"{self.tool}: {self.when or 'always'} → allow ({scope}, by {self.by or 'nobody'})"


def first_covering(
    grants: Iterable[Grant],
    spec: ToolSpec,
    asked: Asked,
    arguments: Mapping[str, Any],
    now_us: int,
) -> Grant | None:
    """Return the first grant that covers the call, or None."""
    return next((g for g in grants if g.covers(spec, asked, arguments, now_us)), None)
