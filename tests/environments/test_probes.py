"""The abuse probes: all stopped by the sandbox, and the stated ones not by a plain process."""

from pathlib import Path

import pytest

from perdure.environments.probes import MUST_GET_THROUGH, control_gaps, selftest
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


async def test_the_control_lets_the_stated_ones_through(tmp_path: Path) -> None:
    """If a plain process stops a probe, the probe does not test what it says."""
    results = await selftest(process(tmp_path / "root"), kind="process")
    assert control_gaps(results) == [], report(list(results))
