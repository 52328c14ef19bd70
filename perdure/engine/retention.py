"""Which sessions have been kept for long enough. Decides from their rows alone."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from perdure.core.errors import Conflict, NotFound, SessionBusy
from perdure.engine.deleting import delete_session
from perdure.engine.kin import tree_of
from perdure.engine.runtime import Engine
from perdure.ports.store import SessionRow

_DAY_US: Final = 24 * 3600 * 1_000_000
_AT_REST: Final = ("idle", "failed", "budget", "closed")


class RetentionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For how long sessions are kept, in days after their last event; 0: for ever.

    `closed_after_days` is for those that were closed, `idle_after_days` for all in which nothing is
    due and nobody is waited for. `keep` are patterns of names that are never deleted.
    """

    closed_after_days: float = 0.0
    idle_after_days: float = 0.0
    keep: tuple[str, ...] = ()

    @property
    def is_set(self) -> bool:
        """Whether anything is ever deleted."""
        return self.closed_after_days > 0 or self.idle_after_days > 0


class Expired(msgspec.Struct, frozen=True):
    """A session that may go, with its subagents: `rows` are all of them, itself first."""

    rows: tuple[SessionRow, ...]
    idle_us: int

    @property
    def session(self) -> str:
        """The session that is deleted; the others go with it."""
        return self.rows[0].id


def expired(
    rows: Sequence[SessionRow],
    settings: RetentionSettings,
    now_us: int,
    mailboxes: Collection[str] = (),
) -> list[Expired]:
    """Return what may be deleted of one project's sessions, the longest idle first.

    A tree goes as a whole, when all of it is at rest. One with letters in its inbox is not.
    """
    there = {row.id for row in rows}
    found = []
    for row in rows:
        if row.parent in there:
            continue
        tree = tree_of(rows, row.id)
        idle_us = now_us - max(each.updated_at_us for each in tree)
        limit_us = _limit_us(row, settings)
        kept = any(fnmatchcase(each.id, glob) for each in tree for glob in settings.keep)
        resting = all(each.status in _AT_REST and each.id not in mailboxes for each in tree)
        if limit_us is not None and idle_us > limit_us and resting and not kept:
            found.append(Expired(tuple(tree), idle_us))
    return sorted(found, key=lambda each: (-each.idle_us, each.session))


async def retain(engine: Engine, settings: RetentionSettings) -> list[str]:
    """Delete what has expired in the engine's project; return the names.

    What somebody has begun to use meanwhile stays. Raises what the store raises.
    """
    if not settings.is_set:
        return []
    store, gone = engine.kit.store, list[str]()
    rows = await store.sessions()
    for each in expired(rows, settings, engine.kit.clock.now_us(), await store.mailboxes()):
        row = await store.session(each.session)
        if row is None or row.seq != each.rows[0].seq:
            continue
        try:
            gone += await delete_session(engine, each.session)
        except (NotFound, Conflict, SessionBusy):
            continue
    return gone


def _limit_us(row: SessionRow, settings: RetentionSettings) -> float | None:
    days = [settings.idle_after_days] if settings.idle_after_days > 0 else []
    if row.status == "closed" and settings.closed_after_days > 0:
        days.append(settings.closed_after_days)
    return min(days) * _DAY_US if days else None
