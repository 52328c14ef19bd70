"""A coding agent in a sandbox: it works on a copy of a directory, and its tests run inside.

Needs Linux with bubblewrap (perdure doctor says whether it works here). The directory itself is not
touched; what changed is read from the workspace's snapshots.
"""

import asyncio
from pathlib import Path

from perdure import Agent, Event, Runtime
from perdure.engine.summary import describe

SCRIPT = Path(__file__).parent / "scripts" / "coding_agent.toml"

BROKEN = """def mean(numbers):
    return sum(numbers) / len(numbers) + 1
"""
TESTS = """import unittest
from stats import mean

class Mean(unittest.TestCase):
    def test_mean(self):
        self.assertEqual(mean([1, 2, 3]), 2)
"""

mender = Agent(
    "mender",
    model=f"scripted:{SCRIPT}",
    instructions="Run the tests, mend what is broken, run them again.",
    workspace=True,  # bash, read, write, edit, glob, grep; no network, nothing of your home
)


def lay_out(project: Path) -> None:
    """Make a small project with a fault in it."""
    project.mkdir(exist_ok=True)
    (project / "stats.py").write_text(BROKEN)
    (project / "test_stats.py").write_text(TESTS)


async def main(project: Path) -> None:
    async with Runtime("sqlite:///coding.db") as runtime:
        session = await runtime.session("mend-stats", mender, workspace=project)
        async for piece in session.send("The tests fail.", key="task"):
            if isinstance(piece, Event) and piece.type in ("tool.finished", "environment.opened"):
                print(f"{piece.seq:>3}  {describe(piece)}")
        state = await session.state()
        print(f"isolated by {state.level}")


if __name__ == "__main__":
    folder = Path("project")
    lay_out(folder)
    asyncio.run(main(folder))
    print(f"the original is untouched: {(folder / 'stats.py').read_text() == BROKEN}")
