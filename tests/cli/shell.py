"""Running the real command line in a folder of its own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import perdure

SECONDS = 60

AGENT = '''
import os
import signal
from pathlib import Path

from perdure import Agent, tool

HERE = Path(__file__).parent


@tool(effect="read")
def look(order: int) -> str:
    """Look an order up."""
    return f"order {order} was delivered"


@tool(effect="once", ask="eur > 20")
def refund(order: int, eur: float) -> str:
    """Give money back."""
    with (HERE / "refunds.txt").open("a") as file:
        file.write(f"{order} {eur}\\n")
    return f"refunded {eur}"


def count(name: str) -> int:
    """How often this was called, over all processes."""
    with (HERE / name).open("a") as file:
        file.write("x")
    return len((HERE / name).read_text())


@tool(effect="idempotent")
def die_first(times: int) -> str:
    """Kill the worker the first `times` times."""
    if count("idempotent.txt") <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@tool(effect="once")
def die_once() -> str:
    """Have an effect, and die before it can be told."""
    count("once.txt")
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


@tool
def fail() -> str:
    """Raise."""
    raise ValueError("no such customer")


tools = [look, refund, die_first, die_once, fail]
helper = Agent("helper", model="scripted:script.toml", tools=tools)
'''


def script(*replies: str, delay_s: float = 0.0) -> str:
    """A script of replies: `text`, or `tool {…}`."""
    lines = [f"delay_s = {delay_s}"]
    for reply in replies:
        call = re.fullmatch(r"(\w+) (\{.*\})", reply)
        lines.append("[[reply]]")
        if call:
            lines += ["[[reply.call]]", f'tool = "{call[1]}"', f"arguments = {call[2]}"]
        else:
            lines.append(f"text = {json.dumps(reply)}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """Standard output as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Shell:
    """A folder, and `perdure` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(Path(perdure.__file__).parents[1]),  # the code under test
        }

    def words(self, *arguments: str) -> list[str]:
        """The command line for these arguments."""
        return [sys.executable, "-P", "-m", "perdure", *arguments]

    def perdure(self, *arguments: str, stdin: str = "", **environ: str) -> Done:
        """Run a command to its end, without a terminal."""
        done = subprocess.run(
            self.words(*arguments),
            cwd=self.folder,
            env=self.environ | environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str) -> Path:
        """Write a file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def agent(self, *replies: str, delay_s: float = 0.0) -> None:
        """Write agent.py with the tools above, and what its model says."""
        self.write("agent.py", AGENT)
        self.write("script.toml", script(*replies, delay_s=delay_s))

    def read(self, name: str) -> str:
        """Read a file of the folder; "" where there is none."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""
