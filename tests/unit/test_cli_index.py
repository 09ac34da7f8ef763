"""Commands of the index against a real one, whose node is down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from terminal import sits_at_it

from raypacs.cli.app import main
from raypacs.index.engine import open_engine
from raypacs.index.reader import IndexReader
from raypacs.index.writer import IndexWriter
from tests.factories import node_info
from tests.real_site import RealSite
from tests.web_world import image_file

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)
Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def folder(tmp_path: Path, sqlite_url: str) -> Path:
    """The data folder of a site with one prepared study; its node was stopped."""
    site = RealSite(tmp_path / "data", sqlite_url)
    site.store(image_file(PIXELS, 1), image_file(PIXELS, 2))
    site.prepare()
    site.close()
    (tmp_path / "raypacs.toml").write_text(
        f'data_dir = "{tmp_path}/data"\nnode_name = "n1"\nindex_url = "{sqlite_url}"\n'
    )
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with --json; exit code, value, standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # parse in this process: it is little

    def invoke(*words: object) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(["index", *map(str, words), "--json"])
        told = capsys.readouterr()
        return int(ended.value.code or 0), json.loads(told.out or "null"), told.err

    return invoke


def studies(url: str) -> list[str]:
    """The studies that an index knows."""
    reader = IndexReader(url)
    try:
        return [row["StudyInstanceUID"] for row in reader.search_studies({})]
    finally:
        reader.close()


def test_backup_restore_and_reconcile(run: Run, folder: Path, sqlite_url: str) -> None:
    file = folder / "kept" / "index.backup"
    file.parent.mkdir()
    code, told, _ = run("backup", file)
    assert (code, told["size_bytes"]) == (0, file.stat().st_size)
    assert run("backup", file)[0] == 1
    code, told, _ = run("restore", file)
    assert code == 0
    assert "restored from index.backup" in told["reconcile"]
    assert Path(told["replaced"]).exists()
    reader = IndexReader(sqlite_url)
    assert reader.reconcile()
    reader.close()
    code, told, _ = run("sweep", "--yes")
    assert (code, "reconcile" in told["hint"]) == (2, True)
    code, told, _ = run("reconcile")
    assert (code, told["studies"], told["lost"]) == (0, 1, [])
    reader = IndexReader(sqlite_url)
    assert not reader.reconcile()
    reader.close()
    assert studies(sqlite_url) == ["1.2.3"]


def test_force_goes_on_though_another_node_was_heard_just_now(run: Run, sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    IndexWriter.claim_epoch(engine, [], time.time()).node_seen(node_info("n2"), time.time())
    engine.dispose()
    code, _, told = run("reconcile")
    assert code
    assert "n2" in told
    assert "--force" in told
    assert run("reconcile", "--force")[0] == 0


def test_an_index_is_made_again_from_the_tiers(run: Run, folder: Path, sqlite_url: str) -> None:
    code, told, _ = run("rebuild")
    assert (code, "not empty" in told["error"]) == (2, True)
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()
    code, told, err = run("rebuild", "--dry-run")
    assert (code, told["dry_run"], told["studies"]) == (0, True, 1), err
    assert not path.exists()
    code, told, err = run("rebuild")
    assert code == 0, err
    assert (told["counts"]["instances_registered"], told["counts"]["packs_adopted"]) == (2, 1)
    assert studies(sqlite_url) == ["1.2.3"]


def test_what_nobody_knows_is_listed_and_swept_from_web_tiers(run: Run, folder: Path) -> None:
    assert run("sweep", "--dry-run")[1]["orphans"] == []
    packs = [path for path in (folder / "data" / "web").rglob("*") if path.is_file()]
    pack = next(path for path in packs if "studies" in path.parts)
    stray = pack.with_name("0123456789abcdef" + pack.suffix)
    stray.write_bytes(pack.read_bytes())
    told = run("sweep", "--dry-run")[1]
    assert [one["tier"] for one in told["orphans"]] == ["web1"]
    assert stray.exists()
    code, told, _ = run("sweep", "--yes")
    assert (code, told["deleted"]) == (0, 1)
    assert not stray.exists()
    assert pack.exists()


def test_a_sweep_asks_first(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = next(path for path in (folder / "data" / "web" / "studies").rglob("*") if path.is_file())
    stray = pack.with_name("0123456789abcdef" + pack.suffix)
    stray.write_bytes(b"x")
    sits_at_it(monkeypatch, lambda *_: "n")
    assert run("sweep")[0] == 1
    assert stray.exists()


def test_an_index_moves(run: Run, sqlite_url: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/moved.sqlite"
    code, told, _ = run("migrate", "--to", target)
    assert (code, told["rows"]["studies"]) == (0, 1)
    assert studies(target) == ["1.2.3"]
    code, told, _ = run("migrate", "--to", f"sqlite:///{tmp_path}/again.sqlite")
    assert (code, told["kind"]) == (2, "ConfigError")
