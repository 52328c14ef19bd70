"""`perdure admin`: keys, projects, and what is deleted for good."""

import json as plain_json
import os
from collections import Counter
from typing import Any

from perdure.cli.desk import Desk, at_desk
from perdure.cli.granted import local, until_of
from perdure.cli.me import whoami
from perdure.cli.screen import Screen
from perdure.cli.text import one_line, pad, plural
from perdure.core.errors import InvalidRequest
from perdure.doors.principals import KeyRecord, role_of
from perdure.serving.vault_key import beside, vault_keys
from perdure.stores.projects import DEFAULT
from perdure.stores.vault import DOCS, SealedVault


def new_key(project: str, role: str, name: str, expires: str, *, json: bool) -> int:
    """Make a key and show it."""

    async def make(desk: Desk) -> int:
        screen = Screen(json=json)
        desk.stores.of(project)  # refuses what names no project
        until_us = _end(expires, desk.clock.now_us())
        record, key = await desk.keys.make(
            project, role_of(role), name=name, expires_at_us=until_us, by=whoami()
        )
        if json:
            screen.line(plain_json.dumps({**_fields(record), "key": key}))
            return 0
        until = f", until {local(until_us)}" if until_us else ""
        screen.line(f"{record.id}: {role} in {project}{until}.")
        screen.line(f"  {screen.bold(key)}")
        screen.line("  " + screen.dim("This is the only time that it is shown."))
        return 0

    return at_desk(make)


def list_keys(project: str, *, json: bool) -> int:
    """List the keys of one project, or of all."""

    async def show(desk: Desk) -> int:
        screen = Screen(json=json)
        now_us = desk.clock.now_us()
        records = await desk.keys.all(project or None)
        for record in records:
            if json:
                screen.line(plain_json.dumps(_fields(record)))
                continue
            words = [pad(record.id, 20), pad(record.project, 16), pad(record.role, 8)]
            screen.line("  ".join([*words, _standing(record, now_us), one_line(record.name)]))
        if not records and not json:
            screen.line("There are no API keys yet.")
            screen.line("  " + screen.dim("next  perdure admin keys new --role admin"))
        return 0

    return at_desk(show)


def revoke_key(typed: str, *, json: bool) -> int:
    """Revoke the key whose id is, or begins with, what was typed."""

    async def revoke(desk: Desk) -> int:
        screen = Screen(json=json)
        ids = [r.id for r in await desk.keys.all()]
        found = [each for each in ids if typed and each.startswith(typed)]
        if typed not in ids and len(found) > 1:
            raise InvalidRequest(
                "E-KEY-MANY", f"{typed!r} is the beginning of {', '.join(found[:5])}.", "Type more."
            )
        record = await desk.keys.revoke(found[0] if len(found) == 1 else typed)
        if json:
            screen.line(plain_json.dumps(_fields(record)))
        else:
            screen.line(f"{record.id} is revoked: the next request with it is refused.")
        return 0

    return at_desk(revoke)


def reseal(*, json: bool) -> int:
    """Seal all secrets with the vault's first key."""

    async def rotate(desk: Desk) -> int:
        settings, environ = desk.project.settings.server, desk.project.environ
        file = beside(desk.project.store_url)
        held = await vault_keys(settings, environ, file, os.urandom)
        count = 0
        for project in sorted(
            {desk.stores.parted(doc.name)[0] for doc in await desk.stores.base.docs(DOCS)}
        ):
            vault = SealedVault(desk.stores.of(project), held.keys, os.urandom)
            count += await vault.reseal()
        screen = Screen(json=json)
        if json:
            screen.line(plain_json.dumps({"resealed": count, "keys": len(held.keys)}))
        else:
            screen.line(f"{plural(count, 'secret')} sealed anew; {held.said}.")
        return 0

    return at_desk(rotate)


def list_projects(*, json: bool) -> int:
    """List the projects with what they have."""

    async def show(desk: Desk) -> int:
        screen = Screen(json=json)
        rows = await desk.stores.base.sessions()
        sessions = Counter(desk.stores.parted(row.id)[0] for row in rows)
        keys = Counter(record.project for record in await desk.keys.all())
        for name in sorted({DEFAULT, *sessions, *keys}):
            fields = {"project": name, "sessions": sessions[name], "keys": keys[name]}
            shown = f"{pad(name, 24)}  {plural(sessions[name], 'session')}, "
            screen.line(plain_json.dumps(fields) if json else shown + plural(keys[name], "key"))
        return 0

    return at_desk(show)


def _end(expires: str, now_us: int) -> int | None:
    try:
        return until_of(expires, now_us)
    except InvalidRequest as error:
        raise InvalidRequest(
            "E-EXPIRES",
            f"--expires {expires!r} is no moment that is to come. No key was made.",
            "--expires 2030-12-01, 2030-12-01T18:00 or 30d",
        ) from error


def _fields(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "project": record.project,
        "role": record.role,
        "name": record.name,
        "made_at_us": record.made_at_us,
        "expires_at_us": record.expires_at_us,
        "revoked_at_us": record.revoked_at_us,
        "by": record.by,
    }


def _standing(record: KeyRecord, now_us: int) -> str:
    if record.revoked_at_us is not None:
        return f"revoked {local(record.revoked_at_us)}"
    if record.expires_at_us is None:
        return "valid"
    expired = record.expires_at_us <= now_us
    return f"{'expired' if expired else 'until'} {local(record.expires_at_us)}"
