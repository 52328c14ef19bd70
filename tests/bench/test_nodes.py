"""`make bench-nodes`, small: the figures come, and their way into the documents. What they are is
not judged here, but what must not depend on the machine: no plan reads a whole table.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.nodes import report
from bench.nodes.figures import Figures
from bench.nodes.sizing import costs, sizing
from perdure.testing.postgres import programs
from tests.tidy.sources import ROOT


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    if programs() is None:
        pytest.skip("no PostgreSQL")
    out = tmp_path_factory.mktemp("nodes") / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.nodes", "--quick", "--out", str(out)],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(out.read_bytes(), type=Figures)


@pytest.mark.postgres
@pytest.mark.slow
def test_a_quick_run_leaves_all_figures(figures: Figures) -> None:
    assert {(c.load.nodes, bool(c.load.pause_ms)) for c in figures.cells} == {
        (1, False), (2, False), (1, True), (2, True),
    }  # fmt: skip
    for cell in figures.cells:
        assert cell.steps_per_second > 0
        assert cell.per_step.commits > 0
        assert cell.per_step.wal_bytes > 1024
        assert cell.disk_bytes > 1024
        assert cell.connections == 6
    assert [call.few.count for call in figures.idle.calls] == [
        call.many.count for call in figures.idle.calls
    ]


@pytest.mark.postgres
@pytest.mark.slow
def test_what_a_node_asks_all_the_time_reads_no_table_as_a_whole(figures: Figures) -> None:
    assert not figures.idle.scans


@pytest.mark.postgres
@pytest.mark.slow
def test_steps_of_a_session_touch_no_index(figures: Figures) -> None:
    # Claims, releases, and where it begins and ends to be busy: six. Steps are twenty and more.
    for cell in figures.cells:
        assert cell.updates > 0
        assert cell.cold_per_session < 12


def test_the_documents_show_what_was_measured() -> None:
    kept = ROOT / "bench" / "nodes" / "shown.json"
    figures = msgspec.json.decode(kept.read_bytes(), type=Figures)

    for name, text in (
        ("performance.md", report.full(figures)),
        ("sizing.md", sizing(costs(figures))),
    ):
        document = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert report.between(document, text) == document, (
            'run: make bench-nodes ARGS="--again --write"'
        )


def test_a_document_without_markers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bench-nodes:begin"):
        report.between("# Nothing", "text")
