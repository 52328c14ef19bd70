"""Questions in the terminal: approve, edit, deny, or why. One line typed for each answer."""

import json
import time
from collections.abc import Sequence

from msgspec.structs import replace

from perdure.cli.again import open_question
from perdure.cli.filling import Filling
from perdure.cli.me import whoami
from perdure.cli.screen import Screen
from perdure.cli.text import arguments, clean, one_line, wrap
from perdure.cli.wire import Asked
from perdure.core.codec import encode
from perdure.core.grants import Grant
from perdure.core.inbox import Answer, Decide
from perdure.engine.decisions import misfits
from perdure.engine.tool_errors import CHOICES

INDENT = 7


class Questions:
    """The open actions of a session, put one after the other."""

    def __init__(self, screen: Screen, asked: Sequence[Asked], answered: set[str]) -> None:
        self._screen = screen
        self.left = [each for each in asked if each.action_id not in answered]
        self._doing = "choose"
        self._fields: list[str] = []
        self._edited: dict[str, object] = {}
        self._filling: Filling | None = None

    def put(self) -> None:
        """Show the next question."""
        asked = self.left[0]
        screen = self._screen
        screen.line()
        what = {"approve": "needs you", "answer": "asks you"}.get(asked.kind, "outcome unknown")
        what = "a call failed" if asked.question.endswith(CHOICES) else what
        screen.line(screen.style(f"    ⏸  {what}", "yellow", "bold"))
        self._call(asked)
        if asked.kind == "resolve":
            for line in wrap(clean(open_question(asked.question)), screen.width - INDENT):
                screen.line(" " * INDENT + line)
        if asked.kind == "answer":
            self._filling = Filling(screen, asked, INDENT)
            self._filling.put()
            return
        if rule := rule_of(asked):
            screen.line(" " * INDENT + screen.dim(f"rule {rule}"))
        self._prompt()

    def answer(self, line: str) -> Decide | Answer | None:
        """Take what was typed; return a decision or an answer when there is one."""
        if self._filling is not None:
            return self._filled(self._filling, line)
        text = line.strip()
        match self._doing:
            case "reason":
                return self._decided("deny", reason=text)
            case "fail":
                return self._decided("failed", reason=text)
            case "result":
                return self._result(text)
            case "edit":
                return self._field(text)
            case _:
                return self._chosen(text.lower())

    def _filled(self, filling: Filling, line: str) -> Answer | None:
        answer = filling.take(line)
        if answer is not None:
            self._filling = None
            self.left.pop(0)
            if self.left:
                self.put()
        return answer

    def _chosen(self, text: str) -> Decide | None:
        asked = self.left[0]
        if asked.kind == "approve":
            if text in ("a", "approve", "y", "yes"):
                return self._decided("allow")
            if text in ("s", "session"):
                return self._for_session(asked)
            if text in ("d", "deny", "n", "no"):
                return self._next("reason", "why (the agent reads it): ")
            if text in ("e", "edit"):
                return self._edit()
        elif text in ("r", "rerun"):
            return self._decided("rerun")
        elif text in ("f", "failed"):
            return self._next("fail", "what happened (the agent reads it): ")
        elif text in ("d", "done"):
            return self._next("result", "its result: ")
        if text in ("?", "why"):
            self._why()
        self._prompt()
        return None

    def _for_session(self, asked: Asked) -> Decide | None:
        """Allow all calls of this tool from now on, and say that it is all of them."""
        if asked.grant is None:
            self._prompt()
            return None
        grant = replace(asked.grant, by=whoami(), made_at_us=time.time_ns() // 1000)
        what = f"From now on {one_line(asked.call.tool)} may run with ANY arguments in this session"
        self._screen.line(" " * INDENT + self._screen.style(what, "yellow"))
        take_back = f"Take it back: perdure approve --revoke {grant.name}"
        self._screen.line(" " * INDENT + self._screen.dim(take_back))
        return self._decided("allow", grant=grant)

    def _decided(
        self,
        decision: str,
        *,
        reason: str = "",
        arguments: str | None = None,
        result: str = "",
        grant: Grant | None = None,
    ) -> Decide:
        asked = self.left.pop(0)
        self._doing = "choose"
        decide = Decide(
            asked.action_id,
            decision,  # type: ignore[arg-type]  # one of those spelt out above
            whoami(),
            reason,
            asked.digest,
            arguments,
            result=result or None,
            grant=grant,
        )
        if self.left:
            self.put()
        return decide

    def _result(self, text: str) -> Decide:
        return self._decided("done", result=text or "(done)")

    def _edit(self) -> Decide | None:
        asked = self.left[0]
        try:
            given = json.loads(asked.call.arguments or "{}")
        except ValueError:
            given = None
        if not isinstance(given, dict) or not given:
            self._prompt()
            return None
        self._edited, self._fields = dict(given), list(given)
        self._screen.line(" " * INDENT + self._screen.dim("Enter keeps a value."))
        return self._next("edit", self._field_prompt())

    def _field(self, text: str) -> Decide | None:
        """Take one argument; when all are there, let the call run with them."""
        name = self._fields.pop(0)
        if text:
            self._edited[name] = _value(text, self._edited[name])
        if self._fields:
            return self._next("edit", self._field_prompt())
        if wrong := misfits(self.left[0].takes, self._edited):
            said = f"✗ the tool does not take that, nothing was decided: {'; '.join(wrong)}"
            self._screen.line(" " * INDENT + self._screen.style(one_line(said), "yellow"))
            self._prompt()
            return None
        return self._decided("allow", arguments=encode(self._edited).decode())

    def _field_prompt(self) -> str:
        name = self._fields[0]
        return (
            f"{one_line(name)} [{one_line(json.dumps(self._edited[name], ensure_ascii=False))}]: "
        )

    def _next(self, doing: str, prompt: str) -> Decide | None:
        self._doing = doing
        self._screen.write(" " * INDENT + prompt)
        return None

    def _prompt(self) -> None:
        self._doing = "choose"
        if self.left[0].kind == "approve":
            choices = "[a]pprove  [s]ession  [e]dit  [d]eny  [?]why"
        else:
            choices = "[d]one  [r]erun  [f]ailed  [?]why"
        self._screen.write(" " * INDENT + self._screen.bold(choices) + " › ")

    def _call(self, asked: Asked) -> None:
        """Show the whole call: what is approved is exactly what is on the screen."""
        screen = self._screen
        try:
            given = json.loads(asked.call.arguments or "{}")
        except ValueError:
            given = asked.call.arguments
        if not isinstance(given, dict):
            given = {"arguments": given}
        screen.line(" " * INDENT + screen.style(one_line(asked.call.tool), "cyan", "bold"))
        for name, value in given.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines = wrap(text, screen.width - INDENT - len(name) - 4)
            screen.line(" " * INDENT + f"  {one_line(name)}: {lines[0]}")
            for line in lines[1:]:
                screen.line(" " * (INDENT + len(name) + 4) + line)

    def _why(self) -> None:
        asked = self.left[0]
        text = asked.question + (f" {asked.reason}" if asked.reason else "")
        text += f"\nThe model wrote: “{asked.said}”" if asked.said else ""
        for line in wrap(clean(text), self._screen.width - INDENT):
            self._screen.line(" " * INDENT + line)


def _value(text: str, before: object) -> object:
    """Read a typed value: as JSON where that fits what stood there, else as text."""
    if isinstance(before, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def question(asked: Asked) -> str:
    """Return what is asked in one line: `refund(order=9, eur=38.0)   eur > 20 → ask`."""
    call = f"{asked.call.tool}({arguments(asked.call.arguments)})"
    if asked.kind == "answer":
        return one_line(call)
    if asked.kind != "approve":
        return one_line(f"{call}   {open_question(asked.question)}")
    rule = rule_of(asked)
    return one_line(call) + (f"   (rule {rule})" if rule else "")


def rule_of(asked: Asked) -> str:
    """Return the rule that made the engine ask, as far as the question names it."""
    return (
        one_line(asked.question.rpartition("— rule: ")[2]) if "— rule: " in asked.question else ""
    )
