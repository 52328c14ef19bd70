"""What a user's function raised, as an error fact: their file and line, their frames only."""

import contextlib
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from perdure.core.errors import ErrorInfo, PerdureError, error_info

MESSAGE_MAX: Final = 2000
DETAIL_MAX: Final = 8000
OURS: Final = str(Path(__file__).resolve().parents[1])
LIBRARIES: Final = ("site-packages", "dist-packages")


def failure(error: BaseException, tool: str, function: Callable[..., Any]) -> ErrorInfo:
    """Describe what `function` raised. One of our own errors keeps its code and its hint."""
    frames = _user_frames(error)
    innermost = frames[-1] if frames else None
    origin = f"{Path(innermost.filename).name}:{innermost.lineno}" if innermost else where(function)
    said = _said(error)
    code, message, hint = "E-TOOL-RAISED", f"{type(error).__name__}: {said}".rstrip(": "), ""
    if isinstance(error, PerdureError):
        code, message, hint = error.code, error.message, error.hint
    return error_info(
        code,
        "tool",
        message[:MESSAGE_MAX],
        subject=tool,
        origin=origin,
        detail=_detail(frames, error, said),
        hint=hint,
    )


def where(function: Callable[..., Any], *, full: bool = False) -> str:
    """Return `file.py:12` of the function's definition; `full` gives the whole path."""
    code = getattr(_plain(function), "__code__", None)
    if code is None:
        return ""
    path = code.co_filename if full else Path(code.co_filename).name
    return f"{path}:{code.co_firstlineno}"


def source_of(function: Callable[..., Any]) -> str:
    """Return `module:qualname`: the same however the module was started."""
    plain = _plain(function)
    module = str(getattr(plain, "__module__", "") or "")
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        module = spec.name if spec else Path(str(getattr(main, "__file__", "main"))).stem
    return f"{module}:{getattr(plain, '__qualname__', type(plain).__qualname__)}"


def _plain(function: Callable[..., Any]) -> Any:
    """Look through decorators and partials."""
    found: Any = function
    while True:
        inner = getattr(found, "__wrapped__", None) or getattr(found, "func", None)
        if inner is None:
            return found
        found = inner


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Keep the frames of the user's own files, outermost first."""
    standard = sysconfig.get_paths()["stdlib"]
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", OURS, standard))
        and not any(part in LIBRARIES for part in Path(frame.filename).parts)
    ]


def _said(error: BaseException) -> str:
    with contextlib.suppress(Exception):  # a __str__ of the user's that raises
        return str(error)
    return "(its text cannot be shown)"


def _detail(frames: list[traceback.FrameSummary], error: BaseException, said: str) -> str:
    lines = "".join(traceback.format_list(frames))
    return f"{lines[-DETAIL_MAX:]}{type(error).__qualname__}: {said[:MESSAGE_MAX]}"
