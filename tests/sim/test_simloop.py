"""The simulated loop: no waiting, orders that a seed repeats, an end to what cannot end."""

import asyncio
import gc

import pytest

from perdure.testing.simloop import Deadlock, Owner, Runaway, SimLoop


async def race(order: list[int]) -> float:
    async def step(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(step(number))
    return asyncio.get_running_loop().time()


def order_of(seed: int) -> tuple[int, ...]:
    order: list[int] = []
    SimLoop(seed).run(race(order))
    return tuple(order)


def test_a_seed_is_an_order() -> None:
    assert [order_of(seed) for seed in range(50)] == [order_of(seed) for seed in range(50)]
    assert len({order_of(seed) for seed in range(200)}) > 100


def test_without_disorder_it_is_asyncios_own_order() -> None:
    ours: list[int] = []
    theirs: list[int] = []
    SimLoop(1, disorder=0).run(race(ours))
    asyncio.run(race(theirs))
    assert ours == theirs


def test_a_year_takes_no_time() -> None:
    async def year() -> float:
        async with asyncio.timeout(365 * 86400):
            await asyncio.get_running_loop().create_future()
        return 0.0

    with pytest.raises(TimeoutError):
        SimLoop().run(year())


def test_a_deadlock_is_told() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        SimLoop().run(wait())


def test_a_run_that_does_not_end_is_told() -> None:
    async def spin() -> None:
        for _ in iter(int, 1):  # for ever
            await asyncio.sleep(0)

    with pytest.raises(Runaway):
        SimLoop(steps_max=1000).run(spin())


@pytest.mark.parametrize("seed", range(20))
def test_the_dead_do_nothing_more(seed: int) -> None:
    done: list[str] = []
    loop = SimLoop(seed)

    async def work(owner: Owner) -> None:
        try:
            await asyncio.create_task(nap())
            done.append(owner.name)
        finally:
            done.append(f"{owner.name} tidied up" if owner.alive else "")

    async def nap(seconds: float = 10) -> None:
        woken = loop.create_future()
        loop.call_later(seconds, woken.set_result, None)
        await woken

    async def main() -> None:
        living, dead = Owner("living"), Owner("dead")
        loop.start(living, work(living))
        loop.start(dead, work(dead))
        loop.call_later(5, setattr, dead, "alive", False)
        loop.call_later(20, done.append, "--")
        await nap(30)

    loop.run(main())
    assert done[:3] == ["living", "living tidied up", "--"]
    assert "dead" not in done


def test_what_went_wrong_with_the_dead_is_not_told_when_garbage_is_collected() -> None:
    """A report at such a moment disturbs whoever is at work then, and says nothing of use."""
    told: list[object] = []

    async def fail_at_the_end(begun: asyncio.Event) -> None:
        try:
            begun.set()
            await asyncio.get_running_loop().create_future()
        finally:
            raise LookupError("nobody is there any more")

    async def main(loop: SimLoop) -> None:
        dead, begun = Owner("dead"), asyncio.Event()
        loop.start(dead, fail_at_the_end(begun))
        await begun.wait()
        dead.alive = False

    def live() -> None:
        loop = SimLoop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        loop.run(main(loop))

    live()
    gc.collect()
    assert not told
