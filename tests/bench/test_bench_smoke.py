"""The measurements run and leave all their figures. What the figures are is not judged here."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.report import Figures, markdown
from tests.tidy.sources import ROOT


@pytest.mark.slow
def test_a_quick_run_leaves_all_figures(tmp_path: Path) -> None:
    out = tmp_path / "latest.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--out", str(out)],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    figures = msgspec.json.decode(out.read_bytes(), type=Figures)
    assert markdown(figures).strip() == done.stdout.strip()
    assert {c.load.effect for c in figures.cells} == {"bare", "read", "once"}
    for cell in figures.cells:
        assert cell.steps_per_second > 0
        assert cell.step.count >= cell.load.sessions
        assert cell.control.count > 0
        assert cell.fsyncs_per_step > 0
        assert cell.written_bytes > 1024
        assert cell.disk_bytes > 1024
    assert figures.growth.bytes_ratio > 1
    assert all(each.known_ms > 0 and each.model_ms > 0 for each in figures.resume)
    assert figures.forks.events >= 150
    assert figures.forks.files == 100
    assert min(figures.forks.end_ms, figures.forks.middle_ms, figures.forks.files_ms) > 0
    assert all(time > 0 for time in msgspec.structs.astuple(figures.startup))
    token = figures.first_token
    assert len(token.cells) == 4
    assert all(min(c.direct_ms) > 0 and len(c.ratios) == 5 for c in token.cells)
    assert str(ROOT) not in out.read_text()
