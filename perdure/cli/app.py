"""The verbs and their options. Each body imports its module when it is called, so that `--help`
and completion stay quick; nothing else happens here.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from perdure.cli.help import Verb, Verbs
from perdure.cli.managing import SERVE, declare

START, WORK, LOOK, DECIDE = "Start", "Work", "Look", "Check"

app = typer.Typer(
    name="perdure",
    cls=Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Id = Annotated[
    str, typer.Argument(metavar="ID", help="A session: its id, its beginning, or @last.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Approve what is asked, and say so.")]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="NAME=N", help="steps, tool_calls, wall_s, tokens or usd."),
]
Adopt = Annotated[bool, typer.Option("--adopt", help="Go on with the agent as it is defined now.")]
Unsandboxed = Annotated[
    bool, typer.Option("--unsandboxed", help="Run commands with NO isolation at all.")
]
NoWait = Annotated[
    bool,
    typer.Option("--no-wait", help="Ask nothing: leave with status 4 when a person is needed."),
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show tracebacks and logs.")
    ] = False,
) -> None:
    """Agents that never lose their place."""
    if version:
        from perdure import __version__

        typer.echo(f"perdure {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(cls=Verb, rich_help_panel=START)
def demo(
    yes: Yes = False,
    unsandboxed: Unsandboxed = False,
    directory: Annotated[
        str, typer.Option("--dir", metavar="DIR", help="Where to put the demonstration.")
    ] = "",
) -> int:
    """See an agent survive a kill: no key, no network."""
    from perdure.cli.demo import demo as verb

    return verb(yes=yes, unsandboxed=unsandboxed, directory=directory)


@app.command(cls=Verb, rich_help_panel=START)
def new(name: Annotated[str, typer.Argument(metavar="NAME", help="The folder to make.")]) -> int:
    """Make an agent of your own: a folder that runs as it is."""
    from perdure.cli.new import new as verb

    return verb(name)


@app.command(cls=Verb, rich_help_panel=WORK)
def run(  # noqa: PLR0913, PLR0917 - each is an option
    agent: Annotated[
        str,
        typer.Argument(metavar="AGENT", help="A name in perdure.toml, FILE.py[:NAME], FILE.toml."),
    ],
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to do; - reads it from stdin.")
    ] = "",
    workspace: Annotated[
        str, typer.Option("--workspace", metavar="DIR", help="Begin with a copy of this directory.")
    ] = "",
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Work on the directory itself, not on a copy.")
    ] = False,
    model: Annotated[str, typer.Option("--model", metavar="PROVIDER:MODEL")] = "",
    session: Annotated[
        str,
        typer.Option("--session", metavar="ID", help="Go on with this session, or name a new one."),
    ] = "",
    yes: Yes = False,
    json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once with the id.")] = False,
    limit: Limit = None,
    no_wait: NoWait = False,
    adopt: Adopt = False,
    unsandboxed: Unsandboxed = False,
) -> int:
    """Give an agent something to do, and watch."""
    from perdure.cli.run import Wish, run as verb

    wish = Wish(agent, text, workspace, in_place, model, session, limit or [], adopt, unsandboxed)
    return verb(wish, yes=yes, json=json, detach=detach, no_wait=no_wait)


@app.command(cls=Verb, rich_help_panel=WORK)
def resume(  # noqa: PLR0913, PLR0917 - each is an option
    id: Id,
    as_: Annotated[
        str, typer.Option("--as", metavar="done|failed", help="What became of the unknown call.")
    ] = "",
    result: Annotated[
        str, typer.Option("--result", metavar="JSON", help="With --as done: what it returned.")
    ] = "",
    rerun: Annotated[bool, typer.Option("--rerun", help="Run the unknown call again.")] = False,
    reason: Annotated[
        str, typer.Option("--reason", help="With --as failed: what the model reads.")
    ] = "",
    action: Annotated[
        str, typer.Option("--action", metavar="A", help="Which call, when several are unknown.")
    ] = "",
    adopt: Adopt = False,
    limit: Limit = None,
    agent: Annotated[
        str, typer.Option("--agent", metavar="AGENT", help="Where the agent's code is now.")
    ] = "",
    yes: Yes = False,
    json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once.")] = False,
    no_wait: NoWait = False,
) -> int:
    """Go on: after a crash, a stop, a limit, an unknown outcome."""
    from perdure.cli.resume import How, resume as verb

    how = How(as_, result, rerun, reason, action, adopt, limit or [], agent)
    return verb(id, how, yes=yes, json=json, detach=detach, no_wait=no_wait)


@app.command(cls=Verb, rich_help_panel=WORK)
def stop(
    id: Id,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="End the turn instead of pausing.")
    ] = False,
    close: Annotated[
        bool, typer.Option("--close", help="End the session for good; its journal stays.")
    ] = False,
    json: Json = False,
) -> int:
    """Pause a session; with --cancel, end what it is doing; with --close, end it for good."""
    from perdure.cli.stop import stop as verb

    return verb(id, cancel=cancel, close=close, json=json)


@app.command(cls=Verb, rich_help_panel=WORK)
def approve(  # noqa: PLR0913, PLR0917 - each is an option
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID…]", help="Sessions, or one action as ID:ACTION."),
    ] = None,
    allow: Annotated[bool, typer.Option("--allow", help="Let the call run.")] = False,
    deny: Annotated[bool, typer.Option("--deny", help="Refuse it.")] = False,
    reason: Annotated[
        str, typer.Option("--reason", help="With --deny: what the model reads.")
    ] = "",
    edit: Annotated[
        str, typer.Option("--edit", metavar="JSON", help="Let it run with these arguments.")
    ] = "",
    scope: Annotated[
        str,
        typer.Option(
            "--for", metavar="once|session|rule", help="With --allow: calls like it, too."
        ),
    ] = "",
    when: Annotated[
        str,
        typer.Option("--when", metavar="COND", help="With --for: which ones; without it, all."),
    ] = "",
    until: Annotated[
        str, typer.Option("--until", metavar="DATE|7d", help="With --for: until then.")
    ] = "",
    rules: Annotated[
        bool, typer.Option("--rules", help="What is allowed beyond single calls.")
    ] = False,
    revoke: Annotated[
        str, typer.Option("--revoke", metavar="NAME", help="Take back one of these.")
    ] = "",
    tools: Annotated[
        bool, typer.Option("--tools", help="MCP tools whose definition changed: SERVER:TOOL.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Show what waits for a person, and decide."""
    if tools:
        from perdure.cli.held import tools as held

        return held(ids or [], accept=allow or yes, json=json)
    if rules or revoke:
        from perdure.cli import granted

        return granted.revoke(revoke, json=json) if revoke else granted.rules(json=json)
    from perdure.cli.approve import Choice, approve as verb

    choice = Choice(allow or yes, deny, reason, edit, scope, when, until)
    return verb(ids or [], choice, json=json)


@app.command(cls=Verb, rich_help_panel=WORK)
def answer(
    id: Annotated[
        str, typer.Argument(metavar="[ID[:CALL]]", help="A session, or one call of it.")
    ] = "",
    value: Annotated[
        str | None, typer.Argument(metavar="[VALUE]", help="The answer; without it: list.")
    ] = None,
    json_value: Annotated[
        str | None, typer.Option("--json-value", metavar="JSON", help="The answer as JSON.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", metavar="F", help="The answer from a file; - is standard input."),
    ] = None,
    failed: Annotated[
        str | None,
        typer.Option("--failed", metavar="REASON", help="There is none; the model reads why."),
    ] = None,
    json: Json = False,
) -> int:
    """Show what waits for a client, and answer it."""
    from perdure.cli.answer import Given, answer as verb

    return verb(id, Given(value, json_value, file, failed), json=json)


@app.command(cls=Verb, rich_help_panel=WORK)
def compact(id: Id, json: Json = False) -> int:
    """Make what the model reads shorter before its next call; the journal keeps all."""
    from perdure.cli.compact import compact as verb

    return verb(id, json=json)


@app.command("ls", cls=Verb, rich_help_panel=LOOK)
def list_(
    waiting: Annotated[bool, typer.Option("--waiting", help="Those that need a person.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Those that went wrong.")] = False,
    agent: Annotated[
        str, typer.Option("--agent", metavar="NAME", help="Those of this agent.")
    ] = "",
    all_: Annotated[bool, typer.Option("--all", help="All, not only the newest 30.")] = False,
    projects: Annotated[
        bool, typer.Option("--all-projects", help="Those of a server's other projects, too.")
    ] = False,
    json: Json = False,
) -> int:
    """List the sessions."""
    from perdure.cli.ls import ls as verb

    return verb(
        waiting=waiting,
        failed=failed,
        agent=agent,
        everything=all_,
        projects=projects,
        json=json,
    )


@app.command(cls=Verb, rich_help_panel=LOOK)
def show(
    id: Annotated[str, typer.Argument(metavar="ID[:SEQ]", help="A session, or one of its events.")],
    other: Annotated[
        str, typer.Argument(metavar="[ID[:SEQ]]", help="With --compare: the other one.")
    ] = "",
    context: Annotated[bool, typer.Option("--context", help="What the model reads.")] = False,
    state: Annotated[bool, typer.Option("--state", help="What the events fold to.")] = False,
    diff: Annotated[
        bool, typer.Option("--diff", help="What the agent changed in its workspace.")
    ] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Two sessions side by side: a fork and its origin."),
    ] = False,
    events: Annotated[bool, typer.Option("--events", help="The journal, event by event.")] = False,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Bring the changes back to the directory they came from."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --apply: over your own changes, too.")
    ] = False,
    json: Json = False,
) -> int:
    """Show a session, one event, its changes."""
    from perdure.cli.show import View, show as verb

    if other or compare:
        from perdure.cli.beside import beside

        return beside(id, other, compare=compare or diff, json=json)
    view = View(context=context, state=state, diff=diff, events=events, json=json)
    if apply:
        from perdure.cli.bring import apply as bring_back

        return bring_back(id, force=force, json=json)
    return verb(id, view)


declare(app)


@app.command(cls=Verb, rich_help_panel=SERVE)
def up(
    agents: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="AGENT",
            help="Agents of perdure.toml, .py files with agents, a project's .toml; without: all.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="What to listen on (127.0.0.1).")
    ] = "",
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="The port (8700); 0: one that is free."
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option("--store", metavar="URL", help="The store: sqlite:///FILE, postgresql://…"),
    ] = "",
    json: Json = False,
) -> int:
    """Serve sessions over HTTP, to any client."""
    from perdure.cli.up import up as verb

    return verb(agents or (), host=host, port=port, store=store, json=json)


@app.command(cls=Verb, rich_help_panel=DECIDE)
def doctor(
    verify: Annotated[bool, typer.Option("--verify", help="Read and check every journal.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Ask the models, too.")] = False,
    json: Json = False,
) -> int:
    """Check this machine and this project; each finding with its fix."""
    from perdure.cli.doctor import doctor as verb

    return verb(verify=verify, online=online, json=json)


@app.command(cls=Verb, rich_help_panel=DECIDE)
def selftest(
    what: Annotated[str, typer.Argument(metavar="sandbox", help="What to test: sandbox.")],
    json: Json = False,
) -> int:
    """Try to break out of the sandbox, here and now."""
    from perdure.cli.doctor import selftest as verb

    return verb(what, json=json)


def main(arguments: Sequence[str]) -> int:
    """Run a command line; return its exit status. Errors are printed, never raised."""
    from perdure.cli.failing import report
    from perdure.cli.screen import VERBOSE

    own = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    rest = list(arguments[len(own) :])
    own = [each for each in own if each not in VERBOSE]
    try:
        status: Any = app(args=own + rest, prog_name="perdure", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, a person reads it
        return report(error, json="--json" in own)
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    return status if isinstance(status, int) else 0
