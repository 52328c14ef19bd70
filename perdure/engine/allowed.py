"""Whether a call that would be asked about was allowed before: by its session, or by a rule."""

from collections.abc import Mapping
from typing import Any

from perdure.core.agent import ToolSpec
from perdure.core.grants import Asked, Grant, first_covering
from perdure.core.policy import asking
from perdure.core.state import CallState
from perdure.engine.grants import rules_for
from perdure.engine.work import Work


async def allowed_before(
    work: Work, call: CallState, spec: ToolSpec, arguments: Mapping[str, Any]
) -> Grant | None:
    """Return what allows a call about which the rules say that somebody is to be asked.

    Grants of the session come first, then the rules. What cannot be read allows nothing.
    """
    # A replay waits here until its record has come to this call, and only then asks for the time.
    rules = await work.rules(call.call.id) if work.rules is not None else None
    now_us, pinned = work.kit.clock.now_us(), work.state.spec
    asked = Asked(pinned.name, asking(spec, pinned.permissions))
    own = [grant for grant in work.state.grants.values() if grant.scope == "session"]
    found = first_covering(own, spec, asked, arguments, now_us)
    if found is not None:
        return found
    if rules is None:
        rules = await rules_for(work.kit.store, work.state)
    return first_covering(rules, spec, asked, arguments, now_us)
