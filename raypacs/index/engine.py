"""Engines: how a process connects to the index, and the schema's migration.

SQLite runs in WAL mode: many readers beside the one writer. ``synchronous=NORMAL`` keeps the file
whole after a power loss and may lose the last commits, which the queue repeats;
what must not be lost commits with FULL (``writing.Writing``). PostgreSQL is asked for the same by
``synchronous_commit``. Nothing here waits for ever: connecting, locks and readers' statements have
limits, and a session that was left in the middle of a transaction is ended by the server.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from raypacs.errors import ConfigError, IndexUnavailable, MasterUnavailable

Item = TypeVar("Item")

BUSY_TIMEOUT_S = 30.0
READ_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5
# A lost network shows after about 15 s, instead of PostgreSQL's two hours.
_KEEPALIVE = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# "raypacs", as a number: who migrates the schema, who is the master.
ADVISORY = 0x7261797061
MIGRATING, MASTER = 1, 2
_MIGRATIONS = Path(__file__).parent / "migrations"
# Variables in one statement: SQLite allows 32,766.
_IN_LIST = 500
_WRONG_STATEMENT = (
    sa.exc.DataError,
    sa.exc.IntegrityError,
    sa.exc.NotSupportedError,
    sa.exc.ProgrammingError,
)


@dataclass(frozen=True, slots=True)
class Txn:
    """An open, epoch-checked write transaction at ``now``."""

    conn: sa.Connection
    epoch: int
    now: float


def open_engine(url: str, *, read_only: bool = False) -> sa.Engine:
    """Return an engine for ``url``; a read-only one refuses writes and never creates the database.

    Values read from JSON columns may be shared between rows: treat them as constants. Whatever is
    run on it raises IndexUnavailable where the database itself does not work.

    Raises:
        MasterUnavailable: read-only, and the SQLite file does not exist (on connecting).
    """
    options: dict[str, Any] = {
        "json_serializer": _to_json,
        "json_deserializer": _from_json,
    }
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _telling(_open_postgresql(parsed, read_only, options))
    path = Path(parsed.database or "")
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        parsed, creator=functools.partial(_connect_sqlite, path, read_only), **options
    )
    engine.dialect.statement_compiler = _HintingCompiler
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
    sa.event.listen(engine, "begin", lambda conn: conn.exec_driver_sql(begin))
    return _telling(engine)


class _HintingCompiler(SQLiteCompiler):
    """Renders ``with_hint(table, "INDEXED BY ...")``, which SQLAlchemy leaves out for SQLite."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return what stands behind the table's name."""
        return text


def parse_url(url: str) -> sa.URL:
    """Return the parsed URL; ``postgresql://`` and ``postgres://`` mean psycopg.

    Raises:
        ConfigError: not a URL, or of a database that is neither SQLite nor PostgreSQL.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is not None and parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed is None or parsed.drivername not in ("sqlite", "postgresql+psycopg"):
        # What was given may hold a password.
        raise ConfigError(
            "the index_url is not one of SQLite or PostgreSQL",
            hint="sqlite:////folder/index.sqlite or postgresql://user:password@host/database",
        )
    return parsed


def public_url(url: str) -> str:
    """Return the URL without its password, for messages."""
    return parse_url(url).render_as_string(hide_password=True)


def tool_url(url: str) -> str:
    """Return the URL as PostgreSQL's own tools take it, without the password (PGPASSWORD)."""
    parsed = parse_url(url)
    return parsed._replace(
        drivername="postgresql", password=None, query=sa.util.immutabledict()
    ).render_as_string()


def _open_postgresql(url: sa.URL, read_only: bool, options: dict[str, Any]) -> sa.Engine:
    """Open an engine of sessions with limits. A reader's statements are transactions of their own.

    So a read costs one round trip, not three; each statement saw its own snapshot before, too.
    """
    limits = {
        "lock_timeout": BUSY_TIMEOUT_S,
        "idle_in_transaction_session_timeout": 2 * BUSY_TIMEOUT_S,
    }
    if read_only:
        limits["statement_timeout"] = READ_TIMEOUT_S
        options = options | {"isolation_level": "AUTOCOMMIT"}
    switches = [f"-c {name}={int(seconds * 1000)}" for name, seconds in limits.items()]
    if read_only:
        switches.append("-c default_transaction_read_only=on")
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "raypacs-reader" if read_only else "raypacs",
        **_KEEPALIVE,
    }
    # What the URL says wins; limits that it gives as options come last, so they do too.
    given = dict(url.query)
    arguments = {name: value for name, value in arguments.items() if name not in given}
    arguments["options"] = " ".join([*switches, *_texts(given.get("options", ""))])
    return sa.create_engine(url, pool_pre_ping=True, connect_args=arguments, **options)


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _telling(engine: sa.Engine) -> sa.Engine:
    sa.event.listen(engine, "handle_error", _as_unavailable, retval=True)
    return engine


def _as_unavailable(context: sa.engine.ExceptionContext) -> BaseException | None:
    """Return what a failing database is called here; None for a statement that is wrong.

    The statement and its values, which may be a patient's, are left behind.
    """
    error = context.sqlalchemy_exception
    if context.is_pre_ping:
        return None  # The pool takes a new connection.
    if not isinstance(error, sa.exc.DatabaseError | sa.exc.InterfaceError):
        return None
    if isinstance(error, _WRONG_STATEMENT):
        return None
    original = context.original_exception
    why = str(original).partition("\n")[0]
    return IndexUnavailable(f"the index does not work: {why}", locked=_is_lock(original))


def _is_lock(error: BaseException | None) -> bool:
    """Whether somebody else held a lock for longer than was waited for."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    return getattr(error, "sqlstate", "") == "55P03"


def _connect_sqlite(path: Path, read_only: bool) -> sqlite3.Connection:
    """Connect with transactions begun by us (``isolation_level=None``), not by the driver."""
    if read_only and not path.exists():
        raise MasterUnavailable(f"the index {path} does not exist yet", path=str(path))
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA cache_size=-32768")
    # LIKE as in PostgreSQL; folded columns make person names insensitive to case.
    connection.execute("PRAGMA case_sensitive_like=ON")
    if read_only:
        connection.execute("PRAGMA query_only=ON")
    return connection


@functools.cache
def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to this version's, in one transaction; two processes may race for it.

    Raises:
        ConfigError: the schema is of a later raypacs.
    """
    found = version(engine)
    if found == _scripts().get_current_head():
        return
    if found is not None and found not in {one.revision for one in _scripts().walk_revisions()}:
        raise ConfigError(
            f"the index has schema {found}, which this raypacs does not know: a later one made it",
            hint="start a version at least as new as the one that wrote it",
        )
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY + MIGRATING)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def version(engine: sa.Engine) -> str | None:
    """Return the schema's version; None for a database without one."""
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def is_behind(url: str) -> bool:
    """Whether the index at ``url`` has an earlier schema, which a starting master migrates.

    As long as the migration is under way: it is one transaction. False where nobody can tell.
    """
    try:
        engine = open_engine(url, read_only=True)
    except ConfigError:
        return False
    try:
        found = version(engine)
    except (IndexUnavailable, MasterUnavailable):
        return False
    finally:
        engine.dispose()
    known = {one.revision for one in _scripts().walk_revisions()}
    return found in known and found != _scripts().get_current_head()


def insert(conn: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Return the dialect's INSERT, which has ``on_conflict_do_update`` and ``_do_nothing``."""
    return insert_into(conn.dialect.name, table)


def insert_into(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Return :func:`insert` of a dialect by its name."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def changes(conn: sa.Connection, statement: sa.Executable) -> int:
    """Run an INSERT, UPDATE or DELETE; return how many rows it changed (an INSERT may skip)."""
    # SQLAlchemy forgets the count of an INSERT unless it is asked for.
    done = conn.execute(statement, execution_options={"preserve_rowcount": True})
    return max(0, done.rowcount)


def insert_many(conn: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert ``rows`` in one call, each with the same keys; nothing for none."""
    if rows:
        conn.execute(sa.insert(table), rows)


def add(
    conn: sa.Connection,
    table: sa.Table,
    rows: Sequence[dict[str, Any]],
    *,
    counters: Sequence[str],
    replace: Sequence[str] = (),
) -> None:
    """Insert ``rows``, or where the primary key exists add ``counters`` and overwrite ``replace``.

    A key occurs at most once in ``rows``.
    """
    if rows:
        conn.execute(_adding(conn.dialect.name, table, tuple(counters), tuple(replace)), rows)


@functools.cache
def _adding(
    dialect: str, table: sa.Table, counters: tuple[str, ...], replace: tuple[str, ...]
) -> sa.Executable:
    """Return the statement of :func:`add`: to make it costs more than to run it."""
    statement = insert_into(dialect, table)
    changes: dict[str, Any] = {name: table.c[name] + statement.excluded[name] for name in counters}
    changes |= {name: statement.excluded[name] for name in replace}
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(index_elements=keys, set_=changes)


def in_lists(values: Iterable[Item]) -> Iterator[list[Item]]:
    """Split ``values`` into lists short enough for one IN (...)."""
    every = list(values)
    for start in range(0, len(every), _IN_LIST):
        yield every[start : start + _IN_LIST]


# Made once: json.dumps with options builds an encoder per call.
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@functools.lru_cache(maxsize=4096)
def _from_json(text: str) -> Any:
    # Instances of a series, and rows joined with their study, carry equal text.
    return json.loads(text)
