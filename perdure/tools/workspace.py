"""The tools of a coding agent: bash, read, write, edit, glob and grep in the session's sandbox.

Files are touched through the sandbox's own file access, which no path or link leads out of;
everything else runs as a command inside. Nothing here opens a file or starts a process itself.
"""

import asyncio
import codecs
import shlex
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from msgspec import Meta

from perdure.core.agent import Effect, ToolSpec
from perdure.core.errors import PerdureError, Unavailable, error_info
from perdure.ports.sandbox import Ended, Sandbox
from perdure.ports.tool import Tool, ToolContext, ToolFailed, ToolOutput
from perdure.tools import globs, texts
from perdure.tools.output import NO_OUTPUT, as_bytes
from perdure.tools.schema import Parameters

Work = Callable[..., Awaitable[ToolOutput]]

COMMAND_MAX_S: Final = 3600.0
GREP_S: Final = 30.0
PATHS_MAX: Final = 1000
BINARY_LOOK: Final = 8000
LINE_BYTES: Final = 500


def workspace_tools(*, contained: bool = True) -> tuple[Tool, ...]:
    """Return the workspace tools. Pass `contained=False` where the environment does not isolate:
    then a command may have had effects that no rollback of the workspace undoes.
    """
    shell = Effect.CONTAINED if contained else Effect.ONCE
    return (
        WorkspaceTool(bash, shell, timeout_s=COMMAND_MAX_S + 60),
        WorkspaceTool(read, Effect.READ),
        WorkspaceTool(write, Effect.CONTAINED),
        WorkspaceTool(edit, Effect.CONTAINED),
        WorkspaceTool(glob, Effect.READ),
        WorkspaceTool(grep, Effect.READ),
    )


class WorkspaceTool:
    """One of the functions below as a tool. Implements the `Tool` port."""

    def __init__(self, work: Work, effect: Effect, *, timeout_s: float = 300.0) -> None:
        name = work.__name__
        self._work = work
        self._parameters = Parameters(work, name, __name__)
        self._spec = ToolSpec(
            name=name,
            description=self._parameters.description,
            input_schema=self._parameters.schema,
            effect=effect,
            environment=True,
            mutates=effect is not Effect.READ,
            timeout_s=timeout_s,
            source=f"{__name__}:{name}",
        )

    @property
    def spec(self) -> ToolSpec:
        return self._spec

    async def call(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Run the call; what the sandbox refuses becomes an output the model can read."""
        given = self._parameters.bind(arguments, context)
        try:
            return await self._work(**given)
        except Unavailable as error:
            info = error_info(
                error.code, "environment", error.message, retryable=True, hint=error.hint
            )
            raise ToolFailed(info) from error
        except PerdureError as error:
            return _refused(self._spec.name, error.code, error.message, error.hint)

    async def probe(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput | None:
        """A contained call needs no probe: its workspace is rolled back."""
        return None


async def bash(
    context: ToolContext,
    command: str,
    timeout_s: Annotated[float, Meta(gt=0, le=COMMAND_MAX_S)] | None = None,
) -> ToolOutput:
    """Run a bash script in the workspace and return what it prints and its exit code.

    The current directory, variables and functions last from one call to the next. Processes do
    not: when the script ends, everything it started is ended too. There may be no network.

    Args:
        command: the script
        timeout_s: seconds after which it is killed; without it the environment's limit holds
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ended = await context.sandbox.run(
        command,
        timeout_s=timeout_s,
        on_output=lambda data: context.progress(decoder.decode(data)),
    )
    return _ended(ended, timeout_s)


async def read(
    context: ToolContext,
    path: str,
    offset: Annotated[int, Meta(ge=1)] = 1,
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 2000,
) -> ToolOutput:
    """Read a text file of the workspace. Each line comes with its number and a tab in front.

    Args:
        path: the file, relative to the workspace
        offset: the first line to show
        limit: how many lines to show
    """
    data = await context.sandbox.files.read(path)
    if b"\0" in data[:BINARY_LOOK]:
        return ToolOutput(f"(a binary file of {len(data)} bytes; look at it with a command)")
    return ToolOutput(texts.numbered(texts.decode(data), offset, limit))


async def write(context: ToolContext, path: str, content: str) -> ToolOutput:
    """Write a whole file of the workspace, making it and its directories where they are missing.

    Args:
        path: the file, relative to the workspace
        content: all that is to be in it
    """
    data = as_bytes(content)
    await context.sandbox.files.write(path, data)
    return ToolOutput(f"Wrote {len(data)} bytes to {path}.")


async def edit(
    context: ToolContext, path: str, old: str, new: str, replace_all: bool = False
) -> ToolOutput:
    """Replace an exact piece of a file. It must be there once, unless replace_all is set.

    Args:
        path: the file, relative to the workspace
        old: the text to replace, without line numbers, white space and all
        new: what takes its place
        replace_all: replace every occurrence
    """
    text = texts.decode(await context.sandbox.files.read(path))
    try:
        edited = await asyncio.to_thread(texts.replace, text, old, new, every=replace_all)
    except texts.NoEditError as error:
        return _refused("edit", "E-EDIT", str(error))
    await context.sandbox.files.write(path, as_bytes(edited.text))
    times = "once" if edited.times == 1 else f"{edited.times} times"
    shown = texts.around(edited.text, edited.line, new.count("\n"))
    return ToolOutput(f"Replaced {times} in {path}:\n{shown}")


async def glob(context: ToolContext, pattern: str) -> ToolOutput:
    """List the files of the workspace whose path matches, sorted.

    Args:
        pattern: such as *.py (in any directory), src/**/*.ts, docs/*.{md,txt}
    """
    paths = await context.sandbox.files.list()
    found = await asyncio.to_thread(globs.matching, pattern, paths)
    if not found:
        return ToolOutput(f"No file matches {pattern}.")
    shown = found[:PATHS_MAX]
    if len(found) > PATHS_MAX:
        shown.append(f"[{len(found) - PATHS_MAX} more; use a narrower pattern]")
    return ToolOutput("\n".join(shown))


async def grep(
    context: ToolContext,
    pattern: str,
    path: str = ".",
    glob: str = "",
    ignore_case: bool = False,
    literal: bool = False,
    around: Annotated[int, Meta(ge=0, le=20)] = 0,
    limit: Annotated[int, Meta(ge=1, le=2000)] = 200,
) -> ToolOutput:
    """Search the text files of the workspace; return file:line:text for each line that matches.

    Args:
        pattern: an extended regular expression (as grep -E reads it)
        path: a file or directory to search in, relative to the workspace
        glob: search only files whose name matches, such as *.py
        ignore_case: make no difference between upper and lower case
        literal: take the pattern as plain text
        around: how many lines to show before and after each match
        limit: how many lines to return
    """
    if "\0" in pattern + path + glob:
        return _refused("grep", "E-GREP", "A pattern for grep cannot hold a NUL character.")
    words = ["-rnHI", "-F" if literal else "-E", "--exclude-dir=.git"]
    words += ["-i"] if ignore_case else []
    words += [f"-C{around}"] if around else []
    words += [f"--include={glob}"] if glob else []
    search = shlex.join(["grep", *words, "-e", pattern, "--", path or "."])
    script = (
        # In a subshell, from the top of the workspace, wherever the last command left the shell.
        f"( builtin cd -- {shlex.quote(_root(context.sandbox))} || exit 125\n"
        f"LC_ALL=C command {search} 2>&1 | LC_ALL=C command cut -b1-{LINE_BYTES}"
        f" | command head -n {limit + 1}\n"
        'exit "${PIPESTATUS[0]}" )'
    )
    ended = await context.sandbox.run(script, timeout_s=GREP_S)
    return _matches(ended, limit)


def _root(sandbox: Sandbox) -> str:
    """Return the workspace as commands see it; without a mount of its own that is where it is."""
    return str(getattr(sandbox, "mount", "") or sandbox.workspace)


def _matches(ended: Ended, limit: int) -> ToolOutput:
    if ended.killed:
        return _ended(ended, GREP_S)
    lines = [line.removeprefix("./") for line in texts.decode(ended.output).split("\n") if line]
    complaints = [line for line in lines if line.startswith(("grep: ", "bash: "))]
    if complaints and len(complaints) == len(lines):
        return _refused("grep", "E-GREP", "\n".join(lines))
    if not lines:
        return ToolOutput("No matches.")
    if len(lines) > limit:
        lines[limit:] = [f"[only the first {limit} lines; search for something narrower]"]
    return ToolOutput("\n".join(lines))


def _ended(ended: Ended, timeout_s: float | None) -> ToolOutput:
    """Show a command's end: its output, and then in brackets how it ended."""
    output = texts.decode(ended.output)
    if output and not output.endswith("\n"):
        output += "\n"
    meta = {"exit_code": ended.exit_code, "duration_s": round(ended.duration_s, 3)}
    if not ended.killed:
        text = f"{output or NO_OUTPUT + chr(10)}[exit code {ended.exit_code}]"
        return ToolOutput(text, full=ended.full, meta=meta)
    reason = ended.killed
    if reason == "timeout":
        reason = f"timeout after {round(timeout_s or ended.duration_s, 1):g} s"
    info = error_info("E-TOOL-KILLED", "tool", f"killed: {reason}", subject=f"bash {ended.killed}")
    return ToolOutput(f"{output}[killed: {reason}]", error=info, full=ended.full, meta=meta)


def _refused(tool: str, code: str, message: str, hint: str = "") -> ToolOutput:
    info = error_info(code, "tool", message, subject=tool, hint=hint)
    return ToolOutput(f"{message} {hint}".strip(), error=info)
