"""What one run of `python -m bench.nodes` found."""

from collections.abc import Sequence

import msgspec

from bench.measure import Spread


class Load(msgspec.Struct, frozen=True):
    """So many nodes; `sessions` in all, spread over them, so often. Calls take `pause_ms`."""

    nodes: int
    sessions: int
    waves: int
    pause_ms: float = 0.0


class Cost(msgspec.Struct, frozen=True):
    """What one step, or the opening of one session, took: of the server's processors and of the
    nodes', of the log that is written ahead, and of commits that had something to write.
    """

    database_us: float
    node_us: float
    wal_bytes: float
    commits: float


class Cell(msgspec.Struct, frozen=True):
    """One load in one round, in a database of its own.

    `updates` and `hot` are what `pg_stat_user_tables` counts for `sessions` over the whole cell;
    `after_checkpoint` says that a checkpoint came right before each wave, so that the log holds
    a copy of every page that is touched. `connections`: to the server, of each node.
    """

    load: Load
    turn: int
    steps: int
    steps_per_second: float
    step: Spread
    per_step: Cost
    per_opening: Cost
    disk_bytes: float
    updates: int
    hot: int
    connections: float
    after_checkpoint: bool = False

    @property
    def cold_per_session(self) -> float:
        """Updates of a session's line that had to touch indexes, for its one turn of 20 steps."""
        return (self.updates - self.hot) / (self.load.sessions * self.load.waves)


class Call(msgspec.Struct, frozen=True):
    """One call of the store, with few and with many idle sessions, taken in turns."""

    what: str
    few: Spread
    many: Spread

    @property
    def ratio(self) -> float:
        """The median with many in medians with few."""
        return self.many.p50_ms / self.few.p50_ms if self.few.p50_ms else 0.0


class Look(msgspec.Struct, frozen=True):
    """What the server spends when a node looks whether anything changed and who has mail, with so
    many nodes to hear from.
    """

    nodes: int
    database_us: float


class Hints(msgspec.Struct, frozen=True):
    """What the server spends on one NOTIFY, and on each connection that hears it."""

    rung_us: float
    heard_us: float


class Idle(msgspec.Struct, frozen=True):
    """What idle sessions cost. `touched_wal`: what a claim of one adds to the log, when nobody has
    touched it since the last checkpoint. `scans` are plans that read a whole large table.
    """

    few: int
    many: int
    calls: Sequence[Call]
    bytes_per_session: float
    events_per_session: int
    touched_wal: float
    looks: Sequence[Look]
    hints: Hints
    scans: Sequence[str] = ()


class Figures(msgspec.Struct, frozen=True):
    """Everything one run found. Nothing in it names the machine."""

    date: str
    cores: int
    python: str
    postgres: str
    system: str
    load_before: float
    load_after: float
    prompt_wakeups: bool
    rounds: int
    minutes: float
    control: Spread
    cells: Sequence[Cell]
    idle: Idle
