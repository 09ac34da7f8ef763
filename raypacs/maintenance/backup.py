"""``raypacs index backup`` and ``restore``: an index on SQLite as one file.

A server's database is backed up with its own tools, which are named where they are needed. What a
backup does not know of (studies received later, packs made later) lies on the tiers: a restored
index deletes nothing until ``raypacs index reconcile`` compared the two.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raypacs import node_file
from raypacs.config import Bootstrap
from raypacs.errors import AlreadyExists, ConfigError, IndexUnavailable
from raypacs.index import backup
from raypacs.index.engine import open_engine, parse_url, tool_url
from raypacs.index.in_use import refuse_in_use


@dataclass(frozen=True, slots=True)
class BackedUp:
    """A backup that is whole and on the disk."""

    path: Path
    size_bytes: int
    epoch: int
    taken_s: float


@dataclass(frozen=True, slots=True)
class Restored:
    """An index that is a backup's now; ``replaced`` is what was there (None: nothing was)."""

    path: Path
    replaced: Path | None
    epoch: int
    taken_s: float
    reconcile: str


def backup_index(bootstrap: Bootstrap, file: Path, *, now: float) -> BackedUp:
    """Back the index up into ``file``, whether the node runs or not.

    Raises:
        AlreadyExists: ``file`` is there already.
        ConfigError: there is no index; or it is on PostgreSQL: names the command.
        IndexUnavailable: it could not be copied.
    """
    index = _sqlite_file(bootstrap, "pg_dump --format=custom --file={file} {url}", file)
    if file.exists():
        raise AlreadyExists(f"{file} is there already", hint="name another file")
    part = _beside(file, "part")
    try:
        found = backup.take(index, part, now)
        # It holds patients' names, and the key of the statistics' pseudonyms.
        part.chmod(0o600)
        _flush(part)
        part.rename(file)
        _flush(file.parent)
    except OSError as exc:
        raise _unwritten(file, exc) from exc
    finally:
        part.unlink(missing_ok=True)
    return BackedUp(file, file.stat().st_size, found.epoch, found.taken_s)


def restore_index(bootstrap: Bootstrap, file: Path, *, now: float, force: bool = False) -> Restored:
    """Make the backup ``file`` the index; the node must be down. What was there is kept beside.

    Raises:
        AlreadyExists: the node, the index' master or another node of it runs (``force``: or may).
        ConfigError: ``file`` is no whole index, or of another site; or the index is on
            PostgreSQL: names the command.
        IndexUnavailable: the file cannot be written; the index is as it was.
    """
    command = "pg_restore --clean --if-exists --single-transaction --dbname={url} {file}"
    index = _sqlite_file(bootstrap, command, file)
    found = backup.look(file)
    with node_file.held(bootstrap):
        present = _present(bootstrap, index, found, now, force)
        taken = _text(found.taken_s or file.stat().st_mtime)
        why = f"restored from {file.name}, taken {taken}"
        part = _beside(index, "restoring")
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(file, part)
            part.chmod(0o600)
            epoch = max(found.epoch, present.epoch if present else 0)
            backup.make_restored(part, at_least_epoch=epoch, why=why, now=now)
            _flush(part)
            replaced = _replace(index, part, now)
        except OSError as exc:
            raise _unwritten(index, exc) from exc
        finally:
            part.unlink(missing_ok=True)
    return Restored(index, replaced, epoch, found.taken_s, why)


def _present(
    bootstrap: Bootstrap, index: Path, wanted: backup.Backup, now: float, force: bool
) -> backup.Backup | None:
    """Return what the index that is to be replaced says of itself; None where it cannot."""
    if not index.exists():
        return None
    try:
        present = backup.look(index, whole=False)
    except ConfigError:
        return None  # Damaged: that is what backups are for.
    engine = open_engine(bootstrap.database_url)
    try:
        refuse_in_use(engine, now, own=bootstrap.name, force=force)
    finally:
        engine.dispose()
    if present.site_id and wanted.site_id != present.site_id:
        raise ConfigError(
            f"the backup is of site {wanted.site_id}, this index of site {present.site_id}",
            hint="move the present index away first if that is what you want",
        )
    return present


def _replace(index: Path, part: Path, now: float) -> Path | None:
    """Put ``part`` in the index' place and keep the old one beside; there is always a whole index.

    The old index' write-ahead log is emptied into its file first: a log beside the new file would
    be damage to it, and the old file without its log would lack the last commits.
    """
    replaced = None
    if index.exists():
        replaced = index.with_name(f"{index.name}.replaced-{_text(now)}")
        emptied = backup.empty_log(index)
        _keep(index, replaced)
        _remove_logs(index, None if emptied else replaced)
    else:
        _remove_logs(index, None)
    # The log must be gone for good before the new file is there, also after a power loss.
    _flush(index.parent)
    part.replace(index)
    _flush(index.parent)
    return replaced


def _keep(index: Path, replaced: Path) -> None:
    """Let the index have a second name, or a copy where the file system has no hard links."""
    replaced.unlink(missing_ok=True)
    try:
        os.link(index, replaced)
    except OSError:
        part = _beside(replaced, "keeping")
        try:
            shutil.copyfile(index, part)
            part.chmod(0o600)
            _flush(part)
            part.rename(replaced)
        finally:
            part.unlink(missing_ok=True)


def _remove_logs(index: Path, kept: Path | None) -> None:
    """Take the logs beside the index away; those of a damaged one go with it (``kept``)."""
    for suffix in ("-wal", "-shm"):
        log = index.with_name(index.name + suffix)
        if kept is not None and log.exists():
            log.rename(kept.with_name(kept.name + suffix))
        else:
            log.unlink(missing_ok=True)


def _sqlite_file(bootstrap: Bootstrap, command: str, file: Path) -> Path:
    url = parse_url(bootstrap.database_url)
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "")
    raise ConfigError(
        "the index is on PostgreSQL, which has tools of its own for this",
        hint=command.format(file=file, url=tool_url(bootstrap.database_url))
        + "; a master that meets an older index than its tiers know lets nothing be deleted until "
        "`raypacs index reconcile`",
    )


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f".{path.name}.{word}-{os.getpid()}")


def _text(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%dT%H%M%SZ")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritten(path: Path, exc: OSError) -> IndexUnavailable:
    return IndexUnavailable(f"{path} cannot be written: {exc.strerror or exc}")
