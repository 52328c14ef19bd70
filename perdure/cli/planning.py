"""The verbs behind `perdure schedule`. Each body imports its module when it is called."""

from typing import Annotated, Any

import typer

from perdure.cli.help import Verb

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

schedule = typer.Typer(
    name="schedule", help="Let agents run by themselves: by a cron expression, or once.",
    invoke_without_command=True, rich_markup_mode=None,
)  # fmt: skip


@schedule.callback()
def root(context: typer.Context) -> None:
    """Let agents run by themselves: by a cron expression, or once."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def declare_schedules(app: typer.Typer, panel: str) -> None:
    """Add the verbs to the command line."""
    app.add_typer(schedule, rich_help_panel=panel)


@schedule.command(cls=Verb)
def add(  # noqa: PLR0913, PLR0917 - each is an option
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What to do; - reads it from stdin.")
    ],
    agent: Annotated[
        str, typer.Option("--agent", metavar="AGENT", help="Who does it; as for perdure run.")
    ],
    cron: Annotated[
        str, typer.Option("--cron", metavar="'M H D M W'", help="When; or @daily, @hourly, …")
    ] = "",
    at: Annotated[
        str, typer.Option("--at", metavar="'YYYY-MM-DD HH:MM'", help="Once, at this moment.")
    ] = "",
    tz: Annotated[
        str, typer.Option("--tz", metavar="ZONE", help="The time zone of all that: Europe/Berlin.")
    ] = "UTC",
    until: Annotated[
        str, typer.Option("--until", metavar="'YYYY-MM-DD HH:MM'", help="Not after this moment.")
    ] = "",
    session: Annotated[
        str, typer.Option("--session", metavar="ID", help="All runs in this one session.")
    ] = "",
    workspace: Annotated[
        str, typer.Option("--workspace", metavar="DIR", help="Begin with a copy of DIR each time.")
    ] = "",
    missed: Annotated[
        str,
        typer.Option("--missed", metavar="skip|last|all", help="What of runs that were missed."),
    ] = "last",
    overlap: Annotated[
        str,
        typer.Option("--overlap", metavar="skip|queue", help="While the run before is not over."),
    ] = "",
    json: Json = False,
) -> int:
    """Let an agent run by a cron expression, or once."""
    from perdure.cli.schedule import Wish, add as verb

    wish = Wish(name, prompt, agent, cron, at, tz, until, session, workspace, missed, overlap)
    return verb(wish, json=json)


@schedule.command("ls", cls=Verb)
def list_(json: Json = False) -> int:
    """List the schedules, with what comes next."""
    from perdure.cli.schedule import ls as verb

    return verb(json=json)


@schedule.command(cls=Verb)
def show(name: Name, json: Json = False) -> int:
    """Show a schedule: its next fire times and its last runs."""
    from perdure.cli.schedule import show as verb

    return verb(name, json=json)


@schedule.command(cls=Verb)
def pause(name: Name, json: Json = False) -> int:
    """Let it fire no more until it is resumed."""
    return _act("pause", name, json=json)


@schedule.command(cls=Verb)
def resume(name: Name, json: Json = False) -> int:
    """Let it go on with its next fire time."""
    return _act("resume", name, json=json)


@schedule.command(cls=Verb)
def rm(name: Name, json: Json = False) -> int:
    """Forget it; the sessions that it made stay, runs that have not begun go with it."""
    return _act("rm", name, json=json)


@schedule.command(cls=Verb)
def now(name: Name, json: Json = False) -> int:
    """Run it once outside its plan."""
    return _act("now", name, json=json)


def _act(what: Any, name: str, *, json: bool) -> int:
    from perdure.cli.schedule import act

    return act(what, name, json=json)
