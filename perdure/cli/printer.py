"""Events as a person follows them: one line for each thing that was done.

The number in front is its place in the journal: `perdure show ID:NUMBER`. A running session and a
finished one look the same, but for text that is shown as it comes.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import msgspec

from perdure.cli.again import held_up, of_model, of_tool, open_question
from perdure.cli.compact import in_words
from perdure.cli.flow import Flow
from perdure.cli.lines import line_of
from perdure.cli.screen import Screen
from perdure.cli.text import arguments, clean, clip, duration, one_line, pad, plural, width_of, wrap
from perdure.core import events as e
from perdure.core.agent import Verdict
from perdure.core.content import Reasoning, Text, ToolCall, text_of
from perdure.core.events import Event
from perdure.engine.hub import Live, Progress
from perdure.ports.model import ReasoningDelta, TextDelta

NUMBER: Final = 5
LABEL: Final = 8
INDENT: Final = NUMBER + 2 + LABEL
TAIL_LINES: Final = 6
_LISTING: Final = frozenset(("read", "glob", "grep"))
_WORKSPACE_TOOLS: Final = frozenset(("bash", "read", "write", "edit", "glob", "grep"))


class Printer:
    """Prints a session. Feed it every event, in order, and live pieces where there are any."""

    def __init__(self, screen: Screen, *, inputs: bool = False) -> None:
        self.screen = screen
        self._inputs = inputs
        self._calls: dict[str, ToolCall] = {}
        self._started: dict[str, Event] = {}
        self._asked: dict[str, str] = {}
        self._for_clients: set[str] = set()
        self._model: Event | None = None
        self._flow = Flow(INDENT, screen.width)
        self._streamed = ""  # "text" or "think" while such a stream is open
        self._said = False  # the reply's text is on the screen already
        self._open = ""  # the call whose line has no end yet
        self._column = 0
        self._shown = 0  # lines of progress under the open call
        self._turn: Event | None = None

    def event(self, event: Event) -> None:
        """Print what an event means, if it means something to a person."""
        handler = self._HANDLERS.get(type(event.payload))
        if handler is not None:
            handler(self, event, event.payload)

    def live(self, live: Live) -> None:
        """Show a piece of text as it comes, on a terminal."""
        if not self.screen.tty:
            return
        match live.piece:
            case TextDelta(text=text):
                self._stream("text", text)
            case ReasoningDelta(text=text):
                self._stream("think", text)
            case Progress(call_id=call_id, text=text):
                self._progress(call_id, text)
            case _:
                pass

    def note(self, sign: str, text: str, more: str = "", *styles: str) -> None:
        """Print a line that is no event: a sign, a sentence, details."""
        self.fresh_line()
        head = f"{sign:>{NUMBER}}  "
        first, *rest = wrap(text, self.screen.width - len(head))
        self.screen.line(self.screen.style(head + first, *styles))
        for line in [*rest, *(wrap(more, self.screen.width - len(head)) if more else [])]:
            self.screen.line(" " * len(head) + self.screen.dim(line))

    def fresh_line(self) -> None:
        """End whatever is half written."""
        if self._streamed:
            self.screen.write(self._flow.rest())
        if self._streamed or self._column:
            self.screen.line()
        self._streamed, self._open, self._column, self._shown = "", "", 0, 0

    # What is said

    def _input(self, event: Event, p: e.InputAccepted) -> None:
        if p.kind in ("message", "steer") and (self._inputs or p.kind == "steer"):
            self._step(event.seq, "you", text_of(p.content), bold=True)
        elif p.kind in ("interrupt", "pause", "resume") and self._inputs:
            self._line(event.seq, p.kind, f"by {p.by}" if p.by else "")

    def _requested(self, event: Event, p: e.ModelRequested) -> None:
        self._model, self._said = event, False
        self._noted(event, p)

    def _noted(self, event: Event, p: Any) -> None:
        if why := held_up(p):
            self.note("!", why, "", "yellow")

    def _responded(self, event: Event, p: e.ModelResponded) -> None:
        asked = self._model or event
        took = duration(event.at_us - asked.at_us)
        self._calls.update({i.id: i for i in p.items if isinstance(i, ToolCall)})
        if p.status != "ok":
            self._unanswered(asked, event, p)
            return
        if isinstance(asked.payload, e.ModelRequested) and asked.payload.purpose:
            return  # a summary, and no part of what is said
        if self._streamed and self._said:
            self.fresh_line()
            return
        for item in p.items:
            if isinstance(item, Reasoning) and self.screen.verbose:
                self._step(asked.seq, "think", item.text, dim=True)
            elif isinstance(item, Text) and item.text:
                self._step(asked.seq, "model", item.text)
        if p.finish in ("length", "refusal"):
            self.note("!", f"The reply ended early: {p.finish}.", f"after {took}", "yellow")

    def _unanswered(self, asked: Event, event: Event, p: e.ModelResponded) -> None:
        self.fresh_line()
        if p.status == "lost":
            text = "this call was under way when its worker died; it is made again"
            self._line(asked.seq, "model", text, "yellow")
        elif p.status == "cancelled":
            self._line(asked.seq, "model", "interrupted", "yellow")
        elif p.error is not None:
            after = of_model(asked, event, p)
            code = self.screen.style(p.error.code, "yellow" if after else "red")
            self._line(asked.seq, "model", f"{code}  {one_line(p.error.message)}{after}")

    # What is done

    def _tool_requested(self, event: Event, p: e.ToolRequested) -> None:
        if p.verdict is Verdict.DENY:
            why = f"denied by rule {p.rule}" + (f": {p.reason}" if p.reason else "")
            self._line(event.seq, "tool", f"{one_line(p.tool)} {one_line(why)}", "yellow")

    def _tool_started(self, event: Event, p: e.ToolStarted) -> None:
        self._started[p.call_id] = event
        self.fresh_line()
        head = self._call_head(event.seq, p.call_id, _again(p.attempt))
        self.screen.write(head)
        self._open, self._column = p.call_id, width_of(clean(head))

    def _tool_finished(self, event: Event, p: e.ToolFinished) -> None:
        if p.status == "denied":
            return  # who said no was told before
        started = self._started.get(p.call_id)
        took = duration(event.at_us - started.at_us) if started else ""
        sign, styles = _OUTCOMES[p.status]
        result = of_tool(event, p) if p.status == "retry" else self._result(p)
        if self._open != p.call_id:
            seq = started.seq if started else event.seq
            self.fresh_line()
            head = self._call_head(seq, p.call_id, "")
            self.screen.write(head)
            self._column = width_of(clean(head))
        shown, self._open = self._shown, ""
        self._end_of_line(f"{sign} {result}", took, styles)
        if p.meta.get("exit_code") and not 0 < shown <= TAIL_LINES:
            self._tail(p.text)

    def _end_of_line(self, result: str, took: str, styles: tuple[str, ...]) -> None:
        """Finish a call's line with its result; on a line of its own where it does not fit."""
        screen = self.screen
        room = screen.width - self._column - width_of(took) - 4
        if width_of(result) > max(room, 12) or self._shown:
            if self._column:
                screen.line()
            screen.write(" " * INDENT)
            self._column = INDENT
            room = screen.width - INDENT - width_of(took) - 3
        lead = "  " if self._column > INDENT else ""
        result = clip(result, room)
        gap = screen.width - self._column - len(lead) - width_of(result) - width_of(took)
        screen.line(lead + screen.style(result, *styles) + " " * max(1, gap) + screen.dim(took))
        self._column, self._shown = 0, 0

    def _result(self, p: e.ToolFinished) -> str:
        if p.status == "unknown":
            return "outcome unknown"
        lines = [line for line in clean(p.text).split("\n") if line.strip()]
        code = p.meta.get("exit_code")
        if code is not None:
            ended = "ok" if code == 0 else f"exit {code}"
            return ended + (f", {plural(len(lines) - 1, 'line')}" if len(lines) > 1 else "")
        if p.error is not None:
            return f"{p.error.code}  {one_line(p.error.message)}"
        if not lines:
            return "(nothing)"
        if self._tool(p.call_id) in _LISTING and len(lines) > 1:
            return plural(len(lines), "line")
        more = f"  (+{plural(len(lines) - 1, 'line')})" if len(lines) > 1 else ""
        return one_line(lines[0]).rstrip(":") + more

    def _tail(self, text: str) -> None:
        """Show the end of what a failed call printed."""
        lines = [line for line in clean(text).expandtabs(4).split("\n") if line.strip()]
        if lines and lines[-1].startswith("[exit code"):
            lines.pop()  # it stands in the line above already
        for line in lines[-TAIL_LINES:]:
            self._quoted(line)

    def _quoted(self, line: str) -> None:
        text = clip(line, self.screen.width - INDENT - 2)
        self.screen.line(" " * INDENT + self.screen.dim("│ " + text))

    def _progress(self, call_id: str, text: str) -> None:
        if call_id != self._open:
            return
        for line in clean(text).expandtabs(4).split("\n"):
            if not line.strip():
                continue
            if self._column:
                self.screen.line()
                self._column = 0
            self._shown += 1
            if self._shown <= TAIL_LINES:
                self._quoted(line)
            elif self._shown == TAIL_LINES + 1:
                self._quoted("…")

    # What is asked, and what went wrong

    def _action_requested(self, event: Event, p: e.ActionRequested) -> None:
        self._asked[p.action_id] = p.call_id
        if p.kind == "answer":
            self._for_clients.add(p.action_id)
        if self._inputs:
            call = f"{self._tool(p.call_id)}({self._arguments(p.call_id)})"
            ask = (
                call if p.kind in ("approve", "answer") else f"{call}   {open_question(p.question)}"
            )
            self._line(event.seq, "asks", one_line(ask), "yellow")

    def _action_resolved(self, event: Event, p: e.ActionResolved) -> None:
        call_id = self._asked.get(p.action_id, p.action_id)
        tool, call = self._tool(call_id), self._calls.get(call_id)
        if call is not None and p.arguments is not None:
            self._calls[call_id] = msgspec.structs.replace(call, arguments=p.arguments)
        by = f" by {p.by}" if p.by else ""
        edited = f", with {arguments(p.arguments)}" if p.arguments is not None else ""
        beyond = f"; from now on {p.grant.shown}" if p.grant else ""
        reason = f": {p.reason}" if p.reason else beyond
        word = {"allow": "approved", "deny": "denied"}.get(p.decision, p.decision)
        if p.action_id in self._for_clients and p.decision == "done":
            word = "answered"
        sign, style = ("✓", "green") if p.decision in ("allow", "done") else ("✗", "yellow")
        self.note(sign, one_line(f"{tool} {word}{by}{edited}{reason}"), "", style)

    def _timer_set(self, event: Event, p: e.TimerSet) -> None:
        self._started[p.call_id] = event
        self.fresh_line()
        self.screen.line(f"{self._call_head(event.seq, p.call_id, '')}  {line_of(p)[1]}")

    def _recovered(self, event: Event, p: e.SessionRecovered) -> None:
        again = f", {p.attempt} in a row" if p.attempt > 1 else ""
        self.note(
            "↻", f"taken over from a worker that died{again}",
            f"events 1–{event.seq - 1} come from the journal; none is done again", "yellow",
        )  # fmt: skip

    def _restored(self, event: Event, p: e.EnvironmentRestored) -> None:
        shown = ", ".join(p.paths[:4]) + (" …" if p.count > 4 else "")
        what = f"{plural(p.count, 'file')}: {shown}" if p.count else "nothing had changed"
        when = "to before this call" if p.call_id else "to that moment"
        self.note("↻", f"workspace rolled back {when} — {one_line(what)}", "", "yellow")
        if p.kept:
            kept = one_line(", ".join(p.kept[:4]))
            self.note("!", f"left alone, because somebody else changed them: {kept}", "", "yellow")

    def _told(self, event: Event, p: Any) -> None:
        self._line(event.seq, *line_of(p))

    def _context(self, event: Event, p: Any) -> None:
        what, beside = in_words(p)
        self.note("⇊", what, beside, "yellow")

    def _late(self, event: Event, p: e.ToolLateResult) -> None:
        self.note("!", f"a late result of {self._tool(p.call_id)} was filed: {one_line(p.text)}")

    def _failure(self, event: Event, p: Any) -> None:
        error = p.error
        if error is not None and self._inputs:
            self.note("✗", f"{error.code}  {one_line(error.message)}", "", "red")

    def _turn_started(self, event: Event, p: e.TurnStarted) -> None:
        self._turn = event

    def _turn_ended(self, event: Event, p: e.TurnEnded) -> None:
        self.fresh_line()
        if self._inputs:
            took = f" after {duration(event.at_us - self._turn.at_us)}" if self._turn else ""
            styles = () if p.status == "completed" else ("red",)
            error = f": {p.error.code} {one_line(p.error.message)}" if p.error else ""
            self._line(event.seq, "turn", f"{p.status}{took}{error}", *styles)

    # How lines are made

    def _tool(self, call_id: str) -> str:
        call = self._calls.get(call_id)
        return call.tool if call else call_id

    def _arguments(self, call_id: str, *, brief: bool = False) -> str:
        call = self._calls.get(call_id)
        return arguments(call.arguments, brief=brief) if call else ""

    def know(self, call: ToolCall) -> None:
        """Learn about a call that was made before this printer looked on."""
        self._calls.setdefault(call.id, call)

    def know_question(self, action_id: str, call_id: str) -> None:
        """Learn about a question that was put before."""
        self._asked.setdefault(action_id, call_id)

    def _call_head(self, seq: int, call_id: str, more: str) -> str:
        """Return the beginning of a call's line: `bash  make test`, `tool  refund(order=9)`."""
        tool = self._tool(call_id)
        if tool in _WORKSPACE_TOOLS:
            return self._head(seq, tool, more + self._arguments(call_id, brief=True))
        return self._head(seq, "tool", f"{more}{one_line(tool)}({self._arguments(call_id)})")

    def _head(self, seq: int, label: str, text: str) -> str:
        """Return the beginning of a line; its width is that of the plain text."""
        number = self.screen.dim(f"{seq:>{NUMBER}}  ")
        name = self.screen.style(pad(one_line(label), LABEL - 1), "cyan") + " "
        room = self.screen.width - INDENT - max(0, width_of(label) - LABEL + 1)
        return number + name + clip(text, room)

    def _line(self, seq: int, label: str, text: str, *styles: str) -> None:
        self.fresh_line()
        room = self.screen.width - INDENT
        first, *rest = wrap(text, room)
        self.screen.line(self._head(seq, label, "") + self.screen.style(first, *styles))
        for line in rest:
            self.screen.line(" " * INDENT + self.screen.style(line, *styles))

    def _step(
        self, seq: int, label: str, text: str, *, bold: bool = False, dim: bool = False
    ) -> None:
        style = ("bold",) if bold else ("dim",) if dim else ()
        self._line(seq, label, text.rstrip(), *style)

    def _stream(self, kind: str, text: str) -> None:
        """Print text as it comes."""
        if self._streamed != kind:
            self.fresh_line()
            seq = self._model.seq if self._model else 0
            self.screen.write(self._head(seq, "model" if kind == "text" else "think", ""))
            self._streamed = kind
            self._flow = Flow(INDENT, self.screen.width)
            self._said = self._said or kind == "text"
        styles = ("dim",) if kind == "think" else ()
        self.screen.write(self.screen.style(self._flow.feed(text), *styles))

    _HANDLERS: ClassVar[Mapping[type, Callable[[Any, Event, Any], None]]] = {
        e.InputAccepted: _input,
        e.ModelRequested: _requested,
        e.ModelResponded: _responded,
        e.ToolRequested: _tool_requested,
        e.ToolStarted: _tool_started,
        e.ToolFinished: _tool_finished,
        e.ToolLateResult: _late,
        e.ActionRequested: _action_requested,
        e.ActionResolved: _action_resolved,
        e.SessionRecovered: _recovered,
        e.TimerSet: _timer_set,
        e.SignalReceived: _told,
        e.EnvironmentRestored: _restored,
        e.ContextCompacted: _context,
        e.ContextCompactAsked: _context,
        e.ContextRepaired: _context,
        e.SessionForked: _told,
        e.SessionRewound: _told,
        e.EnvironmentLost: _failure,
        e.NoteRecorded: _noted,
        e.SessionParked: _failure,
        e.TurnStarted: _turn_started,
        e.TurnEnded: _turn_ended,
    }


_OUTCOMES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "ok": ("→", ()),
    "error": ("✗", ("red",)),
    "cancelled": ("✗", ("yellow",)),
    "unknown": ("?", ("yellow",)),
    "retry": ("↻", ("yellow",)),
    "held": ("✗", ("red",)),
}


def _again(attempt: int) -> str:
    return f"(attempt {attempt}) " if attempt > 1 else ""
