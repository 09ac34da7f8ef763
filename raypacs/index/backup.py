"""Copies of an index on SQLite: taken while it is used, and looked at before they are trusted."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from raypacs.errors import ConfigError, IndexUnavailable

_NOT_ONE = "{path} is not a backup of an index"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy says of itself: site, newest epoch, and when it was taken (0: it is no copy)."""

    site_id: str
    epoch: int
    taken_s: float


def take(index: Path, to: Path, now: float) -> Backup:
    """Copy the index as it is at this moment to ``to``, checked and flushed to the disk.

    Writers go on meanwhile; the copy holds what was committed when it began.

    Raises:
        ConfigError: there is no index at ``index``.
        IndexUnavailable: it cannot be read, or ``to`` not written.
    """
    if not index.is_file():
        raise ConfigError(f"there is no index at {index}", hint="check data_dir and index_url")
    try:
        with (
            closing(sqlite3.connect(f"file:{index}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(to, isolation_level=None)) as target,
        ):
            # In one go: a copy in steps begins anew with every commit of the master.
            source.backup(target, pages=-1)
            target.execute("PRAGMA journal_mode=DELETE")
            target.execute("PRAGMA synchronous=FULL")
            put(target, "backup", 0, "", now)
    except sqlite3.Error as exc:
        raise IndexUnavailable(f"the index could not be copied: {exc}") from exc
    return look(to)


def look(path: Path, *, whole: bool = True) -> Backup:
    """Return what the index in file ``path`` says of itself; ``whole`` checks every page.

    Raises:
        ConfigError: not an index, or damaged.
    """
    wrong = _NOT_ONE.format(path=path)
    if not path.is_file():
        raise ConfigError(f"{wrong}: no such file")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            found = conn.execute("PRAGMA integrity_check").fetchone()[0] if whole else "ok"
            rows = conn.execute("SELECT name, number, value, at_s FROM meta").fetchall()
    except sqlite3.Error as exc:
        raise ConfigError(f"{wrong}: {exc}") from exc
    if found != "ok":
        raise ConfigError(f"{path} is damaged: {found}", hint="use another backup")
    said = {name: (number, value, at_s) for name, number, value, at_s in rows}
    if "epoch" not in said:
        raise ConfigError(f"{wrong}: no master ever claimed it")
    return Backup(
        site_id=said.get("site_id", (0, "", 0.0))[1],
        epoch=int(said["epoch"][0]),
        taken_s=float(said.get("backup", (0, "", 0.0))[2]),
    )


def empty_log(path: Path) -> bool:
    """Write the log of the index in file ``path`` into it; False where it is damaged.

    Raises:
        IndexUnavailable: another program has it open.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("PRAGMA synchronous=FULL")
            busy = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error:
        return False
    if busy:
        raise IndexUnavailable(
            f"{path} is in use", hint="end the program that has it open (`fuser` names it)"
        )
    return True


def make_restored(path: Path, *, at_least_epoch: int, why: str, now: float) -> None:
    """Let the index in file ``path`` be reconciled before it deletes; its epoch never falls."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute("PRAGMA synchronous=FULL")
            conn.execute("BEGIN IMMEDIATE")
            put(conn, "reconcile", 1, why, now)
            conn.execute(
                "UPDATE meta SET number = MAX(number, ?) WHERE name = 'epoch'", [at_least_epoch]
            )
            conn.execute("DELETE FROM meta WHERE name IN ('backup', 'moved_to')")
            conn.execute("COMMIT")
    except sqlite3.Error as exc:
        raise IndexUnavailable(f"the restored index cannot be written: {exc}") from exc


def put(conn: sqlite3.Connection, name: str, number: int, value: str, now: float) -> None:
    """Write one value of ``meta`` (``site.put`` without a master)."""
    conn.execute(
        "INSERT INTO meta (name, number, value, at_s) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET number = excluded.number, value = excluded.value, "
        "at_s = excluded.at_s",
        [name, number, value, now],
    )
