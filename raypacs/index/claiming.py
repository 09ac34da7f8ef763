"""Taking an epoch, also from a master that is frozen and holds the database's lock.

A master may stop in the middle of a transaction (SIGSTOP, a suspended machine) and keep its lock
for ever. A claim waits for it a while; then

- on PostgreSQL the sessions of older masters are ended by the server, wherever they run;
- on SQLite, which one host has, exactly the process that claimed the last epoch is ended: its pid
  and its start mark are in ``meta``, and both must match.

What the frozen one had not committed is rolled back by the database. After a claim on PostgreSQL
no session of an older master is left, and the new one holds an advisory lock for its life.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from raypacs import process
from raypacs.errors import IndexUnavailable
from raypacs.index.engine import ADVISORY, BUSY_TIMEOUT_S, MASTER, open_engine
from raypacs.index.schema import meta

log = logging.getLogger(__name__)

LOCK_WAIT_S = 5.0
"""How long a claim waits for an older master's lock before it ends that master."""
_CLAIMING = "raypacs-claim"

_END_OLDER = sa.text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND CASE WHEN application_name ~ '^raypacs-master-[0-9]{1,18}-' "
    "THEN split_part(application_name, '-', 3)::bigint < :epoch ELSE false END"
)
# A claim takes milliseconds: one that is still open is frozen.
_END_FROZEN_CLAIMS = sa.text(
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND application_name = :name AND xact_start < now() - make_interval(secs => :wait_s)"
)


@contextmanager
def flushed(conn: sa.Connection, *, switch: bool = True) -> Iterator[None]:
    """Let what commits within be flushed to the disk on SQLite (PostgreSQL: ``flushing``)."""
    if not switch or conn.dialect.name != "sqlite":
        yield
        return
    raw: Any = conn.connection.driver_connection
    raw.execute("PRAGMA synchronous=FULL")
    try:
        yield
    finally:
        raw.execute("PRAGMA synchronous=NORMAL")


def flushing(*, wanted: bool) -> sa.Label[Any]:
    """Return a column that says for PostgreSQL whether this transaction's commit is waited for.

    A server that waits for more than its own disk (a standby's) goes on to do so.
    """
    name = "synchronous_commit"
    now = sa.func.current_setting(name)
    value = sa.case((now == "off", "on"), else_=now) if wanted else sa.literal("off")
    return sa.func.set_config(name, value, True).label(name)


@contextmanager
def claiming(engine: sa.Engine, *, wait_s: float = LOCK_WAIT_S) -> Iterator[sa.Connection]:
    """Begin a durable write transaction that holds the epoch's row (SQLite: the database).

    Raises:
        IndexUnavailable: somebody who is no older master holds the lock.
    """
    name_sessions(engine, _CLAIMING)
    with engine.connect() as conn, flushed(conn), _waiting(conn, wait_s):
        try:
            _lock(conn)
        except IndexUnavailable as exc:
            if not exc.fields.get("locked"):
                raise
            conn.rollback()
            _end_holder(engine, conn, wait_s)
            _lock(conn)
        try:
            yield conn
        except BaseException:
            conn.rollback()
            raise
        conn.commit()


def _lock(conn: sa.Connection) -> None:
    # On SQLite the transaction's BEGIN IMMEDIATE is the lock.
    if conn.dialect.name == "postgresql":
        conn.execute(sa.select(flushing(wanted=True)))
    conn.execute(sa.select(meta.c.number).where(meta.c.name == "epoch").with_for_update())


@contextmanager
def _waiting(conn: sa.Connection, wait_s: float) -> Iterator[None]:
    """Wait no longer than ``wait_s`` for a lock on this connection."""
    milliseconds = int(wait_s * 1000)
    raw: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        raw.execute(f"PRAGMA busy_timeout={milliseconds}")
        try:
            yield
        finally:
            raw.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1000)}")
        return
    # For the session: it ends after the claim (name_sessions).
    conn.execute(sa.select(sa.func.set_config("lock_timeout", str(milliseconds), False)))
    conn.commit()
    yield


def _end_holder(engine: sa.Engine, conn: sa.Connection, wait_s: float) -> None:
    if conn.dialect.name == "postgresql":
        ended = end_older_sessions(conn, 2**62)
        frozen = {"name": _CLAIMING, "wait_s": wait_s}
        ended += int(conn.execute(_END_FROZEN_CLAIMS, frozen).scalar_one())
        conn.commit()
        log.warning("sessions of an older master held the index and were ended: %s", ended)
        return
    older = last_claimer(engine)
    if not process.runs_here(older):
        raise IndexUnavailable(
            "the index is locked, not by the last master of this host: "
            f"{older.get('node', '')} pid {older.get('pid', '?')} does not run here",
            hint="end the program that holds the database, a shell maybe (`fuser` names it)",
        )
    gone = process.end(older, wait_s=wait_s)
    log.warning("an older master held the index", extra={"pid": older["pid"], "ended": gone})


def end_older_sessions(conn: sa.Connection, epoch: int) -> int:
    """End the sessions of masters before ``epoch``; return how many there were."""
    return int(conn.execute(_END_OLDER, {"epoch": epoch}).scalar_one())


def last_claimer(engine: sa.Engine) -> dict[str, Any]:
    """Return the process that claimed last: node, pid, host, started; {} without any.

    Read through a connection of its own, as the writer's may be locked out.
    """
    reader = open_engine(engine.url.render_as_string(hide_password=False), read_only=True)
    try:
        with reader.connect() as conn:
            text = conn.execute(sa.select(meta.c.value).where(meta.c.name == "master")).scalar()
    finally:
        reader.dispose()
    return json.loads(text) if text else {}


def name_sessions(engine: sa.Engine, name: str) -> None:
    """Let PostgreSQL's sessions of this engine be called ``name``, from the next one on."""
    if engine.dialect.name != "postgresql":
        return

    def _name(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        options["application_name"] = name

    sa.event.listen(engine, "do_connect", _name)
    engine.dispose()


class Hold:
    """The advisory lock of a PostgreSQL master: a session of its own, for the master's life.

    The epoch is what keeps an older master from writing. The lock shows an operator (pg_locks) who
    is the master. On SQLite there is nothing to hold.
    """

    def __init__(self, engine: sa.Engine, epoch: int, claimer: Mapping[str, Any]) -> None:
        self.lost = engine.dialect.name == "postgresql"
        self._engine = engine
        self._epoch = epoch
        self._conn: sa.Connection | None = None
        if self.lost:
            # 63 bytes are kept of it: the epoch comes first.
            name_sessions(engine, f"raypacs-master-{epoch}-{claimer.get('node', '')}")
            self.keep()
            sa.event.listen(engine, "engine_disposed", lambda _: self.release())

    def keep(self) -> None:
        """Where it is ``lost``: end what older masters have open, and take the lock again."""
        if not self.lost or self._engine.dialect.name != "postgresql":
            return
        self.release()
        try:
            self._conn = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            self._conn.detach()
            end_older_sessions(self._conn, self._epoch)
            wait = sa.func.set_config("lock_timeout", str(int(LOCK_WAIT_S * 1000)), False)
            self._conn.execute(sa.select(wait))
            self._conn.execute(sa.select(sa.func.pg_advisory_lock(ADVISORY + MASTER)))
        except IndexUnavailable as exc:
            # Maybe a later master has it, or ended this session: the next write will say so.
            log.warning("the master's advisory lock is not to be had: %s", exc)
            self.release()
        else:
            self.lost = False

    def release(self) -> None:
        """Let the lock go by closing its session."""
        if self._conn is not None:
            self._conn.invalidate()
            self._conn.close()
            self._conn = None
