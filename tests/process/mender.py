"""A coding agent at work on a real package, in a process of its own, so that it can be killed.

Prints a line for each durable event. The model is scripted; what it mends, the tests it runs and
the sandbox they run in are real.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from perdure.app import Options, Runtime
from perdure.core.events import Event
from perdure.engine.agent import Agent
from perdure.engine.summary import describe
from perdure.models.scripted import Script, Scripted
from tests.process.victim import OneModel

TESTS = "python3 -m pytest -q -p no:cacheprovider -c /dev/null --rootdir=. toolz/tests"
BROKEN, MENDED = "return itertools.islice(seq, n + 1)", "return itertools.islice(seq, n)"
SCRIPT = {
    "reply": [
        {
            "text": "First I see what fails.",
            "call": [{"tool": "bash", "arguments": {"command": f"{TESTS} 2>&1 | tail -15"}}],
        },
        {
            "text": "`take` gives one element too many. I look where it stands.",
            "call": [
                {"tool": "grep", "arguments": {"pattern": "def take", "path": "toolz"}},
                {"tool": "read", "arguments": {"path": "toolz/itertoolz.py", "offset": 310}},
            ],
        },
        {
            "text": "It asks islice for n + 1.",
            "call": [
                {
                    "tool": "edit",
                    "arguments": {"path": "toolz/itertoolz.py", "old": BROKEN, "new": MENDED},
                },
                {"tool": "bash", "arguments": {"command": f"{TESTS} 2>&1 | tail -3"}},
            ],
        },
        {"text": "Mended: {{last_result}}"},
    ]
}


async def work(home: Path, source: Path) -> None:
    """Let the agent mend the package in `source`, from wherever it stands in the journal."""
    script = msgspec.convert(SCRIPT, Script)
    options = Options(models=OneModel(Scripted(script)))
    agent = Agent("mender", "scripted:mender", "Mend what the tests show.", workspace=True)
    async with Runtime(f"sqlite:///{home / 'p.db'}", options) as runtime:
        session = await runtime.session("toolz", agent, workspace=source)
        async for piece in session.send("The tests fail. Mend the package.", key="task"):
            if isinstance(piece, Event):
                sys.stdout.write(f"{piece.seq} {piece.type} {describe(piece)}\n")
                sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), Path(sys.argv[2])))
