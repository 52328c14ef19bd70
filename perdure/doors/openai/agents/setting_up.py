"""What an environment is to begin with, done in its sandbox before the agent's first turn."""

import shlex
from collections.abc import Mapping
from typing import Final

from perdure.core.errors import InvalidRequest
from perdure.core.secrets import scrub
from perdure.doors.openai.agents.hosting import Hosting
from perdure.ports.sandbox import Sandbox

_SETUP_S: Final = 600.0
_TAIL: Final = 2000  # characters of a failed command's output that its author is shown
_PYTHON: Final = ".packages/python"
_NPM: Final = ".packages/npm"


class SetupFailed(InvalidRequest):
    """Something that an environment was to begin with could not be done there."""

    def __init__(self, message: str) -> None:
        super().__init__(
            "E-ENV-SETUP", message, "Correct the environment's setup, and make another."
        )


async def set_up(sandbox: Sandbox, hosting: Hosting, env: Mapping[str, str]) -> None:
    """Set variables, install packages and run the commands; the shell's state keeps the variables.

    Raises `SetupFailed`, with what a command said last.
    """
    if env:
        lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
        await _run(sandbox, "\n".join(lines), "Setting the variables")
    for name in hosting.system:  # nothing in a sandbox may install them; the machine may have them
        script = f"command -v {shlex.quote(name)} || dpkg -s {shlex.quote(name)}"
        await _run(sandbox, script, f"Looking for the system package {name} on this machine")
    if hosting.python:
        script = (
            f"python3 -m pip install --quiet --target {_PYTHON} -- {_quoted(hosting.python)} "
            f'&& export PYTHONPATH="$PWD/{_PYTHON}"'
        )
        await _run(sandbox, script, "Installing the Python packages")
    if hosting.npm:
        script = (
            f"npm install --silent --no-fund --no-audit --prefix {_NPM} -- {_quoted(hosting.npm)} "
            f'&& export PATH="$PWD/{_NPM}/node_modules/.bin:$PATH"'
            f' NODE_PATH="$PWD/{_NPM}/node_modules"'
        )
        await _run(sandbox, script, "Installing the npm packages")
    count = len(hosting.setup_commands)
    for number, each in enumerate(hosting.setup_commands, 1):
        # In a shell of its own: it may change the workspace, not the shell the agent will find.
        script = f"cd -- {shlex.quote(each.cwd)} && bash -c {shlex.quote(each.command)}"
        await _run(sandbox, f"({script})", f"Setup command {number} of {count}")


def _quoted(names: tuple[str, ...]) -> str:
    return " ".join(shlex.quote(name) for name in names)


async def _run(sandbox: Sandbox, script: str, what: str) -> None:
    ended = await sandbox.run(script, timeout_s=_SETUP_S)
    if ended.exit_code == 0:
        return
    how = ended.killed or f"exit status {ended.exit_code}"
    said = scrub(ended.output.decode("utf-8", "replace"))[-_TAIL:].strip()
    raise SetupFailed(f"{what} failed ({how})." + (f" It said: {said}" if said else ""))
