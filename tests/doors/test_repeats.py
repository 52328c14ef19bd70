"""What comes again under its key is done once: after a death anywhere, and by two at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from perdure.core import events as e
from perdure.core.codec import decode, encode
from perdure.doors import repeats
from perdure.engine.journal import events_of
from perdure.models.scripted import Reply, Script, Scripted
from perdure.stores.sqlite import SqliteStore
from tests.doors.process import GONE, Home, home
from tests.doors.serving import up

TALK = Script((Reply(text="Once upon a time."), Reply(text="And again.")))
TALK_HERE = Scripted(TALK)
KEY: Any = {"extra_headers": {"idempotency-key": "k"}}
NOWHERE: Any = {"type": "none"}


def words(text: str) -> Any:
    return {"role": "user", "content": [{"type": "input_text", "text": text}]}


def event(text: str) -> Any:
    return {"type": "agent.session.input.message", "input": [words(text)]}


@asynccontextmanager
async def two(path: Path, broken: str = "") -> AsyncIterator[tuple[Home, Home]]:
    """Two server processes on one store."""
    async with home(path, {"talk": TALK}) as one:
        one.broken = broken
        other = Home(path, one.scripts, keys=one.keys, broken=broken)
        try:
            await one.start()
            await other.start()
            yield one, other
        finally:
            await other.end()


async def said(path: Path, prefix: str = "") -> dict[str, list[str]]:
    """Return what was said in each session on disk."""
    store = await SqliteStore.open(path)
    try:
        found: dict[str, list[str]] = {}
        for row in await store.sessions(prefix):
            payloads = [event.payload async for event, _ in events_of(store, row.id)]
            inputs = [p for p in payloads if isinstance(p, e.InputAccepted)]
            found[row.id] = [p.key for p in inputs if p.kind != "pause"]
        return found
    finally:
        await store.close()


async def response(client: openai.AsyncOpenAI, **more: Any) -> str:
    made = await client.responses.create(model="talk", input="Hi", **more, **KEY)
    assert made.status == "completed"
    return str(made.id)


WRITES: Any = ("append", "put_doc", "post", "fork", "delete_session")


async def made_over_a_death(path: Path, number: int, broken: str = "") -> int:
    """Kill a server at a write of a response, ask again twice; return how many were made."""
    async with home(path, {"talk": TALK}) as here:
        here.broken = broken
        await here.start(number, at=WRITES)
        with contextlib.suppress(*GONE):
            await response(await here.openai())
        if here.alive:
            await here.kill()
        await here.start()
        names = {await response(await here.openai()) for _ in range(2)}
        return max(len(names), len(await said(path)))


async def all_get_the_same_of_two(path: Path, rounds: int, broken: str = "") -> bool:
    """Ask two processes at once, under so many keys; return whether each key's requests were all
    answered, and with the same response.
    """
    async with two(path, broken) as both:
        clients = [await each.openai() for each in both]
        for number in range(rounds):
            key: Any = {"extra_headers": {"idempotency-key": f"k{number}"}}
            asked = (c.responses.create(model="talk", input="Hi", **key) for c in clients * 2)
            answers = await asyncio.gather(*asked, return_exceptions=True)
            if len({getattr(each, "id", str(each)) for each in answers}) > 1:
                return False
    return True


async def test_a_key_that_is_not_kept_is_seen(tmp_path: Path) -> None:
    assert await made_over_a_death(tmp_path / "whole.db", 0) == 1
    assert await made_over_a_death(tmp_path / "broken.db", 0, "no-reservation") > 1


async def test_a_key_that_is_kept_too_late_is_seen(tmp_path: Path) -> None:
    found = []
    for number in range(1, 8):
        found.append(await made_over_a_death(tmp_path / f"{number}.db", number, "reserves-late"))
        if found[-1] > 1:
            return
    pytest.fail(f"not seen: {found}")


async def test_a_key_that_no_process_claims_is_seen(tmp_path: Path) -> None:
    assert await all_get_the_same_of_two(tmp_path / "whole.db", 3)
    assert not await all_get_the_same_of_two(tmp_path / "broken.db", 40, "no-claim")


@pytest.mark.parametrize("follows", [False, True])
async def test_a_response_that_was_killed_anywhere_is_made_once(
    tmp_path: Path, *, follows: bool
) -> None:
    for number in range(1, 14):
        path = tmp_path / f"{number}.db"
        async with home(path, {"talk": TALK}) as here:
            await here.start()
            more, before = {}, 0
            if follows:
                first = await (await here.openai()).responses.create(model="talk", input="Hello")
                more, before = {"previous_response_id": first.id}, 1
            await here.kill()
            await here.start(number, at=WRITES)
            with contextlib.suppress(*GONE):
                await response(await here.openai(), **more)
            if here.alive:
                await here.kill()
            await here.start()
            client = await here.openai()
            name = await response(client, **more)
            assert await response(client, **more) == name
            done = await said(path)
            assert len(done) == before + 1, f"killed at write {number}"
            assert len(done[name]) == before + 1


async def test_two_processes_make_one_response(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with two(path) as both:
        clients = [await each.openai() for each in both]
        names = await asyncio.gather(*(response(each) for each in clients * 3))
        assert len(set(names)) == 1
        assert [len(keys) for keys in (await said(path)).values()] == [1]
        for client in clients:
            with pytest.raises(openai.ConflictError) as refused:
                await client.responses.create(model="talk", input="Another", **KEY)
            assert refused.value.code == "E-KEY-REUSED"
            assert refused.value.response.headers["x-should-retry"] == "false"


async def test_two_processes_add_items_once(tmp_path: Path) -> None:
    async with two(tmp_path / "s.db") as both:
        clients = [await each.openai() for each in both]
        made = await asyncio.gather(*(each.conversations.create(**KEY) for each in clients * 2))
        (conversation,) = {each.id for each in made}
        item: Any = {"role": "user", "content": "Hi"}
        added = await asyncio.gather(
            *(
                each.conversations.items.create(conversation, items=[item], **KEY)
                for each in clients * 2
            )
        )
        assert len({each.data[0].id for each in added}) == 1
        assert len([each async for each in clients[0].conversations.items.list(conversation)]) == 1
        with pytest.raises(openai.ConflictError):
            await clients[1].conversations.items.create(conversation, items=[item] * 2, **KEY)


async def test_two_processes_make_one_session_and_say_things_once(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with two(path) as both:
        sessions = [(await each.openai()).beta.agents.sessions for each in both] * 2
        made = await asyncio.gather(
            *(s.create(agent={"model": "talk"}, environment=NOWHERE, **KEY) for s in sessions)
        )
        (name,) = {each.id for each in made}
        await asyncio.gather(
            *(s.events.create(name, events=[event("a")], idempotency_key="x") for s in sessions)
        )
        more = [event("a"), event("b")]
        with pytest.raises(openai.ConflictError):
            await sessions[1].events.create(name, events=more, idempotency_key="x")
        store = await SqliteStore.open(path)
        try:
            while (
                (row := await store.session(name)) is None or row.turns < 1 or row.status != "idle"
            ):
                await store.changed(5.0)
        finally:
            await store.close()
        assert len((await said(path))[name]) == 1


async def test_a_key_that_was_refused_with_its_body_may_have_another(tmp_path: Path) -> None:
    async with home(tmp_path / "s.db", {"talk": TALK}) as here:
        await here.start()
        client = await here.openai()
        sessions = client.beta.agents.sessions
        odd: Any = {"type": "moon"}
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="talk", input=[odd], **KEY)
        with pytest.raises(openai.BadRequestError):
            await sessions.create(agent={"model": "talk"}, environment=odd, **KEY)
        await response(client)
        await sessions.create(agent={"model": "talk"}, environment=NOWHERE, **KEY)


async def test_keys_are_forgotten_after_their_time(tmp_path: Path) -> None:
    async with up({"talk": TALK_HERE}, tmp_path / "s.db") as server:
        client = await server.openai()
        first = await response(client)
        store = server.server.stores.base
        (doc,) = await store.docs(repeats.KEYED)
        shelf = decode(doc.data, repeats.Shelf)
        (kept,) = shelf.kept
        assert kept.made == first
        old = repeats.Kept(kept.name, kept.digest, kept.made, kept.until - repeats.KEYED_S - 1)
        others = [repeats.Kept(f"{n}", "", "", 1) for n in range(100)]
        await store.put_doc(repeats.KEYED, doc.name, encode(repeats.Shelf([old, *others])))
        second = await response(client)
        assert second != first
        (doc,) = await store.docs(repeats.KEYED)
        (kept,) = decode(doc.data, repeats.Shelf).kept  # the old ones are gone
        assert kept.made == second


async def test_requests_without_keys_leave_no_more_than_there_are_places(tmp_path: Path) -> None:
    async with up({"talk": TALK_HERE}, tmp_path / "s.db") as server:
        client = await server.openai()
        for _ in range(3):
            await client.responses.create(model="talk", input="the same")
        assert len(await server.server.stores.base.docs(repeats.UNKEYED)) == 1
