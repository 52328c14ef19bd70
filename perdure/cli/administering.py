"""The verbs behind `perdure admin`. Each body imports its module when it is called."""

from typing import Annotated

import typer

from perdure.cli.help import Verb

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Project = Annotated[str, typer.Option("--project", metavar="P", help="The project.")]

admin = typer.Typer(
    name="admin", help="Who may use the server; moving, copying and deleting what a store keeps.",
    invoke_without_command=True, rich_markup_mode=None,
)  # fmt: skip
keys = typer.Typer(
    name="keys", help="API keys: make, list, revoke.",
    invoke_without_command=True, rich_markup_mode=None,
)  # fmt: skip
projects = typer.Typer(
    name="projects", help="The projects of the store.",
    invoke_without_command=True, rich_markup_mode=None,
)  # fmt: skip
vault = typer.Typer(
    name="vault", help="The keys that seal secrets.",
    invoke_without_command=True, rich_markup_mode=None,
)  # fmt: skip
admin.add_typer(keys)
admin.add_typer(projects)
admin.add_typer(vault)


def declare_admin(app: typer.Typer, panel: str) -> None:
    """Add the verbs to the command line."""
    from perdure.cli.administering_stores import declare_stores

    declare_stores(admin)
    app.add_typer(admin, rich_help_panel=panel)


@admin.callback()
def root(context: typer.Context) -> None:
    """Who may use the server; moving, copying and deleting what a store keeps."""
    _help(context)


@keys.callback()
def keys_root(context: typer.Context) -> None:
    """API keys: make, list, revoke."""
    _help(context)


@projects.callback()
def projects_root(context: typer.Context) -> None:
    """The projects of the store."""
    _help(context)


@keys.command("new", cls=Verb)
def keys_new(
    project: Project = "default",
    role: Annotated[
        str, typer.Option("--role", metavar="viewer|operator|admin", help="What it may do.")
    ] = "operator",
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="What it is for, for your lists.")
    ] = "",
    expires: Annotated[
        str, typer.Option("--expires", metavar="DATE|30d", help="Not valid after that.")
    ] = "",
    json: Json = False,
) -> int:
    """Make an API key. It is shown once and kept nowhere."""
    from perdure.cli.admin import new_key

    return new_key(project, role, name, expires, json=json)


@keys.command("ls", cls=Verb)
def keys_ls(
    project: Annotated[
        str, typer.Option("--project", metavar="P", help="Only those of this project.")
    ] = "",
    json: Json = False,
) -> int:
    """List the API keys, those that were revoked too."""
    from perdure.cli.admin import list_keys

    return list_keys(project, json=json)


@keys.command("revoke", cls=Verb)
def keys_revoke(
    id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, or its beginning.")],
    json: Json = False,
) -> int:
    """Revoke an API key, at once."""
    from perdure.cli.admin import revoke_key

    return revoke_key(id, json=json)


@projects.command("ls", cls=Verb)
def projects_ls(json: Json = False) -> int:
    """List the projects: those with sessions, and those with keys."""
    from perdure.cli.admin import list_projects

    return list_projects(json=json)


@vault.callback()
def vault_root(context: typer.Context) -> None:
    """The keys that seal secrets."""
    _help(context)


@vault.command("rotate", cls=Verb)
def vault_rotate(json: Json = False) -> int:
    """Seal all secrets anew, with the first of the vault's keys."""
    from perdure.cli.admin import reseal

    return reseal(json=json)


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
