"""A real PostgreSQL for tests and benchmarks: started here, stopped by its handle.

``postgres_server`` is the whole of it as a context manager; ``database_url`` gives each test an
empty, migrated index on SQLite and again on PostgreSQL.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from raypacs.index.engine import migrate, open_engine

START_TIMEOUT_S = 60.0
TEMPLATE = "raypacs_template"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_NAMES = itertools.count(1)


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest version's; None without any."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    if debian:
        return debian[-1].parent
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class PostgresServer:
    """One PostgreSQL server; ``stop`` and ``start`` again for tests that lose it.

    ``durable`` false switches every flush off: for tests only.
    """

    def __init__(self, place: Path, *, host: str, durable: bool, log: Path) -> None:
        self.host = host
        self.port = _free_port(host)
        self._place = place
        self._data = place / "data"
        self._log = log
        self._durable = durable
        self._password = _password(place)
        self._process: subprocess.Popen[bytes] | None = None
        if not (self._data / "PG_VERSION").exists():
            self._initdb()

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database (with the password)."""
        return f"postgresql+psycopg://postgres:{self._password}@{self.host}:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> str:
        """Create a database, empty or as a copy of ``template``; return its URL."""
        self._run(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(database), sql.Identifier(template)
            )
        )
        return self.url(database)

    def drop(self, database: str) -> None:
        """Drop a database, whoever is still connected."""
        self._run(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
        )

    def has(self, database: str) -> bool:
        """Whether there is such a database."""
        with self._connect() as conn:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            return conn.execute(query, [database]).fetchone() is not None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        flushes = [] if self._durable else ["fsync=off", "synchronous_commit=off"]
        flushes += [] if self._durable else ["full_page_writes=off"]
        options = [
            f"listen_addresses={self.host}",
            f"unix_socket_directories={self._place}",
            "max_connections=300",
            "timezone=UTC",
            *flushes,
        ]
        command = [_program("postgres"), "-D", self._data, "-p", str(self.port)]
        command += [part for option in options for part in ("-c", option)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=_end_with_parent, **_account()
            )
        self._wait()

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server in order (sessions are ended), or as a crash would."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
        try:
            self._process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _initdb(self) -> None:
        password_file = self._place / "password"
        command = [_program("initdb"), "-D", self._data, "-U", "postgres", "-E", "UTF8"]
        command += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        command += [] if self._durable else ["--no-sync"]
        subprocess.run(command, check=True, capture_output=True, **_account())
        with (self._data / "pg_hba.conf").open("a", encoding="ascii") as handle:
            handle.write("host all all samenet scram-sha-256\n")

    def _wait(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError as exc:
                if self._process.poll() is not None or time.monotonic() > give_up:
                    tail = self._log.read_text(errors="replace")[-2000:]
                    self.stop()
                    raise RuntimeError(f"PostgreSQL did not start: {exc}\n{tail}") from exc
                time.sleep(0.05)
            else:
                return

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user="postgres",
            password=self._password,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        )

    def _run(self, statement: sql.Composed) -> None:
        with self._connect() as conn:
            conn.execute(statement)


@contextmanager
def postgres_server(
    folder: Path, *, host: str = "127.0.0.1", durable: bool = False
) -> Iterator[PostgresServer]:
    """Run a server with its data below ``folder`` (kept, and found again by the next call).

    As root it runs as the user postgres. Where that user cannot reach ``folder`` (pytest's are
    for their owner alone) the data lies in a temporary folder that goes at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    account = _account()
    reachable = not account or all(path.stat().st_mode & 0o001 for path in folder.parents)
    place = folder / "postgres" if reachable else Path(tempfile.mkdtemp(prefix="raypacs-pg-"))
    place.mkdir(mode=0o700, exist_ok=True)
    if account:
        if reachable and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
        shutil.chown(place, "postgres", "postgres")
    try:
        server = PostgresServer(place, host=host, durable=durable, log=folder / "postgres.log")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        if not reachable:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The session's server, with a migrated, empty template database.

    On a laptop without PostgreSQL it skips with the reason; where CI is set it fails.
    """
    if binaries() is None:
        reason = "PostgreSQL's server is not installed (the Debian package postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        engine = open_engine(server.create(TEMPLATE))
        migrate(engine)
        engine.dispose()
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """URL of an index of this test's own on PostgreSQL: migrated, empty."""
    database = f"test_{next(_NAMES)}"
    yield postgres.create(database, TEMPLATE)
    postgres.drop(database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty index on SQLite, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "index.sqlite"
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    with engine.connect() as conn:
        conn.connection.driver_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """URL of an index of this test's own on SQLite: migrated, empty."""
    path = tmp_path / "index" / "index.sqlite"
    path.parent.mkdir()
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of an index of this test's own, on both databases: migrated, empty."""
    url: str = request.getfixturevalue(
        "sqlite_url" if request.param == "sqlite" else "postgres_url"
    )
    return url


def _account() -> dict[str, Any]:
    """Return how a program is run: as user postgres where this is root, which PostgreSQL bars."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam("postgres")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _end_with_parent() -> None:
    # After a kill -9 of the tests nothing stays behind (fast shutdown).
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _program(name: str) -> Path:
    folder = binaries()
    if folder is None:
        raise FileNotFoundError(f"no PostgreSQL here: {name}")
    return folder / name


def _password(place: Path) -> str:
    path = place / "password"
    if not path.exists():
        path.write_text(secrets.token_hex(8), encoding="ascii")
        path.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")
    return path.read_text(encoding="ascii")


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
