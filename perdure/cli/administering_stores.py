"""The verbs of `perdure admin` that concern a whole store. Bodies are imported when called."""

from typing import Annotated

import typer

from perdure.cli.help import Verb

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Store = Annotated[
    str, typer.Option("--store", metavar="URL", help="Another store than the project's.")
]
Blobs = Annotated[
    str, typer.Option("--blobs", metavar="URL", help="Where its payloads are, if elsewhere.")
]


def declare_stores(admin: typer.Typer) -> None:
    """Add the verbs."""
    for name, verb in (
        ("purge", purge),
        ("retain", retain),
        ("backup", backup),
        ("restore", restore),
        ("move", move),
        ("migrate", migrate),
        ("gc", gc),
    ):
        admin.command(name, cls=Verb)(verb)


def purge(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID…]", help="Sessions: their ids, or the beginnings of them."),
    ] = None,
    person: Annotated[
        str,
        typer.Option("--person", metavar="NAME", help="All that NAME began, spoke or decided in."),
    ] = "",
    project: Annotated[
        str, typer.Option("--project", metavar="P", help="The project.")
    ] = "default",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Delete sessions for good, with their subagents and workspaces."""
    from perdure.cli.admin_purge import purge as verb

    return verb(ids or [], person, project, yes=yes, json=json)


def retain(
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Delete; without it: only show.")
    ] = False,
    json: Json = False,
) -> int:
    """Show, or delete, what was kept for longer than [retention] says."""
    from perdure.cli.admin_retain import retain as verb

    return verb(yes=yes, json=json)


def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, or to check.")],
    check: Annotated[
        bool, typer.Option("--check", help="Read a backup and check all of it; restore nothing.")
    ] = False,
    store: Store = "",
    blobs: Blobs = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace a file that is there.")] = False,
    json: Json = False,
) -> int:
    """Copy all that the store keeps into one file, while servers run."""
    from perdure.cli.admin_backup import backup as verb

    return verb(file, store, blobs, check=check, yes=yes, json=json)


def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A backup.")],
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="An empty store; a new one is made.")
    ],
    blobs: Blobs = "",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Bring a backup into an empty store, and check it there."""
    from perdure.cli.admin_backup import restore as verb

    return verb(file, to, blobs, yes=yes, json=json)


def move(
    from_: Annotated[str, typer.Option("--from", metavar="URL", help="The store as it is.")],
    to: Annotated[
        str, typer.Option("--to", metavar="URL", help="An empty store; a new one is made.")
    ],
    from_blobs: Annotated[
        str, typer.Option("--from-blobs", metavar="URL", help="Where its payloads are.")
    ] = "",
    to_blobs: Annotated[
        str, typer.Option("--to-blobs", metavar="URL", help="Where its payloads are to be.")
    ] = "",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Bring everything from one store into another, and check it there."""
    from perdure.cli.admin_move import Place, move as verb
    from perdure.cli.desk import whole_url

    source, target = Place(whole_url(from_), from_blobs), Place(whole_url(to), to_blobs)
    return verb(source, target, yes=yes, json=json)


def migrate(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what would be done, and the statements.")
    ] = False,
    store: Store = "",
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Bring the store's tables to the version that this perdure knows."""
    from perdure.cli.admin_migrate import migrate as verb

    return verb(store, plan=plan, yes=yes, json=json)


def gc(
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Remove nothing; say how much it would be.")
    ] = False,
    hours: Annotated[
        float,
        typer.Option("--grace", metavar="HOURS", help="Spare what is younger; at least 24."),
    ] = 24.0,
    json: Json = False,
) -> int:
    """Remove payloads and snapshots that nothing refers to any more."""
    from perdure.cli.admin_gc import gc as verb

    return verb(hours, dry=dry, json=json)
