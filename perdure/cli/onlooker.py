"""What a person (or a program, with --json) sees and answers while a worker drives a session."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from perdure.cli.asking import Questions, question
from perdure.cli.attend import Attendant, Listener
from perdure.cli.failing import fields_of, print_error, status_of
from perdure.cli.me import fresh_key, whoami
from perdure.cli.naps import Naps, until_when
from perdure.cli.printer import Printer
from perdure.cli.screen import Screen
from perdure.cli.text import clip, count, duration, plural, usd
from perdure.cli.wire import Letter, Ready, Said, Still, up
from perdure.core.events import Event
from perdure.core.inbox import Answer, Decide, Say
from perdure.core.state import Spent
from perdure.engine.hub import Live
from perdure.engine.tool_errors import CHOICES


@dataclass(frozen=True)
class Manner:
    """How to look on."""

    yes: bool = False
    detach: bool = False
    no_wait: bool = False
    greet: bool = False


class Onlooker(Listener):
    """Prints what happens to one session and puts its questions to whoever is there."""

    def __init__(self, screen: Screen, session: str, manner: Manner) -> None:
        self.screen = screen
        self.session = session
        self.manner = manner
        self.printer = Printer(screen)
        self.attendant: Attendant | None = None
        self.remember: Callable[[], None] = lambda: None
        self._questions: Questions | None = None
        self._asking: Still | None = None
        self._ready: Ready | None = None
        self._before: Spent | None = None
        self._worked = False
        self._began_us = 0
        self._last_us = 0
        self._dead = False
        self._told = False  # that somebody took over: session.recovered says it again
        self._answered: set[str] = set()
        self._muted = False
        self._naps = Naps(screen)

    def event(self, event: Event) -> None:
        """Print an event."""
        self._naps.event(event)
        self._began_us = self._began_us or event.at_us
        self._last_us = event.at_us
        self._worked = self._worked or event.type != "input.accepted"
        if self.screen.json:
            sys.stdout.buffer.write(up(event))
            sys.stdout.buffer.flush()
        elif not self.manner.detach and not self._muted:
            if self._questions is not None and event.type == "action.resolved":
                self._drop_questions()
            if self._told and event.type == "session.recovered":
                self._told = False
            else:
                self.printer.event(event)

    def live(self, live: Live) -> None:
        """Show a piece as it comes."""
        if self.screen.json:
            sys.stdout.buffer.write(up(live))
            sys.stdout.buffer.flush()
        elif not self.manner.detach and not self._muted:
            self.printer.live(live)

    def ready(self, said: Said) -> None:
        """Say who works on what; after a kill, who took over."""
        ready = said.ready
        assert ready is not None
        self.remember()
        self._before = self._before or ready.spent
        first, self._ready = self._ready is None, ready
        if self.screen.json or self.manner.detach:
            return
        for call in ready.calls:
            self.printer.know(call)
        for asked in ready.asked:
            self.printer.know_question(asked.action_id, asked.call.id)
        if self._dead:
            text = f"worker {ready.pid} goes on: events 1–{ready.seq} come from the journal"
            self.printer.note("↻", text, "", "yellow")
            self._dead, self._told = False, True
        elif first and self.manner.greet:
            self._greet(ready)

    def killed(self, pid: int, signal_number: int, since_s: float) -> None:
        """Say that a worker was killed, and that another one starts."""
        self._dead = True
        if not self.screen.json:
            self.printer.note("✗", f"worker {pid} was killed (signal {signal_number})", "", "red")

    def still(self, still: Still) -> bool:
        """Ask what is to be asked; leave when there is nothing to answer."""
        asked = [each for each in still.asked if each.action_id not in self._answered]
        if still.status != "waiting" or not asked:
            self._summary(still)
            return False
        if self.manner.yes and any(each.kind != "answer" for each in asked):
            return self._say_yes(still)
        if not self.screen.can_ask() or self.manner.no_wait:
            self._summary(still)
            return False
        self._ask(still)
        return True

    def accepted(self) -> bool:
        """Leave at once where that was asked for."""
        return self.manner.detach

    def typed(self, line: str) -> bool:
        """Take a line as the answer to the question on the screen; leave at the end of input."""
        if self._questions is None:
            return False
        if not line:
            self._drop_questions()
            if self._asking is not None:
                self._summary(self._asking)
            return True
        action = self._questions.left[0].action_id
        decision = self._questions.answer(line)
        if decision is not None:
            self._decide({action: decision})
        return False

    def tick(self) -> bool:
        """Count down to the end of a short sleep."""
        return not self._muted and not self.manner.detach and self._naps.tick()

    def pressed(self, times: int) -> None:
        """Say what Ctrl-C does: leave the agent alone, or interrupt it."""
        self._drop_questions()
        self._muted = True
        if times == 1:
            self._say("Leaving. The agent goes on.  (Ctrl-C again now: interrupt the agent)")
        elif times == 2:
            self._say("Interrupting the agent …")
            self._post(Letter(fresh_key(), Say("interrupt", by=whoami())))

    def end_line(self) -> None:
        """Leave the cursor at the beginning of a line."""
        if not self.screen.json:
            self.printer.fresh_line()

    def left(self, why: str) -> None:
        """Say where the session stands when nobody looks on any more."""
        if self.screen.json:
            return
        if self.manner.detach and why == "detached":
            self.screen.line(self.session)
        elif why == "interrupted":
            self._say(f"Interrupted. Go on with: perdure resume {self.session}")
        elif why == "detached":
            self._say(f"Detached; the agent goes on.   See it: perdure show {self.session}")
            self._say(
                f"                               End it: perdure stop {self.session} --cancel"
            )

    def _say(self, text: str) -> None:
        if not self.screen.json:
            self.printer.fresh_line()
            self.screen.line(f"  {text}")

    def _greet(self, ready: Ready) -> None:
        screen = self.screen
        model = ready.model
        if model.startswith("scripted:"):
            model = f"{model} (a script, no AI)"
        facts = [model]
        if ready.environment == "bubblewrap":
            facts.append("sandbox: bubblewrap")
        if ready.limit_usd is not None:
            facts.append(f"at most ${ready.limit_usd:.2f}")
        elif not ready.priced and not model.startswith("scripted:"):
            facts.append("cost unknown: no price in perdure.toml")
        screen.line()
        title = f"▸ {ready.agent} on {ready.session}"
        screen.line("  " + screen.bold(title) + "  " + screen.dim(" · ".join(facts)))
        if ready.environment == "process":
            warning = "  ! NOT SANDBOXED: commands run as you, with all you may do"
            screen.line(screen.style(warning, "red", "bold"))
        if ready.in_place and ready.source:
            screen.line(screen.style(f"  ! works in {ready.source} itself", "yellow"))
        screen.line()

    def _say_yes(self, still: Still) -> bool:
        approvals = [a for a in still.asked if a.kind == "approve"]
        fresh = [a for a in approvals if a.action_id not in self._answered]
        if not fresh:
            self._summary(still)
            return False
        by = f"{whoami()} with --yes"
        self._decide({a.action_id: Decide(a.action_id, "allow", by, seen=a.digest) for a in fresh})
        return True

    def _ask(self, still: Still) -> None:
        self._asking = still
        if self._questions is None:
            self.printer.fresh_line()
            self._questions = Questions(self.screen, still.asked, self._answered)
            assert self.attendant is not None
            self.attendant.ask_keyboard = True
            self._questions.put()

    def _drop_questions(self) -> None:
        if self._questions is not None:
            self._questions = None
            assert self.attendant is not None
            self.attendant.ask_keyboard = False
            self.screen.line()

    def _decide(self, decisions: Mapping[str, Decide | Answer]) -> None:
        if self._questions is not None and not self._questions.left:
            self._questions = None
            assert self.attendant is not None
            self.attendant.ask_keyboard = False
        for action, decision in decisions.items():
            self._answered.add(action)
            self._post(Letter(fresh_key(), decision))

    def _post(self, letter: Letter) -> None:
        assert self.attendant is not None
        self.attendant.say(letter)

    def _summary(self, still: Still) -> None:
        """Say how the turn ended, what it took, and what to type next."""
        if self.screen.json:
            return
        screen = self.screen
        self.printer.fresh_line()
        screen.line()
        sign, word, style = _ENDINGS.get(still.status, ("✓", "done", "green"))
        if still.status == "idle" and still.last_status == "cancelled":
            sign, word, style = "✗", "interrupted", "yellow"
        if any(asked.kind == "resolve" for asked in still.asked):
            sign, word, style = "?", "outcome unknown", "yellow"
            if all(q.question.endswith(CHOICES) for q in still.asked if q.kind == "resolve"):
                sign, word = "✗", "a call failed; you decide"
        if still.status == "idle" and not self._worked:
            screen.line(f"  {self.session} is at rest: nothing was left undone.")
            return
        screen.line("  " + screen.style(f"{sign} {word}", style, "bold") + self._took(still))
        for line in self._next(still):
            screen.line(line)
        if still.error is not None and still.status in ("failed", "budget", "parked"):
            screen.line()
            print_error(screen, fields_of(still.error, self.session))

    def _took(self, still: Still) -> str:
        spent, before = still.spent, self._before or Spent()
        calls = spent.tool_calls - before.tool_calls
        parts = [plural(spent.steps - before.steps, "model call"), plural(calls, "tool call")]
        if spent.tokens > before.tokens:
            parts.append(f"{count(spent.tokens - before.tokens)} tokens")
        if spent.micro_usd > before.micro_usd:
            parts.append(usd(spent.micro_usd - before.micro_usd))
        parts.append(duration(self._last_us - self._began_us))
        return "  " + self.screen.dim(" · ".join(parts))

    def _next(self, still: Still) -> list[str]:
        me, screen_width = self.session, self.screen.width - 8
        lines = [f"    {a.action_id}  {clip(question(a), screen_width)}" for a in still.asked]
        if still.status == "waiting":
            kinds = {asked.kind for asked in still.asked}
            if "approve" in kinds:
                lines.append(f"    perdure approve {me} --allow    or --deny --reason …")
            if "answer" in kinds:
                lines.append(f"    perdure answer {me} VALUE    without VALUE: what is asked for")
            if kinds - {"approve", "answer"}:
                ways = "--as done --result JSON | --rerun | --as failed"
                lines.append(f"    perdure resume {me} {ways}")
            return lines + [
                f"    perdure approve {below} --allow    or perdure answer {below}"
                for below in still.below
            ]
        go_on = f'perdure run {me} "…"'
        if still.status != "idle":
            go_on = f"perdure resume {me}" + " --limit usd=2" * (still.status == "budget")
        if still.status == "sleeping":
            return [f"    {line}" for line in until_when(me, still.until_us, still.events)]
        pairs = [f"perdure show {me}", go_on]
        if still.changed:
            pairs[:1] = [f"perdure show {me} --diff", f"perdure show {me} --apply"]
        return ["  " + self.screen.dim("next  ") + self.screen.dim(" · ").join(pairs)]


_ENDINGS: Final[Mapping[str, tuple[str, str, str]]] = {
    "waiting": ("⏸", "needs you", "yellow"),
    "failed": ("✗", "failed", "red"),
    "budget": ("✗", "limit reached", "red"),
    "parked": ("✗", "parked", "red"),
    "paused": ("⏸", "paused", "yellow"),
    "sleeping": ("◔", "asleep", "cyan"),
}


def status_of_session(still: Still | None) -> int:
    """Return the exit status for where a session stands."""
    if still is None:
        return 130
    if still.status == "waiting":
        return 4 if all(a.kind in ("approve", "answer") for a in still.asked) else 9
    if still.status == "budget":
        return 8
    if still.status in ("failed", "parked"):
        return status_of(still.error) if still.error else 1
    return 130 if still.last_status == "cancelled" else 0
