"""Steps of 1, 2, 4 nodes over one server, and what a step costs it."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from bench.measure import Control, spread
from bench.nodes.figures import Cell, Cost, Load
from bench.nodes.meter import Meter, Reading
from bench.nodes.node import Answer
from bench.workload import STEPS
from perdure.testing.postgres import PostgresServer

_ROOT: Final = Path(__file__).parents[2]
_BURST: Final = 20


class Node:
    """A node process, as we see it."""

    def __init__(self, url: str, pause_ms: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.nodes.node", url, str(pause_ms)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT,
        )  # fmt: skip

    def ask(self, *words: object) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(words).decode() + "\n")
        self._process.stdin.flush()

    def answer(self) -> Answer:
        """Wait until it has done it. Raises `RuntimeError` when it has died."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a node ended with status {self._process.wait(60)}")
        return msgspec.json.decode(line, type=Answer)

    def end(self) -> None:
        """Let it close its store."""
        self.ask("end")
        self._process.wait(60)

    def kill(self) -> None:
        """Whatever state it is in."""
        self._process.kill()
        self._process.wait(60)


class _Phase:
    """Openings, or steps, of all waves together."""

    def __init__(self) -> None:
        self.spent = Reading(0.0, 0, 0)
        self.node_s = 0.0
        self.took = 0.0
        self.seconds: list[float] = []

    def run(self, meter: Meter, nodes: Sequence[Node], words: Sequence[object]) -> None:
        """Have all nodes do something at once."""
        before, begun = meter.read(), time.perf_counter()
        for node in nodes:
            node.ask(*words)
        answers = [node.answer() for node in nodes]
        self.took += time.perf_counter() - begun
        new = meter.read() - before
        self.spent += new
        self.node_s += sum(answer.cpu_s for answer in answers)
        self.seconds += [second for answer in answers for second in answer.seconds]

    def cost(self, count: int) -> Cost:
        """Return what each of so many cost."""
        return Cost(
            self.spent.cpu_s * 1e6 / count,
            self.node_s * 1e6 / count,
            self.spent.wal / count,
            self.spent.commits / count,
        )


def cell(
    server: PostgresServer, name: str, load: Load, turn: int, control: Control,
    *, checkpoints: bool = False,
) -> Cell:  # fmt: skip
    """Measure one load, in a database of its own that is called `name`."""
    url = server.make_database(name)
    opening, running = _Phase(), _Phase()
    with _nodes(url, load) as nodes:
        meter = Meter(server, name)
        size = meter.size()
        for wave in range(load.waves):
            control.burst(_BURST)
            opening.run(meter, nodes, ["open", wave, load.sessions // load.nodes])
            if checkpoints:
                meter.checkpoint()
            running.run(meter, nodes, ["run"])
        size = meter.size() - size
        connections = meter.connections() / load.nodes
    updates, hot = meter.updates()
    meter.close()
    # Or the server's own vacuum of it would be counted in the next one.
    server.drop_database(name)
    sessions = load.sessions // load.nodes * load.nodes * load.waves
    steps = sessions * STEPS
    return Cell(
        load, turn, steps, steps / running.took, spread(running.seconds), running.cost(steps),
        opening.cost(sessions), size / steps, updates, hot, connections, checkpoints,
    )  # fmt: skip


@contextmanager
def _nodes(url: str, load: Load) -> Iterator[list[Node]]:
    # The first makes the tables; the others come when it has.
    nodes = [Node(url, load.pause_ms)]
    try:
        nodes[0].answer()
        nodes += [Node(url, load.pause_ms) for _ in range(load.nodes - 1)]
        for node in nodes[1:]:
            node.answer()
        yield nodes
        for node in nodes:
            node.end()
    finally:
        for node in nodes:
            node.kill()
