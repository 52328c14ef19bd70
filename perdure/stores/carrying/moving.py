"""From one store, or a backup, into an empty one; and again after a kill, until it is whole."""

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Final

from msgspec import Struct

from perdure.core.codec import decode, encode
from perdure.core.errors import Conflict, Unavailable
from perdure.ports.carrying import KeptDoc
from perdure.ports.store import Store
from perdure.stores.carrying.entries import Entry, Summary
from perdure.stores.carrying.reading import MARK, CarriableStore, Reading
from perdure.stores.carrying.writing import Writing

_NAME: Final = "from"
_ROUNDS: Final = 3
_LOOK_S: Final = 0.25
_PATIENCE_S: Final = 30.0
Told = Callable[[Summary], None]


class Mark(Struct, frozen=True):
    """Where a store's content came from, kept in it: `whole` when all of it had come."""

    source: str
    whole: bool = False


class Outcome(Struct, frozen=True):
    """What is at the target now; `written` events came just now, `verified` were read again."""

    summary: Summary
    written: int
    verified: int


async def move(
    source: CarriableStore, target: CarriableStore, name: str, told: Told | None = None
) -> Outcome:
    """Bring everything from `source`, which is called `name`, into the empty `target`.

    Raises `Conflict` where another process has the source open or the target holds something else,
    `CorruptJournal` for what is damaged. Nothing of the source is changed.
    """
    await _check_alone(source, "source")
    await _prepare(target, name)
    await source.changed(0)  # what was before is no news
    for _ in range(_ROUNDS):
        reading, writing = Reading(source), Writing(target)
        await _carry(reading.entries(), writing, told)
        await writing.forget_others(reading.sessions)
        if not await source.changed(0):
            return await _finished(target, writing, name)
    raise Unavailable(
        "E-MOVE-CHANGING",
        "The source was written to all the while. It is whole; the target is not.",
        "End whatever uses the source, then type the same command again.",
    )


async def restore(
    entries: AsyncIterable[Entry], target: CarriableStore, name: str, told: Told | None = None
) -> Outcome:
    """Bring a backup, which is called `name`, into the empty `target`. See `move`."""
    await _prepare(target, name)
    writing = Writing(target)
    await _carry(entries, writing, told)
    return await _finished(target, writing, name)


async def check_whole(store: Store) -> None:
    """Raise `Conflict` (E-STORE-HALF) for a store that was not filled to the end: what somebody did
    in it now would be undone when the move goes on.
    """
    doc = await store.doc(MARK, _NAME)
    if doc is not None and not (mark := decode(doc.data, Mark)).whole:
        raise Conflict(
            "E-STORE-HALF",
            f"This store was being filled from {mark.source}, and not all has come."
            " Nothing was opened.",
            "Type the same perdure admin move or restore again; it goes on where it was.",
        )


async def _carry(entries: AsyncIterable[Entry], writing: Writing, told: Told | None) -> None:
    try:
        async for entry in entries:
            await writing.take(entry)
            if told is not None:
                told(writing.summary)
        await writing.settle()
    finally:
        await writing.abandon()


async def _finished(target: CarriableStore, writing: Writing, name: str) -> Outcome:
    verified = await writing.verify()
    await target.put_doc(MARK, _NAME, encode(Mark(name, whole=True)))
    return Outcome(writing.summary, writing.written, verified)


async def _check_alone(store: CarriableStore, which: str, patience_s: float = 0.0) -> None:
    """See that no other living process has a store open; one that was killed may have to be waited
    for, where it counts as alive until its lease runs out.
    """
    while others := await store.neighbours():
        if patience_s <= 0:
            raise Conflict(
                "E-MOVE-IN-USE",
                f"{_have(len(others))} the {which} open: {', '.join(others[:3])}."
                " Nothing was moved.",
                "End the servers and workers on it, then type it again.",
            )
        await asyncio.sleep(_LOOK_S)
        patience_s -= _LOOK_S


def _have(others: int) -> str:
    return "1 other process has" if others == 1 else f"{others} other processes have"


async def _prepare(target: CarriableStore, name: str) -> None:
    """See that the target is empty, or that it is this move that was cut off."""
    doc = await target.doc(MARK, _NAME)
    if doc is None:
        found: list[KeptDoc] = await target.kept_docs(None, 1)
        sessions = len(await target.sessions())
        if sessions or found:
            raise Conflict(
                "E-TARGET-NOT-EMPTY",
                f"The target holds {sessions} session(s) or documents already."
                " Nothing was written.",
                "Name another one: a file that is not there is made, a database by createdb.",
            )
        await _check_alone(target, "target")
        await target.put_doc(MARK, _NAME, encode(Mark(name)), expect=0)
        return
    mark = decode(doc.data, Mark)
    if mark.source != name:
        raise Conflict(
            "E-TARGET-NOT-EMPTY",
            f"The target was begun from {mark.source}. Nothing was written.",
            "Go on with that one, or name a new target.",
        )
    if mark.whole:
        raise Conflict(
            "E-MOVE-DONE",
            f"All of {name} has come here already. Nothing was written.",
            "Use the target now; perdure doctor --verify checks it.",
        )
    await _check_alone(target, "target", _PATIENCE_S)
