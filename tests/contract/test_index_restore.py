"""A restore that breaks off anywhere leaves a whole index; file systems without hard links."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raypacs.config import Bootstrap
from raypacs.errors import IndexUnavailable
from raypacs.index.engine import open_engine
from raypacs.index.writer import IndexWriter
from raypacs.maintenance import backup
from raypacs.maintenance.backup import backup_index, restore_index
from tests.factories import instance_record

T = 1_700_000_000.0


class PowerLoss(BaseException):
    """Whatever follows does not happen."""


class Site:
    """An index with one study in a backup, and another that lies in the log only."""

    def __init__(self, folder: Path, url: str) -> None:
        self.bootstrap = Bootstrap(data_dir=folder, node_name="n1", index_url=url)
        self.index = Path(url.removeprefix("sqlite:///"))
        self.backup = folder / "backup"
        engine = open_engine(url)
        writer = IndexWriter.claim_epoch(engine, [], T)
        writer.register([instance_record(study="1.1")], T)
        backup_index(self.bootstrap, self.backup, now=T)
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as open_still:
            open_still.execute("SELECT 1 FROM meta").fetchall()
            writer.register([instance_record(study="1.2")], T)
            engine.dispose()
            # As a killed process leaves it: closing would empty the log.
            wal = self.index.with_name(self.index.name + "-wal")
            kept = {path: path.read_bytes() for path in (self.index, wal)}
        for path, data in kept.items():
            path.write_bytes(data)
        assert wal.stat().st_size > 0

    def restore(self) -> backup.Restored:
        return restore_index(self.bootstrap, self.backup, now=T)


def studies(index: Path) -> set[str]:
    with closing(sqlite3.connect(index)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return {row[0] for row in conn.execute("SELECT study_uid FROM studies")}


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return Site(tmp_path, sqlite_url)


def test_what_was_replaced_is_whole_without_its_log(site: Site) -> None:
    replaced = site.restore().replaced
    assert studies(site.index) == {"1.1"}
    assert replaced is not None
    assert not replaced.with_name(replaced.name + "-wal").exists()
    assert studies(replaced) == {"1.1", "1.2"}


@pytest.mark.parametrize("at", range(12))
def test_power_is_lost_anywhere(site: Site, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Before the n-th change of a name: the index is the old one, or the new one, never less."""
    count = 0

    def cut(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count > at:
                raise PowerLoss
            return real(*args, **named)

        return call

    with monkeypatch.context() as patched:
        for name in ("link", "replace", "rename", "unlink"):
            patched.setattr(os, name, cut(getattr(os, name)))
        try:
            site.restore()
        except PowerLoss:
            pass
    assert studies(site.index) in ({"1.1", "1.2"}, {"1.1"})
    assert studies(site.restore().path) == {"1.1"}


def test_without_hard_links(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", none)
    replaced = site.restore().replaced
    assert replaced is not None
    assert studies(replaced) == {"1.1", "1.2"}
    assert studies(site.index) == {"1.1"}
    assert [path.name for path in site.index.parent.glob(".*")] == []


def test_an_index_that_a_shell_has_open_is_left_alone(site: Site) -> None:
    with closing(sqlite3.connect(site.index)) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT count(*) FROM studies").fetchall()
        with pytest.raises(IndexUnavailable, match="in use"):
            site.restore()
    assert studies(site.index) == {"1.1", "1.2"}
