"""A session kept as a test: what an agent decided once, it has to go on deciding.

A session runs, `perdure replay ID --save-test` keeps it as a test with its journal beside it, and
the test runs: offline, no model is called and no tool is run. Then somebody changes the agent.
"""

import asyncio
import runpy
import subprocess
import sys
from pathlib import Path

from perdure import Agent, Runtime, tool
from perdure.regression import check

SCRIPT = Path(__file__).parent / "scripts" / "kept_regression.toml"
STORE = "sqlite:///.perdure/perdure.db"  # where the command line looks, too


def clerk(unasked: float) -> Agent:
    """Return an agent that refunds up to so much without asking."""

    @tool(effect="once", ask=f"eur > {unasked}")
    def refund(order: int, eur: float) -> str:
        """Pay money back."""
        print(f"  (the shop pays {eur:.2f} for order {order})")
        return f"refunded {eur:.2f}"

    return Agent("clerk", model=f"scripted:{SCRIPT}", tools=[refund])


agent = clerk(unasked=20)  # what the test imports: the agent as it is defined today


async def live() -> None:
    """Run the session that is to be kept: a small refund passes, a large one is denied."""
    async with Runtime(STORE) as runtime:
        session = await runtime.session("two-parcels", agent)
        state = await session.send("Two parcels broke: orders 1 and 2.")
        for action in state.actions.values():
            await session.deny(action.id, by="anna", reason="I look at it myself.")
        async for _ in session.watch():
            pass


def keep() -> None:
    """Keep it, as one would at a terminal."""
    words = ["replay", "two-parcels", "--save-test", "test_parcels.py"]
    where = ["--agent", "kept_regression:agent"]
    subprocess.run([sys.executable, "-m", "perdure", *words, *where], check=True)


def main() -> None:
    """Live it, keep it, play it, and see what a change does."""
    print("A session:")
    asyncio.run(live())
    print("Kept as a test:", flush=True)
    keep()
    for name, test in runpy.run_path("test_parcels.py").items():
        if name.startswith("test_"):
            test()
            print(f"{name}: passed, and nobody paid anything")
    print("Somebody lets it refund 200 without asking:")
    try:
        check("test_parcels.jsonl", clerk(unasked=200))
    except AssertionError as error:
        print(f"  {error}")


if __name__ == "__main__":
    main()
