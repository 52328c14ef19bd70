"""What a permission says of a call: allow, ask a person, or deny. Pure; decided before each call.

Forbidding wins: of the tool's own conditions and all rules that match, deny beats ask and ask
beats allow, in whatever order they were written. What cannot be decided counts as ask.
"""

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from perdure.core.agent import Rule, ToolSpec, Verdict
from perdure.core.codec import arguments_of, digest
from perdure.core.conditions import Problem, parse_or_problem
from perdure.core.errors import InvalidRequest

REMOTE_SOURCE: Final = "mcp:"
_SORTED: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_STRENGTH: Final = (Verdict.DENY, Verdict.ASK, Verdict.ALLOW)


class Decision(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A verdict with the rule that said so, in the words people read."""

    verdict: Verdict
    rule: str = ""
    reason: str = ""


def decide(spec: ToolSpec, rules: Sequence[Rule], arguments: Mapping[str, Any]) -> Decision:
    """Return what is to be done with a call. Never raises: a rule nobody can read means ask."""
    known = _with_defaults(spec, arguments)
    said = list(_voices(spec, rules, known))
    for verdict in _STRENGTH:
        for decision in said:
            if decision.verdict is verdict:
                return decision
    return Decision(Verdict.ALLOW, "no rule → allow")


def asking(spec: ToolSpec, rules: Sequence[Rule]) -> str:
    """Return a digest of everything that may ask about calls of a tool: what a grant answers.

    Where another rule asks beside those, a parent's above a subagent say, nobody has answered it.
    """
    texts = {f"{r.when}" for r in rules if _asks(r) and fnmatch.fnmatchcase(spec.name, r.tool)}
    return digest(sorted(texts | ({spec.ask} if spec.ask else set())))[:16]


def _asks(rule: Rule) -> bool:
    # A condition to deny that cannot be decided asks, too.
    return rule.verdict is not Verdict.ALLOW


def approval_digest(spec: ToolSpec, arguments_json: str) -> str:
    """Return what an approval is bound to: this tool as defined, with exactly these arguments.

    The order of keys and white space in `arguments_json` do not count; everything else does.
    """
    try:
        plain = _SORTED.encode(arguments_of(arguments_json))
    except (InvalidRequest, ValueError, RecursionError):
        plain = arguments_json
    return digest([spec.digest, plain])


def _voices(
    spec: ToolSpec, rules: Sequence[Rule], arguments: Mapping[str, Any]
) -> Iterator[Decision]:
    """Yield what each condition and rule that concerns this call says."""
    if spec.deny:
        yield from _say(Rule(spec.name, Verdict.DENY, spec.deny), arguments)
    if spec.ask:
        yield from _say(Rule(spec.name, Verdict.ASK, spec.ask), arguments)
    for rule in rules:
        if fnmatch.fnmatchcase(spec.name, rule.tool):
            yield from _say(rule, arguments)


def _say(rule: Rule, arguments: Mapping[str, Any]) -> Iterator[Decision]:
    shown = f"{rule.tool}: {rule.when or 'always'} → {rule.verdict.value}"
    if not rule.when:
        yield Decision(rule.verdict, shown, rule.reason)
        return
    condition = parse_or_problem(rule.when)
    if isinstance(condition, Problem):
        answer, why = None, condition.message
    else:
        answer, why = condition.holds(arguments), _why_unknown(condition.names, arguments)
    if answer:
        yield Decision(rule.verdict, shown, rule.reason)
    elif answer is None and rule.verdict is not Verdict.ALLOW:
        yield Decision(Verdict.ASK, shown, why)


def _why_unknown(names: Sequence[str], arguments: Mapping[str, Any]) -> str:
    missing = [name for name in names if name not in arguments]
    if missing:
        return f"Cannot tell, so a person decides: no argument {', '.join(missing)}."
    return "Cannot tell, so a person decides: the arguments do not compare with the condition."


def _with_defaults(spec: ToolSpec, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fill in what the model left out, as the tool itself will.

    Not for a tool of a remote server: what its schema calls a default is only its word.
    """
    if spec.source.startswith(REMOTE_SOURCE):
        return arguments
    return _defaults(bytes(spec.input_schema)) | dict(arguments)


@lru_cache(maxsize=1024)
def _defaults(schema: bytes) -> dict[str, Any]:
    """Remembered, because a schema is met at every call. Shared: nobody may change it."""
    try:
        fields = msgspec.json.decode(schema)["properties"].items()
        return {k: v["default"] for k, v in fields if "default" in v}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return {}
