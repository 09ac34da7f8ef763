"""Whether an index is in use: its master is up, here or elsewhere, or nodes were heard just now.

Asked before an operator moves, replaces or compares an index, or deletes what it does not know.
"""

from __future__ import annotations

import sqlalchemy as sa

from raypacs import process
from raypacs.errors import AlreadyExists
from raypacs.index import settings
from raypacs.index.claiming import last_claimer
from raypacs.index.engine import ADVISORY, MASTER, open_engine
from raypacs.index.schema import nodes

_FORCE = (
    "stop every node first (`raypacs down` on each); if it crashed and is gone for sure: --force"
)

# How pg_locks shows a lock of one 64 bit key.
_HOLDER = sa.text(
    "SELECT coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'this host') "
    "FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND l.classid::bigint = :high AND l.objid::bigint = :low"
)


def refuse_in_use(engine: sa.Engine, now: float, *, own: str = "", force: bool = False) -> None:
    """Refuse an index that somebody else may be using.

    That is: the process that claimed it last runs on this host; or, unless ``force``, a master
    holds its lock (PostgreSQL, from any host), or a node was heard within twice ``node_lost_s``.
    ``own`` is the node whose lock the caller holds: it does not run, however lately it was heard.

    Raises:
        AlreadyExists: says who uses it.
    """
    older = last_claimer(engine)
    if process.runs_here(older) and older["pid"] != process.identity()["pid"]:
        raise AlreadyExists(
            f"the master of this index still runs: pid {older['pid']} {older['node']}".rstrip(),
            hint="stop every node first (`raypacs down`)",
        )
    if force:
        return
    # Through a connection of its own: the writer's may be locked out.
    reader = open_engine(engine.url.render_as_string(hide_password=False), read_only=True)
    try:
        with reader.connect() as conn:
            _refuse_master(conn)
            _refuse_nodes(conn, now, own)
    finally:
        reader.dispose()


def _refuse_master(conn: sa.Connection) -> None:
    if conn.dialect.name != "postgresql":
        return
    key = ADVISORY + MASTER
    held = conn.execute(_HOLDER, {"high": key >> 32, "low": key & 0xFFFFFFFF}).first()
    if held is not None:
        raise AlreadyExists(f"the master of this index is up: {held[0]} on {held[1]}", hint=_FORCE)


def _refuse_nodes(conn: sa.Connection, now: float, own: str) -> None:
    if "left_s" not in {column["name"] for column in sa.inspect(conn).get_columns(nodes.name)}:
        return  # of an earlier version, which had one node
    since_s = now - 2 * settings.read(conn)[1].node_lost_s
    heard = conn.execute(
        sa.select(nodes.c.name, nodes.c.seen_s)
        .where(nodes.c.seen_s > since_s, nodes.c.left_s == 0, nodes.c.name != own)
        .order_by(nodes.c.name)
    ).all()
    if heard:
        told = ", ".join(f"{name} {max(0.0, now - seen_s):.0f} s ago" for name, seen_s in heard)
        raise AlreadyExists(f"nodes of this index were heard just now: {told}", hint=_FORCE)
