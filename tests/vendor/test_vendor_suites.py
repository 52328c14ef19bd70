"""OpenAI's own tests of its client, run as they are against a server of ours on loopback."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vendor.mended import MENDED, REASONS, mend
from tests.vendor.suites import OPENAI, PREFIX, ROOT, SUITES, Suite, archive, unpacked

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


def results(sources: Path, *words: str) -> dict[str, str]:
    """Run all suites against one server; return how each of their tests ended."""
    with serving(*words) as url:
        return ran(sources, url)


def ran(sources: Path, url: str, paths: Sequence[str] = ()) -> dict[str, str]:
    """Run tests, all suites by default, against the server at that address."""
    paths = paths or [path for suite in SUITES for path in suite.paths]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "OPENAI"))}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *paths],
        cwd=sources,
        env=clean | {"TEST_API_BASE_URL": url + PREFIX},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    found = {name: status for status, name in RESULT.findall(run.stdout)}
    assert found, run.stdout + run.stderr
    return found


@pytest.fixture(scope="module")
def both(sources: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return how all tests ended on a server that holds what they ask for, and on one that holds
    nothing. The two run side by side.
    """
    with ThreadPoolExecutor(2) as side_by_side:
        seeded = side_by_side.submit(results, sources, "--seed")
        empty = side_by_side.submit(results, sources)
        return seeded.result(), empty.result()


def of(suite: Suite, results: dict[str, str]) -> dict[str, str]:
    """Return those of a suite."""
    found = {name: status for name, status in results.items() if name.startswith(suite.paths)}
    assert found, f"no test of {suite.name} ran"
    return found


def tell(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Show a line whether or not what tests print is shown."""
    with capsys.disabled():
        sys.stdout.write(f"\n  {line}\n")


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_server_that_holds_what_they_ask_for(
    suite: Suite,
    both: tuple[dict[str, str], dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = of(suite, both[0])
    passed = {name for name, status in found.items() if status == "PASSED"}
    differs = {name for name in found if any(part in name for part in suite.differs)}
    tell(capsys, f"{suite.name}, seeded: {len(passed)} of {len(found)} pass")
    assert sorted(set(found) - passed - differs) == [], "these fail without a reason"
    assert sorted(passed & differs) == [], "these pass, and are still said to differ"
    told, page = f"| {suite.name} | {len(passed)} of {len(found)} |", ROOT / "docs" / "openai.md"
    assert told in page.read_text(), f"docs/openai.md says otherwise than {told}"


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_server_that_holds_nothing(
    suite: Suite,
    both: tuple[dict[str, str], dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = of(suite, both[1])
    passed = [name for name, status in found.items() if status == "PASSED"]
    tell(capsys, f"{suite.name}, unseeded: {len(passed)} of {len(found)} pass")
    assert not [name for name, status in found.items() if status == "ERROR"]
    assert len(passed) >= suite.least


@pytest.mark.slow
def test_nothing_but_the_contradiction_is_wrong_with_bodies_that_contradict_themselves(
    sources: Path, tmp_path: Path
) -> None:
    mended = shutil.copytree(sources, tmp_path / "mended")
    mend(mended)
    with serving("--seed") as url:
        found = ran(mended, url, list(MENDED))
    parts = [part for suite in SUITES for part, why in suite.differs.items() if why in REASONS]
    assert len(parts) == 9
    concerned = {name for name in found if any(part in name for part in parts)}
    assert len(concerned) >= 4 * len(parts)  # loose and strict, waiting and not
    assert sorted(name for name in concerned if found[name] != "PASSED") == []
