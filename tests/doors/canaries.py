"""Secrets that are easy to find again, and all the places where somebody could read them."""

import io
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.serving.logs import start_logging
from perdure.serving.tracing import Tracing


def canary(number: int) -> str:
    return f"cnry{number:02d}{'q7z' * 6}"


@dataclass
class Overheard:
    """Log and spans of a server in this process."""

    log: io.StringIO = field(default_factory=io.StringIO)
    spans: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)
    provider: TracerProvider = field(default_factory=TracerProvider)

    @property
    def tracing(self) -> Tracing:
        return Tracing(self.provider)

    def places(self, answers: Sequence[str], folder: Path) -> "Places":
        """Return all that can be read now that the server has ended."""
        spans = " ".join(span.to_json() for span in self.spans.get_finished_spans())
        stored = b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())
        dump = "".join(line for p in sorted(folder.rglob("*.db")) for line in _dumped(p))
        return Places({"answers": " ".join(answers), "log": self.log.getvalue(), "spans": spans,
                       "dump": dump}, stored)  # fmt: skip


@dataclass
class Places:
    """What was told, and the bytes of all files."""

    texts: dict[str, str]
    stored: bytes

    def of(self, secret: str) -> set[str]:
        """Return where a text is found. A dump writes bytes as hexadecimal digits."""
        digits = secret.encode().hex()
        found = {n for n, text in self.texts.items() if secret in text or digits in text.lower()}
        return found | ({"files"} if secret.encode() in self.stored else set())


def _dumped(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(path)) as connection:
        yield from connection.iterdump()


@contextmanager
def overhearing() -> Iterator[Overheard]:
    """Listen to what a server in this process writes down of its work."""
    here = Overheard()
    here.provider.add_span_processor(SimpleSpanProcessor(here.spans))
    start_logging("json", here.log)
    try:
        yield here
    finally:
        for name in ("perdure", "uvicorn.error"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True
