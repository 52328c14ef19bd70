"""`python -m bench.first_token`: what the server adds before the first token, beside a direct call.

The official SDK calls a fake provider directly, and the same provider through `perdure up`, one
right after the other and each first in turn: a ratio compares the two calls of a pair.
"""

import argparse
import asyncio
import datetime as dt
import os
import re
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import msgspec
import openai

from bench.served import Served

ROOT: Final = Path(__file__).parents[1]
SHOWN: Final = ROOT / "bench" / "results" / "first-token.json"
BEGIN, END = "<!-- bench-first-token:begin -->", "<!-- bench-first-token:end -->"
_DOORS: Final = ("/v1/responses", "/v1/chat/completions")
_AFTER_MS: Final = (0.0, 300.0)
_AGENTS: Final = 'from perdure import Agent\n\nclerk = Agent("clerk", model="openai:fake")\n'
_CONFIG: Final = """
budget_usd = 0
[server]
requests_per_minute = 0
default_model = "fake"
[server.models]
fake = "openai:fake"
chat = "openai-chat:fake"
"""


class Pairs(msgspec.Struct, frozen=True):
    """One door with a provider that waits so long: milliseconds until the first piece of text,
    direct and through the server, of each pair of calls.
    """

    door: str
    after_ms: float
    direct_ms: Sequence[float]
    served_ms: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as long it took through the server, pair by pair."""
        return [b / a for a, b in zip(self.direct_ms, self.served_ms, strict=True)]


class Found(msgspec.Struct, frozen=True):
    """What one run found."""

    date: str
    cores: int
    load_before: float
    load_after: float
    cells: Sequence[Pairs]


async def _first(client: openai.AsyncOpenAI, door: str, model: str) -> float:
    """Return the milliseconds until the first text; the rest is read, too."""
    begun, first = time.perf_counter(), 0.0
    if door == _DOORS[0]:
        async for event in await client.responses.create(model=model, input="Hi", stream=True):
            if event.type == "response.output_text.delta" and not first:
                first = time.perf_counter() - begun
    else:
        said: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": "Hi"}
        ]
        async for chunk in await client.chat.completions.create(
            model=model, messages=said, stream=True
        ):
            if chunk.choices and chunk.choices[0].delta.content and not first:
                first = time.perf_counter() - begun
    if not first:
        raise RuntimeError(f"{door} said nothing")
    return first * 1000


@asynccontextmanager
async def _upstream(after_ms: float) -> AsyncIterator[str]:
    command = [sys.executable, "-m", "bench.upstream", str(after_ms)]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}/v1"
    finally:
        await process.communicate(b"")


def _prepared(folder: Path) -> None:
    folder.mkdir()
    (folder / "agents.py").write_text(_AGENTS)
    (folder / "perdure.toml").write_text(_CONFIG)


async def _pairs(folder: Path, after_ms: float, count: int) -> list[Pairs]:
    _prepared(folder)
    async with _upstream(after_ms) as url:
        here = Served(folder, environ={"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"})
        await here.start()
        direct = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        served = openai.AsyncOpenAI(
            base_url=f"{here.url}/openai/v1", api_key=here.key, max_retries=0
        )
        try:
            return [
                await _door(door, model, (direct, served), after_ms, count)
                for door, model in zip(_DOORS, ("fake", "chat"), strict=True)
            ]
        finally:
            await direct.close()
            await served.close()
            await here.kill()


async def _door(
    door: str,
    model: str,
    clients: tuple[openai.AsyncOpenAI, openai.AsyncOpenAI],
    after_ms: float,
    count: int,
) -> Pairs:
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(count + 3):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            found = await _first(clients[which], door, model)
            if number >= 3:  # connections are open then
                took[which].append(found)
    return Pairs(door, after_ms, *took)


async def measure(folder: Path, *, quick: bool = False) -> Found:
    """Measure in `folder`."""
    before = os.getloadavg()[0]
    cells = []
    for number, after_ms in enumerate(_AFTER_MS):
        count = 5 if quick else (100 if not after_ms else 30)
        cells += await _pairs(folder / f"first-{number}", after_ms, count)
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return Found(today, os.cpu_count() or 0, before, os.getloadavg()[0], cells)


def table(found: Found) -> str:
    """Return what was found as Markdown."""
    heads = ("provider's first token", "door", "direct ms", "through `perdure up` ms", "added ms",
             "ratio p50", "p5 to p95", "pairs")  # fmt: skip
    rows = [heads, ("---",) * len(heads), *(_row(cell) for cell in found.cells)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        f"{found.date}, {found.cores} shared cores, load {found.load_before:.1f} before and "
        f"{found.load_after:.1f} after:\n\n{lines}"
    )


def _row(cell: Pairs) -> tuple[str, ...]:
    cut = quantiles(cell.ratios, n=20, method="inclusive")
    added = [b - a for a, b in zip(cell.direct_ms, cell.served_ms, strict=True)]
    return (
        f"after {cell.after_ms:g} ms", f"`{cell.door}`", f"{median(cell.direct_ms):.1f}",
        f"{median(cell.served_ms):.1f}", f"{median(added):.1f}", f"{median(cell.ratios):.2f}",
        f"{cut[0]:.2f} to {cut[18]:.2f}", str(len(cell.ratios)),
    )  # fmt: skip


def between(document: str, text: str) -> str:
    """Return the document with this text between its markers. Raises `ValueError` without them."""
    pattern = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"no {BEGIN} and {END} in it")
    return pattern.sub(lambda at: f"{at[1]}\n{text}\n\n{at[2]}", document, count=1)


def write(found: Found) -> None:
    """Keep the figures, and put them into docs/performance.md."""
    SHOWN.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    document = ROOT / "docs" / "performance.md"
    document.write_text(between(document.read_text(encoding="utf-8"), table(found)), "utf-8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_token", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="small loads: does it run at all?")
    parser.add_argument("--write", action="store_true", help="put the table into the documents")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(Path(folder), quick=options.quick))
    print(table(found))
    if options.write:
        write(found)


if __name__ == "__main__":
    main()
