"""The server's log: one line for each thing, as JSON or for people. No bodies, no secrets."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_PARTS: Final = ("perdure", "uvicorn.error")


class JsonLines(logging.Formatter):
    """One JSON object a line: at, level, logger, message, and the fields of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line: dict[str, Any] = {
            "at": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)


class Lines(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        fields = dict(getattr(record, "fields", {}))
        if not fields:
            head = f"{_time(record)[11:19]}  {record.levelname.lower()}  {record.getMessage()}"
            stack = "\n" + self.formatException(record.exc_info) if record.exc_info else ""
            return head + stack
        told = [fields.pop(name) for name in ("status", "method", "route", "ms")]
        rest = "  ".join(f"{name}={value}" for name, value in fields.items())
        return f"{_time(record)[11:19]}  {told[0]} {told[1]} {told[2]}  {told[3]} ms  {rest}"


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, tz=UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def start_logging(kind: str, stream: TextIO | None = None) -> None:
    """Write the log to `stream` (default: standard error). `kind` is `json`, `text`, or "": text
    where a person looks on.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    plain = kind == "text" or (not kind and out.isatty())
    handler.setFormatter(Lines() if plain else JsonLines())
    for name in _PARTS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if name == "perdure" else logging.WARNING)
        logger.propagate = False
