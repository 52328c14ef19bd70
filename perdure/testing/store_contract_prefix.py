"""Lists of a part of the store: those whose names begin alike."""

from perdure.ports.store import ErrorRow, SessionRow, Store
from perdure.testing.store_harness import Pen, StoreHarness

NAMES = (
    "a",
    "a b",
    "ab",
    "a\ud7ff",
    "a\ue000",
    "a\U0010ffff",
    "a\U0010ffff!",
    "b",
    "A",
    "\U0010ffff",
)
PREFIXES = ("", "a", "ab", "a\ud7ff", "a\U0010ffff", "\U0010ffff", "c", "\ud800", "a\0", "a b!")


class PrefixContract:
    """What `prefix` means in `sessions`, `mailboxes`, `errors` and `due`."""

    async def test_lists_hold_only_names_that_begin_so(self, harness: StoreHarness) -> None:
        store = await harness.open()
        for number, name in enumerate(NAMES, 1):
            await _write(store, name, number)
        for prefix in PREFIXES:
            fitting = [name for name in NAMES if name.startswith(prefix)]
            assert [row.id for row in await store.sessions(prefix)] == fitting[::-1]
            assert sorted(await store.mailboxes(prefix)) == sorted(fitting)
            assert [row.session for row in await store.errors(prefix)] == sorted(fitting)
            assert await store.due(100, 100, prefix) == fitting
            assert await store.due(100, 2, prefix) == fitting[:2]


async def _write(store: Store, name: str, number: int) -> None:
    pen = Pen(await store.claim(name))
    row = SessionRow(id=name, updated_at_us=number, wake_at_us=number)
    error = ErrorRow("f", name, "E-TOOL-RAISED", "tool", "no", 1, 1, 1)
    await store.append(pen.batch(b"1", row=row)._replace(errors=[error]))
    await store.post(name, "k", b"")
