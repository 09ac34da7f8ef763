"""Moving an index to another database: every row, with the same ids, or nothing.

The source is held for writing all the while, under an epoch of its own, so nobody claims it; the
target is filled in one transaction. The source says where it went before the target is committed:
there are never two indexes that both let themselves be claimed. A move that broke off is begun
again from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa

from raypacs import process
from raypacs.errors import ConfigError, RaypacsError
from raypacs.index import ledger, site
from raypacs.index.claiming import claiming
from raypacs.index.engine import migrate, open_engine, public_url, version
from raypacs.index.in_use import refuse_in_use
from raypacs.index.schema import meta, metadata
from raypacs.index.writing import Writing

Progress = Callable[[str, int], None]
"""Called with a table's name and how many of its rows are copied so far."""

BATCH = 2_000
# What every index has that was ever claimed or filled.
_TELLING = ("meta", "studies", "settings", "audit", "work_items")


def move(
    url: str, to: str, now: float, progress: Progress, *, own: str = "", force: bool = False
) -> dict[str, int]:
    """Move the index at ``url`` into the empty database ``to``; return rows by table.

    ``own`` and ``force`` as in :func:`raypacs.index.in_use.refuse_in_use`.

    Raises:
        ConfigError: no index at ``url``, it was moved already, or ``to`` holds an index.
        AlreadyExists: its master, or one of its nodes, is up.
        IndexUnavailable: one of the databases does not work; nothing was moved.
    """
    if public_url(url) == public_url(to):
        raise ConfigError("the index is there already", hint="name another database with --to")
    source = open_engine(url)
    try:
        moved = _check_source(source, now, own, force)
        target = open_engine(to)
        try:
            migrate(target)
            _check_target(target, public_url(to), moved)
            _forget_broken_move(source, to)
            return _move(source, target, public_url(to), now, progress)
        finally:
            target.dispose()
    finally:
        source.dispose()


def _check_source(source: sa.Engine, now: float, own: str, force: bool) -> str:
    """Return where the source says it was moved to, or ''."""
    if version(source) is None:
        raise ConfigError("there is no index to move", hint="check index_url and data_dir")
    refuse_in_use(source, now, own=own, force=force)
    migrate(source)
    with source.connect() as conn:
        query = sa.select(meta.c.value).where(meta.c.name == "moved_to")
        return str(conn.execute(query).scalar() or "")


def _check_target(target: sa.Engine, to: str, moved: str) -> None:
    with target.connect() as conn:
        held = [
            name
            for name in _TELLING
            if conn.execute(sa.select(sa.literal(1)).select_from(metadata.tables[name])).first()
        ]
    if moved and (held or moved != to):
        raise ConfigError(
            f"this index was moved to {moved} before",
            hint="set index_url to that database on every node",
            moved_to=moved,
        )
    if held:
        raise ConfigError(
            f"{to} is not empty: it has rows in {', '.join(held)}",
            hint="make a new, empty database for the index",
        )


def _forget_broken_move(source: sa.Engine, to: str) -> None:
    """Let a source be moved again that was on its way to the same, still empty database."""
    with claiming(source) as conn:
        ours = sa.and_(meta.c.name == "moved_to", meta.c.value == public_url(to))
        conn.execute(sa.delete(meta).where(ours))


def _move(
    source: sa.Engine, target: sa.Engine, to: str, now: float, progress: Progress
) -> dict[str, int]:
    writer = Writing.claim_epoch(source, [], now, claimer=process.identity("index migrate"))
    with target.connect() as conn:
        with writer.transaction(now, durable=True) as txn:
            copied = _copy_all(txn.conn, conn, progress)
            _compare(txn.conn, conn, copied)
            site.put(txn, "moved_to", 1, to)
        conn.commit()
        if conn.dialect.name == "postgresql":
            # Searches need the planner to know the sizes now, not when autovacuum comes by.
            conn.exec_driver_sql("ANALYZE")
            conn.commit()
    return copied


def _copy_all(source: sa.Connection, target: sa.Connection, progress: Progress) -> dict[str, int]:
    """Copy every table; those that triggers fill come after those that have the triggers."""
    triggering = _with_triggers(target)
    tables = sorted(metadata.sorted_tables, key=lambda table: table.name not in triggering)
    copied: dict[str, int] = {}
    for table in tables:
        target.execute(sa.delete(table))
        copied[table.name] = 0
        for rows in _batches(source, table, bare=target.dialect.name == "postgresql"):
            target.execute(sa.insert(table), rows)
            copied[table.name] += len(rows)
            progress(table.name, copied[table.name])
        _go_on_numbering(target, table)
    return copied


def _with_triggers(conn: sa.Connection) -> set[str]:
    query = "SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'"
    if conn.dialect.name == "postgresql":
        query = (
            "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "WHERE NOT t.tgisinternal"
        )
    return set(conn.execute(sa.text(query)).scalars())


def _batches(
    source: sa.Connection, table: sa.Table, *, bare: bool
) -> Iterator[list[dict[str, Any]]]:
    found = source.execute(
        sa.select(table).order_by(*table.primary_key), execution_options={"yield_per": BATCH}
    )
    for rows in found.mappings().partitions():
        yield [
            {name: _bare(value) if bare else value for name, value in row.items()} for row in rows
        ]


def _bare(value: Any) -> Any:
    """Return a value without NUL, which PostgreSQL's text cannot hold and SQLite's can."""
    if isinstance(value, str):
        return value.replace("\0", "") if "\0" in value else value
    if isinstance(value, dict):
        return {_bare(key): _bare(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_bare(inner) for inner in value]
    return value


def _go_on_numbering(conn: sa.Connection, table: sa.Table) -> None:
    """Let PostgreSQL number new rows after those copied; SQLite does so by itself."""
    column = table.autoincrement_column
    if conn.dialect.name != "postgresql" or column is None:
        return
    name = {"table": table.name, "column": column.name}
    sequence = conn.execute(
        sa.text("SELECT pg_get_serial_sequence(:table, :column)"), name
    ).scalar_one()
    highest = conn.execute(sa.select(sa.func.max(column))).scalar()
    if sequence and highest:
        conn.execute(sa.select(sa.func.setval(sequence, highest)))


def _compare(source: sa.Connection, target: sa.Connection, copied: dict[str, int]) -> None:
    """Count again on both sides: rows, accounts, and the accounts from the rows of objects."""
    for name, count in copied.items():
        counts = [
            side.execute(sa.select(sa.func.count()).select_from(metadata.tables[name])).scalar_one()
            for side in (source, target)
        ]
        if counts != [count, count]:
            raise RaypacsError(f"{name}: {counts[0]} rows became {counts[1]}; nothing was moved")
    if ledger.read(source) != ledger.read(target):
        raise RaypacsError("the accounts of the tiers differ after copying; nothing was moved")
    if ledger.recount(source) != ledger.recount(target):
        raise RaypacsError("the objects do not add up after copying; nothing was moved")
