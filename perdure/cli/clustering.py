"""The verbs behind `perdure nodes`. Each body imports its module when it is called."""

from typing import Annotated

import typer

from perdure.cli.help import Verb

Name = Annotated[str, typer.Argument(metavar="NODE", help="A node: its name, or its beginning.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]

nodes = typer.Typer(
    name="nodes", help="The processes that share the store: who is alive, what runs where.",
    invoke_without_command=True, rich_markup_mode=None,
)  # fmt: skip


def declare_nodes(app: typer.Typer, panel: str) -> None:
    """Add the verbs to the command line."""
    app.add_typer(nodes, rich_help_panel=panel)


@nodes.callback()
def root(context: typer.Context, json: Json = False) -> int:
    """The processes that share the store: who is alive, what runs where."""
    if context.invoked_subcommand is not None:
        return 0
    from perdure.cli.nodes import ls as verb

    return verb(json=json)


@nodes.command(cls=Verb)
def show(name: Name, json: Json = False) -> int:
    """Show a node and the sessions that it owns."""
    from perdure.cli.nodes import show as verb

    return verb(name, json=json)


@nodes.command(cls=Verb)
def drain(name: Name, json: Json = False) -> int:
    """Tell a node to take nothing new, give all up, and end."""
    from perdure.cli.nodes import drain as verb

    return verb(name, json=json)
