"""OpenAI's own tests of its client, run as they are against a server of ours on loopback."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vendor.suites import OPENAI, ROOT, SUITES, Suite, archive, unpacked

REQUIRED = os.environ.get("PERDURE_REQUIRE_VENDOR") == "1"
RUN_S = 240.0
# Their own options want a plugin that runs tests side by side; a third client is not installed.
OPTIONS = ("-o", "addopts=", "-p", "no:cacheprovider", "--tb=line", "-qrpfE", "-k", "not aiohttp")
RESULT = re.compile(r"^(PASSED|FAILED|ERROR) (\S+::\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not archive(OPENAI).exists():
        said = f"{archive(OPENAI)} is missing: the vendors' own tests did NOT run. make setup"
        if REQUIRED:
            pytest.fail(said)
        pytest.skip(said)
    return unpacked(OPENAI, tmp_path_factory.mktemp("vendor"))


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """Run a server; give its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.vendor.served", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def results(suite: Suite, sources: Path, url: str) -> dict[str, str]:
    """Run a suite; return how each of its tests ended."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "OPENAI"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *suite.paths],
        cwd=sources,
        env=clean | {"TEST_API_BASE_URL": url + suite.prefix},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    found = {name: status for status, name in RESULT.findall(run.stdout)}
    assert found, run.stdout + run.stderr
    return found


def tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Show a line whether or not what tests print is shown."""
    with capsys.disabled():
        sys.stdout.write(f"\n  {line}\n")


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_server_that_holds_what_they_ask_for(
    suite: Suite, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving("--seed") as url:
        found = results(suite, sources, url)
    passed = {name for name, status in found.items() if status == "PASSED"}
    differs = {name for name in found if any(part in name for part in suite.differs)}
    tell(capsys, f"{suite.name}, seeded: {len(passed)} of {len(found)} pass")
    assert sorted(set(found) - passed - differs) == [], "these fail without a reason"
    assert sorted(passed & differs) == [], "these pass, and are still said to differ"


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_server_that_holds_nothing(
    suite: Suite, sources: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as url:
        found = results(suite, sources, url)
    passed = [name for name, status in found.items() if status == "PASSED"]
    tell(capsys, f"{suite.name}, unseeded: {len(passed)} of {len(found)} pass")
    assert not [name for name, status in found.items() if status == "ERROR"]
    assert len(passed) >= suite.least
