"""Whose words are where: found in every event that says by whom it was, and in letters."""

from perdure.core.codec import encode
from perdure.core.content import as_content
from perdure.core.events import ActionResolved, InputAccepted, NoteRecorded
from perdure.core.facts import SessionForked
from perdure.core.inbox import Say
from perdure.engine.persons import parts_of
from perdure.stores.memory import MemoryDisk, MemoryStore
from tests.contract.journals import diary, record

WORDS = as_content("w" * 70_000)  # its payload lies aside


async def test_a_person_is_found_wherever_they_had_a_part() -> None:
    store = MemoryStore(MemoryDisk())
    said = InputAccepted("message", as_content("hello"), by="anna")
    long = InputAccepted("message", WORDS, by="anna")
    quoted = InputAccepted("message", as_content('"by":"anna" she said'), by="bert")
    decided = ActionResolved("a", "allow", by="anna")
    brought = SessionForked("ses_brought", "x", 1, imported_by="anna")
    for name, payload in (
        ("ses_said", said), ("ses_long", long), ("ses_quoted", quoted), ("ses_decided", decided),
        ("ses_brought", brought), ("ses_none", NoteRecorded("anna")),
    ):  # fmt: skip
        await record(store, await diary(store, name, "before"), payload)
    await store.fork("ses_said", 3, "ses_fork")
    await record(store, await store.claim("ses_fork"), said)
    await diary(store, "ses_waits")
    await store.post("ses_waits", "k", encode(Say("message", as_content("hello"), by="anna")))
    await store.post("ses_waits", "l", b"not ours")
    parts = {part.row.id: (part.times, part.first) for part in await parts_of(store, "anna")}
    assert parts == {
        "ses_said": (1, 3), "ses_long": (1, 3), "ses_decided": (1, 3), "ses_brought": (1, 3),
        "ses_fork": (2, 3), "ses_waits": (1, 0),
    }  # fmt: skip
    assert [part.row.id for part in await parts_of(store, "bert")] == ["ses_quoted"]
    assert await parts_of(store, "ann") == []
