"""Who works on a child: the process that owns the root of its tree, and nobody else."""

import asyncio

import pytest

from perdure.core import events as e
from perdure.core.content import as_content
from perdure.core.errors import Conflict
from perdure.core.inbox import Say
from perdure.engine.runtime import Engine
from perdure.engine.session import Session
from perdure.stores.memory import MemoryDisk, MemoryStore
from tests.trees.family import (
    LEAD,
    SIGNER,
    house,
    lead_of,
    part,
    results,
    says,
    tasks,
    until,
    uses,
)


async def gone(engine: Engine, session_id: str) -> None:
    """Let the driver of a session go, as one that is idle does."""
    task = engine._drivers[session_id][1]
    task.cancel()
    await asyncio.wait([task])


async def test_what_another_process_decides_for_a_child_is_worked_on_by_the_owner() -> None:
    parts = {
        "lead": part(tasks("a"), says("{{last_result}}")),
        "helper": part(uses("sign", paper="lease"), says("{{last_result}}")),
    }
    disk = MemoryDisk()
    async with house(parts, disk, node="a") as one, house(parts, disk, node="b", seed=1) as two:
        session = await one.session("s", lead_of(SIGNER))
        await session.send("go")
        await gone(one, "s.t1.1")
        await two.register(lead_of(SIGNER))
        child = await two.session("s.t1.1")
        await child.allow(next(iter((await child.state()).actions)), by="b")
        await until(session, e.TurnEnded)
        assert await results(session) == {"t1.1": "lease is signed"}
        assert "s.t1.1" in one._drivers and not await two.owns("s.t1.1")


async def test_a_child_is_not_driven_by_another_process_than_its_root() -> None:
    parts = {"lead": part(tasks("a"), says("x")), "helper": part(says("y"), says("z"))}
    disk = MemoryDisk()
    async with house(parts, disk, node="a") as one, house(parts, disk, node="b", seed=1) as two:
        await (await one.session("s", LEAD)).send("go")
        await gone(one, "s.t1.1")
        await two.register(LEAD)
        child = await two.session("s.t1.1")
        with pytest.raises(Conflict) as caught:
            await child.send("and more")
        assert caught.value.code == "E-SUBAGENT-ELSEWHERE"
        async for _ in (await one.session("s.t1.1")).watch():
            pass
        assert (await child.state()).turns == 2


async def test_a_letter_that_another_process_took_for_a_child_is_worked_on_by_the_owner() -> None:
    # Found by the simulation (trees, seed 132): the child's errand was over, so nobody looked.
    parts = {"lead": part(tasks("a"), says("x")), "helper": part(says("y"), says("z"))}
    disk = MemoryDisk()
    async with house(parts, disk, node="a") as one, house(parts, disk, node="b", seed=1) as two:
        await (await one.session("s", LEAD)).send("go")
        await gone(one, "s.t1.1")
        await two.register(LEAD)
        with pytest.raises(Conflict):
            await (await two.session("s.t1.1")).send("and more")
        async with asyncio.timeout(10):
            await until(Session(one, "s.t1.1"), e.TurnEnded, 2)


async def test_a_child_whose_root_nobody_owns_brings_the_whole_tree_back_to_work() -> None:
    parts = {
        "lead": part(tasks("a"), says("{{last_result}}")),
        "helper": part(uses("sign", paper="lease"), says("{{last_result}}")),
    }
    disk = MemoryDisk()
    lead = lead_of(SIGNER)
    async with house(parts, disk) as one:
        await (await one.session("s", lead)).send("go")
    async with house(parts, disk, seed=1) as two:
        await two.register(lead)
        child = await two.session("s.t1.1")
        await child.allow(next(iter((await child.state()).actions)), by="test")
        session = await two.session("s")
        await until(session, e.TurnEnded)
        assert await results(session) == {"t1.1": "lease is signed"}


async def test_a_child_that_its_owner_died_over_goes_on_with_its_tree() -> None:
    # Found by the simulation (trees, seed 132): only children that a parent waits for were woken.
    disk = MemoryDisk()
    slow = {"lead": part(tasks("a"), says("x")), "helper": part(says("y"), says("z"), delay_s=5)}
    parts = {
        "lead": part(tasks("a"), says("x"), says("hello")),
        "helper": part(says("y"), says("z")),
    }
    async with house(parts, disk, node="a") as one:
        await (await one.session("s", LEAD)).send("go")
    async with house(slow, disk, node="b", seed=1) as two:
        await two.register(LEAD)
        child = await two.session("s.t1.1")
        await child.post(Say("message", as_content("and more")), "more")
        await until(child, e.ModelRequested, 2)
        assert isinstance(two.kit.store, MemoryStore)
        two.kit.store.kill()
    async with house(parts, disk, node="c", seed=2) as three:
        await (await three.session("s", LEAD)).send("and you")
        async with asyncio.timeout(10):
            await until(await three.session("s.t1.1"), e.TurnEnded, 2)
