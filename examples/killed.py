"""A process dies in the middle of a call, and another one goes on with the session.

The program starts itself as a child that is killed by SIGKILL while its tool runs. Then it opens
the same session: what was done is taken from the journal; the call that was under way is not
guessed at. It is `once`, so somebody has to say what became of it.
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from perdure import Agent, Event, Runtime, tool

SCRIPT = Path(__file__).parent / "scripts" / "killed.toml"
CALLS = Path("calls.txt")


@tool(effect="once")
def write_letter(to: str) -> str:
    """Send a letter."""
    with CALLS.open("a") as file:
        file.write(f"letter to {to}\n")
    if to == "the bank":
        os.kill(os.getpid(), signal.SIGKILL)  # the letter is out, the process is gone
    return f"sent to {to}"


secretary = Agent("secretary", model=f"scripted:{SCRIPT}", tools=[write_letter])


async def turn(text: str) -> None:
    async with Runtime("sqlite:///killed.db") as runtime:
        session = await runtime.session("post", secretary)
        async for piece in session.send(text, key="monday"):  # the key sends it once, ever
            if isinstance(piece, Event) and piece.type.startswith(("tool.s", "session.r")):
                print(f"{piece.seq:>3}  {piece.type}")
        state = await session.state()
        for action in state.actions.values():
            print(f"     open: {action.question}")


async def settle() -> None:
    async with Runtime("sqlite:///killed.db") as runtime:
        session = await runtime.session("post", secretary)
        await session.resolve("a1", "done", by="the boss", result="it has arrived")
        async for _ in session.watch():
            pass
        state = await session.state()
        print(f"the turn {state.last_status}")


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        asyncio.run(turn("Write to the tax office and to the bank."))
    else:
        child = subprocess.run([sys.executable, __file__, "child"], check=False)
        print(f"the first process died of signal {-child.returncode}")
        asyncio.run(turn("Write to the tax office and to the bank."))
        asyncio.run(settle())
        print(f"letters written: {len(CALLS.read_text().splitlines())}")
