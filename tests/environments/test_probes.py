"""The abuse probes: all stopped by the sandbox, and the stated ones not by a plain process."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from perdure.core.agent import EnvironmentSpec
from perdure.environments.probes import MUST_GET_THROUGH, control_gaps, selftest
from perdure.ports.sandbox import Sandbox, StoredFile
from tests.environments.doubles import bubblewrap, needs_sandbox, process

in_sandbox = needs_sandbox()


def report(results: list[object]) -> str:
    return "\n".join(map(str, results))


@pytest.mark.sandbox
@in_sandbox[1]
async def test_the_sandbox_stops_every_probe(tmp_path: Path) -> None:
    results = await selftest(bubblewrap(tmp_path / "root"))
    failed = [r for r in results if not r.ok]
    assert not failed, report(list(failed))
    assert len(results) >= 45
    assert {r.name for r in results} >= MUST_GET_THROUGH


class InPlace:
    """Environments that work on one directory itself, which belongs to whoever runs us."""

    def __init__(self, folder: Path) -> None:
        self._inner = bubblewrap(folder / "root")
        self._work = folder / "work"
        self._work.mkdir()

    async def open(self, session: str, spec: EnvironmentSpec, source: str) -> Sandbox:
        """See `Environments.open`."""
        in_place = msgspec.structs.replace(spec, in_place=True)
        return await self._inner.open(session, in_place, source or str(self._work))

    async def has(self, session: str, at: str = "") -> bool:
        """See `Environments.has`."""
        return await self._inner.has(session)

    async def restore(self, session: str, spec: EnvironmentSpec, snapshot: str) -> Sandbox:
        """See `Environments.restore`."""
        return await self._inner.restore(session, spec, snapshot)

    def snapshots(self) -> AsyncIterator[str]:
        """See `Environments.snapshots`."""
        return self._inner.snapshots()

    async def stored(self, snapshot: str, below: str = "") -> list[StoredFile]:
        """See `Environments.stored`."""
        return await self._inner.stored(snapshot, below)

    def stored_file(self, snapshot: str, path: str) -> AsyncIterator[bytes]:
        """See `Environments.stored_file`."""
        return self._inner.stored_file(snapshot, path)


@pytest.mark.sandbox
@in_sandbox[1]
async def test_in_place_every_probe_is_stopped_too(tmp_path: Path) -> None:
    """For root this is another way to give up rights: its uid stays."""
    results = await selftest(InPlace(tmp_path))
    failed = [r for r in results if not r.ok]
    assert not failed, report(list(failed))


async def test_the_control_lets_the_stated_ones_through(tmp_path: Path) -> None:
    """If a plain process stops a probe, the probe does not test what it says."""
    results = await selftest(process(tmp_path / "root"), kind="process")
    assert control_gaps(results) == [], report(list(results))
