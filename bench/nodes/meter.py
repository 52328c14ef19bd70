"""What the database spent: read from the system and from itself, before and after."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from perdure.testing.postgres import PostgresServer

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reading:
    """Seconds of processor of all of the server's processes, bytes of log, commits of nodes."""

    cpu_s: float
    wal: int
    commits: int

    def __add__(self, other: "Reading") -> "Reading":
        """Return both together."""
        return Reading(self.cpu_s + other.cpu_s, self.wal + other.wal, self.commits + other.commits)

    def __sub__(self, other: "Reading") -> "Reading":
        """Return what came between."""
        return Reading(self.cpu_s - other.cpu_s, self.wal - other.wal, self.commits - other.commits)


class Meter:
    """Looks at one database of a server, over a connection of its own."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self._server = server
        info = f"{server.conninfo(database)} options='-csearch_path=perdure'"
        self._connection = psycopg.connect(info, autocommit=True)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def read(self) -> Reading:
        """Look."""
        wal = self._number("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")
        # Each node counts its groups in the transaction that writes them.
        commits = self._number("SELECT coalesce(sum(version), 0)::bigint FROM changes")
        return Reading(cpu_seconds(self._server.processes()), wal, commits)

    def size(self) -> int:
        """Return the bytes of all tables and indexes of ours."""
        return self._number(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c "
            "WHERE c.relnamespace = 'perdure'::regnamespace AND c.relkind = 'r'"
        )

    def connections(self) -> int:
        """Return how many connections the nodes have to this database."""
        return self._number(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'perdure %'"
        )

    def checkpoint(self) -> None:
        """Have the server write everything out."""
        self._connection.execute("CHECKPOINT")

    def updates(self) -> tuple[int, int]:
        """Return how many updates `sessions` had, and how many of them touched no index."""
        row = self._connection.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables "
            "WHERE schemaname = 'perdure' AND relname = 'sessions'"
        ).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def _number(self, statement: str) -> int:
        row = self._connection.execute(statement.encode()).fetchone()
        return int(row[0]) if row else 0


def cpu_seconds(pids: list[int]) -> float:
    """Return what these processes have used, and of the first what its dead children had."""
    used = sum(_used(pid) for pid in pids)
    return used + sum(int(ticks) for ticks in _stat(pids[0])[13:15]) / _TICKS


def _used(pid: int) -> float:
    """Return the seconds of user and system time of a process, to the nanosecond where the system
    counts so: a process that wakes up for microseconds has no whole tick for long.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        return sum(int(ticks) for ticks in _stat(pid)[11:13]) / _TICKS


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []  # it has just ended; its parent counts it
