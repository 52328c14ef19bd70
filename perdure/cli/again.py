"""What a person reads of an attempt that failed: which comes next, when, and with which model."""

from perdure.cli.text import duration, one_line
from perdure.core import events as e
from perdure.core.errors import ErrorInfo
from perdure.core.events import Event
from perdure.engine.breaker import told
from perdure.engine.tool_errors import CHOICES


def of_tool(event: Event, p: e.ToolFinished) -> str:
    """Return `attempt 2 of 4 in 3 s: E-… message` of a call that is run again."""
    number, most = p.meta.get("attempt"), p.meta.get("of")
    due = duration(max(0, (p.retry_at_us or event.at_us) - event.at_us))
    return f"attempt {number} of {most} in {due}: {_said(p.error)}"


def of_model(asked: Event, event: Event, p: e.ModelResponded) -> str:
    """Return what follows a model call that failed, or nothing where nothing does."""
    request = asked.payload
    if p.remedy == "fallback":
        return f"  → fallback {one_line(p.fallback)}"
    if p.retry_at_us is None:
        return ""
    due = duration(max(0, p.retry_at_us - event.at_us))
    number = request.attempt + 1 if isinstance(request, e.ModelRequested) else 2
    return f"; attempt {number} in {due}"


def open_question(question: str) -> str:
    """Return what is asked about a call that left: whether it happened, or what to do about it."""
    if not question.endswith(CHOICES):
        return "did it happen?"
    failed = question.removesuffix(f" — {CHOICES}").rpartition(") FAILED")[2]
    return f"FAILED{failed}" if failed.startswith(":") else f"FAILED {one_line(failed)}"


def held_up(payload: object) -> str:
    """Return in words that a provider is left alone, or a journal came from elsewhere, if the event
    says so.
    """
    match payload:
        case e.NoteRecorded(text=text, imported=int() as many) if many:
            return one_line(text)
        case e.NoteRecorded(text=text) if told(text) is not None:
            return one_line(text)
        case e.ModelRequested(because=why, model=model) if why:
            return one_line(f"{why} → fallback {model}")
        case _:
            return ""


def _said(error: ErrorInfo | None) -> str:
    return f"{error.code}  {one_line(error.message)}" if error is not None else "it failed"
