"""The verbs that take a session up again: declared here, so that `app.py` stays short.

Like there, each body imports its module when it is called.
"""

from typing import Annotated

import typer

from perdure.cli.administering import declare_admin
from perdure.cli.clustering import declare_nodes
from perdure.cli.help import Verb
from perdure.cli.planning import declare_schedules

AGAIN, CARRY, PLAN, SERVE = "Again", "Carry", "Plan", "Serve"

Id = Annotated[
    str, typer.Argument(metavar="ID", help="A session: its id, its beginning, or @last.")
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def declare(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(cls=Verb, rich_help_panel=AGAIN)(fork)
    app.command(cls=Verb, rich_help_panel=AGAIN)(rewind)
    app.command(cls=Verb, rich_help_panel=AGAIN)(replay)
    app.command(cls=Verb, rich_help_panel=AGAIN)(errors)
    app.command(cls=Verb, rich_help_panel=CARRY)(export)
    app.command("import", cls=Verb, rich_help_panel=CARRY)(import_)
    declare_schedules(app, PLAN)
    app.command(cls=Verb, rich_help_panel=PLAN)(signal)
    app.command(cls=Verb, rich_help_panel=PLAN)(work)
    declare_nodes(app, SERVE)
    declare_admin(app, SERVE)


def signal(
    id: Id,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The event's name.")],
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="What the agent reads; - reads it from stdin.")
    ] = "",
    key: Annotated[
        str, typer.Option("--key", metavar="K", help="The same key tells it once.")
    ] = "",
    json: Json = False,
) -> int:
    """Tell a session of an event that it waits for, or will."""
    from perdure.cli.signal import signal as verb

    return verb(id, name, data, key=key, json=json)


def work(
    unsandboxed: Annotated[
        bool, typer.Option("--unsandboxed", help="Also sessions that run with NO isolation.")
    ] = False,
    store: Annotated[
        str, typer.Option("--store", metavar="URL", help="Another store than perdure.toml names.")
    ] = "",
    json: Json = False,
) -> int:
    """Wake what sleeps, fire schedules, take over; until Ctrl-C."""
    from perdure.cli.work import work as verb

    return verb(unsandboxed=unsandboxed, store=store, json=json)


def fork(
    id: Id,
    at: Annotated[
        int | None,
        typer.Option("--at", metavar="SEQ", help="The last event that counts; default: now."),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="PROVIDER:MODEL", help="Go on with another model.")
    ] = "",
    agent: Annotated[
        str, typer.Option("--agent", metavar="AGENT", help="Go on as this agent is defined now.")
    ] = "",
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The fork's id; default: a fresh one.")
    ] = "",
    edit: Annotated[
        str, typer.Option("--edit", metavar="TEXT", help="The last message there, in other words.")
    ] = "",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Begin a new session at any moment of an old one."""
    from perdure.cli.fork import Branch, fork as verb

    return verb(id, Branch(at, model, agent, name, edit), yes=yes, json=json)


def rewind(
    id: Id,
    to: Annotated[int, typer.Option("--to", metavar="SEQ", help="The last event that counts.")],
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Take a session back, its files too; nothing is deleted."""
    from perdure.cli.rewind import rewind as verb

    return verb(id, to, yes=yes, json=json)


def errors(
    what: Annotated[
        str, typer.Argument(metavar="[show|redrive]", help="Nothing: the list of all causes.")
    ] = "",
    fingerprint: Annotated[
        str, typer.Argument(metavar="[F]", help="A cause, as the list names it.")
    ] = "",
    rate: Annotated[
        float, typer.Option("--rate", metavar="N", help="With redrive: sessions a second.")
    ] = 1.0,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="With redrive: with the agents as they are defined now.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Show what went wrong, by cause; resume all who wait for one."""
    from perdure.cli.errors import Wish, errors as verb

    return verb(Wish(what, fingerprint, rate, adopt), yes=yes, json=json)


def replay(
    id: Annotated[str, typer.Argument(metavar="ID[:SEQ]", help="A session, or its beginning.")],
    model: Annotated[
        str, typer.Option("--model", metavar="PROVIDER:MODEL", help="Call this model instead.")
    ] = "",
    instructions: Annotated[
        str, typer.Option("--instructions", metavar="FILE", help="Call it with these instructions.")
    ] = "",
    stub: Annotated[
        bool, typer.Option("--stub", help="Go on past calls that were never recorded.")
    ] = False,
    save_test: Annotated[
        str, typer.Option("--save-test", metavar="FILE.py", help="Keep the session as a test.")
    ] = "",
    agent: Annotated[
        str, typer.Option("--agent", metavar="MODULE:NAME", help="With --save-test: the agent.")
    ] = "",
    json: Json = False,
) -> int:
    """Go through a session again: free, or with another model."""
    from perdure.cli.replay import Wish, replay as verb

    return verb(id, Wish(model, instructions, stub, save_test, agent), json=json)


def export(id: Id) -> int:
    """Write a session's journal to standard output, a line an event."""
    from perdure.cli.carry import export as verb

    return verb(id)


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What export wrote; - for stdin.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="The session's id here; default: its own.")
    ] = "",
    json: Json = False,
) -> int:
    """Store the journal of an exported session."""
    from perdure.cli.carry import import_ as verb

    return verb(file, name, json=json)
