"""Errors as people and programs read them: code, what happened, where, what is safe now, a fix."""

import json as plain_json
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from perdure.cli.screen import Screen
from perdure.cli.text import clean, wrap

if TYPE_CHECKING:
    from perdure.core.errors import ErrorInfo

_STATUS: Final[Mapping[str, int]] = {
    "E-AGENT-MISSING": 3,
    "E-AGENT-UNKNOWN": 3,
    "E-KEY-MISSING": 5,
    "E-MODEL-AUTH": 5,
    "E-MODEL-UNREACHABLE": 6,
    "E-MODEL-OVERLOADED": 6,
    "E-MODEL-RATE": 6,
    "E-CODE-DRIFT": 7,
    "E-TOOL-UNKNOWN": 9,
}
_STATUS_OF_KIND: Final[Mapping[str, int]] = {"budget": 8, "environment": 6, "store": 6}


def report(error: Exception, *, json: bool) -> int:
    """Print `error` and return the exit status that goes with it."""
    screen = Screen(json=json)
    if isinstance(error, BrokenPipeError):
        return 0  # our reader has seen enough
    fields = _fields(error)
    status = int(fields.pop("status"))
    print_error(screen, fields)
    if screen.verbose and fields["code"] != "E-USAGE":
        screen.error("".join(traceback.format_exception(error)).rstrip())
    return status


def print_error(screen: Screen, fields: Mapping[str, Any]) -> None:
    """Print an error in the one shape that all of them have."""
    if screen.json:
        known = {key: value for key, value in fields.items() if value not in ("", None)}
        screen.line(plain_json.dumps({"error": known}))
        return
    screen.error(in_words(screen, fields))


def in_words(screen: Screen, fields: Mapping[str, Any]) -> str:
    """Return an error as indented text: code and message, where, what to type."""
    import sys

    message = clean(str(fields.get("message", "")))
    first, *more = wrap(message, screen.width - len(str(fields["code"])) - 2) or [""]
    lines = [screen.style(str(fields["code"]), "red", "bold", on=sys.stderr) + "  " + first]
    lines += [f"  {line}" for line in wrap(" ".join(more), screen.width - 2)] if more else []
    if where := fields.get("where"):
        lines.append(f"  Where: {clean(str(where))}")
    if hint := str(fields.get("hint", "")):
        lines.append(f"  Fix:   {clean(hint)}")
    return "\n".join(lines)


def _fields(error: Exception) -> dict[str, Any]:
    """Return what there is to say of an exception, with its exit status."""
    from perdure.core.errors import PerdureError

    if isinstance(error, PerdureError):
        return {
            "code": error.code,
            "message": error.message,
            "hint": error.hint,
            "retryable": error.retryable,
            "status": error.exit_code,
        }
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # what typer raises
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "perdure"
        hint = f"{path} --help"
        return {"code": "E-USAGE", "message": error.format_message(), "hint": hint, "status": 2}
    if isinstance(error, EOFError):
        return {"code": "E-USAGE", "message": "The input ended.", "hint": "", "status": 2}
    message = f"A fault of perdure's own: {type(error).__name__}: {error}. No journal was harmed."
    hint = "Run it again with -v and report what it says."
    return {"code": "E-INTERNAL", "message": message, "hint": hint, "status": 1}


def status_of(info: "ErrorInfo") -> int:
    """Return the exit status for an error that a session stopped with."""
    return _STATUS.get(info.code, _STATUS_OF_KIND.get(info.kind, 1))


def fields_of(info: "ErrorInfo", session: str) -> dict[str, Any]:
    """Return a journaled error in the shape of `print_error`."""
    return {
        "code": info.code,
        "message": info.message,
        "where": info.origin,
        "hint": _with_id(info.hint, session),
        "retryable": info.retryable,
        "session": session,
        "detail": info.detail,
    }


def _with_id(hint: str, session: str) -> str:
    """Put the session's id where a hint says ID, so that it can be pasted."""
    return " ".join(session if word == "ID" else word for word in hint.split(" "))
