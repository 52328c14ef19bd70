"""`make bench-peers` without its peers: the protocol with a process of ours, and the report."""

import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.measure import Spread
from bench.peers import report
from bench.peers.figures import Figures, Growth, Kill, Skipped, Speed
from bench.peers.measuring import QUICK, Bench
from bench.peers.process import Failed, Runner
from bench.peers.recorder import Recorder
from bench.peers.systems import BASE, SYSTEMS
from tests.tidy.sources import ROOT

PERDURE = next(system for system in SYSTEMS if system.name == BASE)
PEER = next(system for system in SYSTEMS if system.name == "langgraph-sqlite")
SYNC = next(system for system in SYSTEMS if system.name == PEER.grows_as)


def figures(*speeds: Speed, kills: list[Kill] | None = None) -> Figures:
    growths = [
        Growth(BASE, 500, 500, 1_000_000, 4_000_000, 1.0, 1.5, 1.0),
        Growth(SYNC.name, 500, 500, 50_000_000, 60_000_000, 1.0, 3.0, 1.0),
        Growth(SYNC.name, 2000, 900, 90_000_000, 99_000_000, 1.0, 9.0, 60.0),
        Growth(BASE, 2000, 2000, 4_000_000, 16_000_000, 1.0, 1.0, 4.0),
    ]
    return Figures(
        "2026-11-23", 2, "3.11.7", "Linux x86_64", 0.5, 1.5, True, 0, 3, 12.0,
        {BASE: {"perdure": "0.1.0"}, PEER.name: {"langgraph": "1.2.3"}},
        Spread(0.25, 1.5, 100), speeds, kills or [], growths,
        [Skipped("restate", "speed", "its server is not installed")],
    )  # fmt: skip


def speed(system: str, turn: int, sessions: int, rate: int, *, cut: bool = False) -> Speed:
    return Speed(system, turn, sessions, rate * 2, 2.0, 1000 / rate, 9.0, 40_000_000, cut)


def line(text: str, start: str, nth: int = 0) -> list[str]:
    rows = [row for row in text.splitlines() if row.startswith(f"| {start} |")]
    return [cell.strip() for cell in rows[nth].strip("|").split("|")]


def test_ratios_compare_the_same_round_and_show_their_range() -> None:
    found = figures(
        speed(BASE, 0, 1, 1000), speed(BASE, 1, 1, 2000), speed(BASE, 2, 1, 1200),
        speed(PEER.name, 0, 1, 500), speed(PEER.name, 1, 1, 200), speed(PEER.name, 2, 1, 400),
    )  # fmt: skip

    text = report.full(found)

    assert line(text, PEER.label)[1] == "400"
    assert line(text, PEER.label, 1)[1] == "3.00 (2.00..10.0)"
    assert line(report.short(found), PEER.label)[1] == "400 × 3.00 (2.00..10.0)"


def test_steps_that_were_only_begun_are_not_counted() -> None:
    """LangGraph's default runs ahead of its checkpoints, so a round that was cut says nothing."""
    found = figures(
        speed(BASE, 0, 1, 1000), speed(BASE, 0, 200, 6000, cut=True),
        speed(PEER.name, 0, 1, 500), speed(PEER.name, 0, 200, 9000, cut=True),
    )  # fmt: skip

    text = report.full(found)

    assert line(text, PERDURE.label)[2] == "6,000\\*"
    assert line(text, PEER.label)[2] == "–"
    assert line(text, PEER.label, 1)[2] == "–"


def test_a_long_session_that_was_cut_has_no_bytes_and_what_was_skipped_is_said() -> None:
    text = report.full(figures(speed(BASE, 0, 1, 1000), speed(PEER.name, 0, 1, 500)))

    assert line(text, PERDURE.label, 1)[1:6] == ["1.00 MB", "4.00 MB", "4.00 MB", "16.0 MB", "1.95"]
    assert line(text, SYNC.label, 2)[1:6] == ["50.0 MB", "60.0 MB", "–", "–", "–"]
    assert line(text, PEER.label, 2)[1] == f"as {SYNC.label}"
    assert "- Restate, speed: its server is not installed" in text


def test_writing_replaces_what_stands_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    old = f"# A\n\n{report.BEGIN}\n\nold \\1\n\n{report.END}\n\nend\n"
    for name in ("README.md", "docs/performance.md"):
        (tmp_path / name).write_text(old)
    found = figures(speed(BASE, 0, 1, 1000), kills=[Kill(BASE, 0, 500, 412.0, 99.0, 0)])

    report.write(found, tmp_path)
    report.write(found, tmp_path)

    for name, tables in (("README.md", report.short), ("docs/performance.md", report.full)):
        text = (tmp_path / name).read_text()
        assert text == f"# A\n\n{report.BEGIN}\n\n{tables(found)}\n\n{report.END}\n\nend\n"
    assert line((tmp_path / "README.md").read_text(), f"**{PERDURE.label}**")[-1] == "412 ms"
    with pytest.raises(ValueError, match="no <!-- bench-peers:begin -->"):
        report.between("no markers", "text")


def test_the_documents_have_the_markers_and_the_figures_of_the_stored_run() -> None:
    stored = ROOT / "bench" / "peers" / "shown.json"
    assert stored.exists(), "make bench-peers ARGS=--write"
    found = msgspec.json.decode(stored.read_bytes(), type=Figures)

    for name, text in (("README.md", report.short), ("docs/performance.md", report.full)):
        document = (ROOT / name).read_text()
        assert report.between(document, text(found)) == document, "--write --again"


async def test_the_recorder_counts_only_steps_that_are_done_and_holds_the_last_one() -> None:
    recorder = Recorder(stall=3)
    for index in range(3):
        assert await recorder.step("a", index) == ("t" if index % 2 else "m") * 1024
    held = asyncio.create_task(recorder.step("a", 3))
    await asyncio.to_thread(recorder.reached.wait)

    assert not held.done()
    assert recorder.again == 3
    assert recorder.take(complete=False)[0] == 3
    held.cancel()


@pytest.mark.slow
def test_a_turn_measures_speed_the_way_back_after_a_kill_and_growth(tmp_path: Path) -> None:
    bench = Bench(tmp_path, QUICK, None)

    bench.round(0, [PERDURE])
    bench.grow([PERDURE])

    assert not bench.skipped
    assert [each.sessions for each in bench.speeds] == [1, 8]
    assert all(each.steps >= each.sessions * 20 and not each.cut for each in bench.speeds)
    assert all(0 < each.p50_ms <= each.p99_ms for each in bench.speeds)
    (kill,) = bench.kills
    assert kill.again == 0
    assert 0 < kill.resume_ms < kill.next_ms
    assert [each.done for each in bench.growths] == [20, 40]
    assert all(each.disk > each.done * 1024 for each in bench.growths)
    assert all(each.written > each.done * 1024 for each in bench.growths)
    assert bench.control.seconds
    # Nothing is left but the logs and the file of the control.
    assert {path.suffix for path in tmp_path.iterdir()} == {".log", ""}
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_a_system_that_is_not_installed_is_skipped_once_and_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path, QUICK, None)
    homeless = next(system for system in SYSTEMS if system.server == "postgres" and system.ours)

    bench.round(0, [homeless])
    bench.grow([homeless])

    (skipped,) = bench.skipped
    assert (skipped.system, skipped.what) == (homeless.name, "1 sessions")
    assert "PostgreSQL" in skipped.why


def test_a_process_that_ends_or_refuses_is_a_failure_with_its_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Runner(PERDURE, log) as runner:
        with pytest.raises(Failed, match="E-STORE-URL"):
            runner.ask("open", folder=str(tmp_path), url="nowhere:", stall=None)
        runner.ask("open", folder=str(tmp_path), url="", stall=None)
        assert runner.ask("close")["written"] > 0
        with pytest.raises((Failed, BrokenPipeError)):
            runner.ask("run")
    missing = msgspec.structs.replace(PERDURE, module="nobody")
    with pytest.raises(Failed, match="No module named"):
        Runner(missing, log).start()


def test_runners_need_nothing_of_perdures_environment() -> None:
    """The peers' environment has neither msgspec nor Perdure: what their runners share is plain."""
    shared = (
        "import sys; sys.path.insert(0, '.'); import bench.peers.serve; "
        "print([m for m in ('msgspec', 'perdure') if m in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", shared],
        check=True, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.stdout.strip() == "[]"
