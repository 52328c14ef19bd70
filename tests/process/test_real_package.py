"""The main job on real input: an agent mends a planted bug in the source of a real third-party
package, running that package's own tests in the sandbox, and is killed twice on the way.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from perdure.app import Runtime
from perdure.core import events as e
from tests.process.mender import BROKEN, MENDED

ROOT = Path(__file__).parents[2]


def installed(name: str) -> Path:
    """Return where the package lies; it is read, never imported."""
    found = find_spec(name)
    assert found is not None and found.origin is not None, "make setup installs it"
    return Path(found.origin).parent


def copies(home: Path, source: Path) -> list[str]:
    """Return the text of the mended file in every workspace below `home`."""
    return [p.read_text() for p in home.rglob("itertoolz.py") if source not in p.parents]


def run_until(home: Path, source: Path, stop: Callable[[str], bool]) -> list[str]:
    """Run the mender; kill it with SIGKILL at the first line that `stop` says; return the lines."""
    lines = []
    command = [sys.executable, "-m", "tests.process.mender", str(home), str(source)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if stop(line):
                process.send_signal(signal.SIGKILL)
                break
    return lines


@pytest.mark.sandbox
async def test_an_agent_mends_a_real_package_through_two_kills(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("toolz", "tlz"):
        shutil.copytree(installed(name), source / name)
    broken = source / "toolz" / "itertoolz.py"
    broken.write_text(broken.read_text().replace(MENDED, BROKEN))

    first = run_until(tmp_path, source, lambda line: "tool.started" in line)
    assert first, "it was to be killed while the package's tests ran"
    second = run_until(tmp_path, source, lambda line: "edit(" in line)
    assert any("session.recovered" in line for line in second)
    last = run_until(tmp_path, source, lambda _: False)
    assert "turn completed" in last[-1], last

    async with Runtime(f"sqlite:///{tmp_path / 'p.db'}") as runtime:
        session = await runtime.session("toolz")
        payloads = [event.payload async for event in session.events()]
        state = await session.state()
    runs = [p for p in payloads if isinstance(p, e.ToolFinished)]
    assert "failed" in runs[0].text, "the planted bug must be seen by the package's own tests"
    assert "failed" not in runs[-1].text and "passed" in runs[-1].text
    assert len({p.call_id for p in runs}) == len(runs) == 5, "each call has one result"
    assert sum(isinstance(p, e.SessionRecovered) for p in payloads) == 2
    assert any(isinstance(p, e.EnvironmentRestored) for p in payloads), "a command was rolled back"
    assert state.last_status == "completed"
    assert BROKEN in broken.read_text(), "the user's own directory is only copied"
    mended = copies(tmp_path, source)
    assert mended and all(MENDED in text and BROKEN not in text for text in mended)
