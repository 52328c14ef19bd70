"""A payment that is tried twice and made once.

A tool that says `idempotent` is run again after a crash, with the same key. Whoever is at the far
end (here a dictionary in a file, in life a payment provider) knows the key and pays once.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from perdure import Agent, Runtime, tool

SCRIPT = Path(__file__).parent / "scripts" / "idempotent.toml"
BANK = Path("bank.json")
LOG = Path("attempts.txt")


@tool(effect="idempotent")
def pay(to: str, eur: float, *, key: str) -> str:
    """Pay somebody. The model never sees `key`: the runtime makes it."""
    with LOG.open("a") as file:
        file.write(f"{key}\n")
    payments = json.loads(BANK.read_text()) if BANK.exists() else {}
    payments.setdefault(key, {"to": to, "eur": eur})
    BANK.write_text(json.dumps(payments))
    if len(LOG.read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)  # paid, and nobody was told
    return f"paid {eur} to {to}"


clerk = Agent("clerk", model=f"scripted:{SCRIPT}", tools=[pay])


async def work() -> None:
    async with Runtime("sqlite:///payments.db") as runtime:
        session = await runtime.session("invoice-17", clerk)
        state = await session.send("Pay invoice 17.", key="invoice-17")
        print(f"turn {state.last_status}")


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        asyncio.run(work())
    else:
        subprocess.run([sys.executable, __file__, "child"], check=False)
        asyncio.run(work())
        attempts = LOG.read_text().splitlines()
        print(f"{len(attempts)} attempts, {len(set(attempts))} key, "
              f"{len(json.loads(BANK.read_text()))} payment")  # fmt: skip
