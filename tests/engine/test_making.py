"""Sessions are made once, however many ask for the same one at the same moment."""

import asyncio
from pathlib import Path

import pytest

from perdure import Agent, Runtime
from perdure.app import Options
from perdure.core import events as e
from perdure.core.errors import LeaseLost, NotFound
from perdure.engine.runtime import Engine
from tests.doors.serving import QUICK, Reply, Scripts, script

HELPER = Agent("helper", "test:talk")


@pytest.mark.parametrize("store", ["memory:", "sqlite"])
async def test_a_session_that_many_ask_for_at_once_is_made_once(store: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}" if store == "sqlite" else store
    options = Options(models=Scripts({"talk": script(Reply(text="Hello."))}), bounds=QUICK)
    async with Runtime(url, options) as runtime:
        await runtime.register(HELPER)
        found = await asyncio.gather(*(runtime.session("s1", "helper") for _ in range(8)))
        states = await asyncio.gather(*(session.state() for session in found))
        assert {state.seq for state in states} == {1}
        assert (await found[0].send("Hi")).last_status == "completed"
        with pytest.raises(NotFound, match="E-AGENT-UNKNOWN"):
            await runtime.session("s2", "nobody")


class Hasty(Engine):
    """Broken: makes a session without looking whether that is being done already."""

    async def create(self, created: e.SessionCreated, *then: e.Payload) -> None:
        await self._create(created, then)


class Rash(Runtime):
    """A runtime with that engine."""

    async def engine(self) -> Engine:
        if self._engine is None:
            self._engine = await Hasty(await self._open_kit()).__aenter__()
        return self._engine


async def test_an_engine_that_does_not_look_is_caught() -> None:
    options = Options(models=Scripts({}), bounds=QUICK)
    async with Rash("memory:", options) as runtime:
        await runtime.register(HELPER)
        with pytest.raises(LeaseLost):
            await asyncio.gather(*(runtime.session("s1", "helper") for _ in range(8)))
