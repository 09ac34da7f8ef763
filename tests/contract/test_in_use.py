"""What an operator does to an index while another host of the site is up is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raypacs.errors import AlreadyExists, StaleEpoch
from raypacs.index.engine import open_engine
from raypacs.index.writer import IndexWriter
from raypacs.maintenance.backup import backup_index, restore_index
from raypacs.maintenance.migrate import migrate_index
from raypacs.maintenance.rebuild import rebuild_index, reconcile_index, sweep_index
from tests.down_site import NOW, Down, files
from tests.factories import node_info

# A master elsewhere: its host is not this one's, so its pid says nothing here.
_ELSEWHERE = """
import sys
from raypacs.index.engine import open_engine
from raypacs.index.writer import IndexWriter
claimer = {"node": "n9", "pid": 1, "host": "elsewhere", "started": "x"}
writer = IndexWriter.claim_epoch(open_engine(sys.argv[1]), [], 1.0, claimer=claimer)
print("up", flush=True)
sys.stdin.readline()
"""


@contextmanager
def master_elsewhere(url: str) -> Iterator[None]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _ELSEWHERE, url], **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield
        finally:
            process.kill()


def heard(url: str, name: str, at_s: float) -> None:
    """Let the index hear of a node."""
    engine = open_engine(url)
    writer = IndexWriter.claim_epoch(engine, [], at_s)
    writer.node_seen(node_info(name), at_s)
    engine.dispose()


@pytest.fixture
def stopped(tmp_path: Path, database_url: str) -> Down:
    """A site with a study, whose node was stopped long ago."""
    down = Down(tmp_path, database_url)
    down.site.store(*files())
    down.stop()
    return down


COMMANDS: dict[str, Callable[..., Any]] = {
    "sweep": lambda boot, **force: sweep_index(boot, now=NOW, dry_run=False, **force),
    "reconcile": lambda boot, **force: reconcile_index(boot, now=NOW, workers=1, **force),
    "rebuild": lambda boot, **force: rebuild_index(boot, now=NOW, workers=1, **force),
    "migrate": lambda boot, **force: migrate_index(
        boot, f"sqlite:///{boot.data_dir}/target.sqlite", now=NOW, **force
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_master_of_another_host(tmp_path: Path, postgres_url: str, command: str) -> None:
    down = Down(tmp_path, postgres_url)
    down.stop()
    with master_elsewhere(postgres_url):
        with pytest.raises(AlreadyExists, match=r"is up: raypacs-master-.*-n9 on") as told:
            COMMANDS[command](down.boot(postgres_url))
        assert "--force" in told.value.hint
        sweep_index(down.boot(postgres_url), now=NOW)  # only lists
    COMMANDS[command](down.boot(postgres_url))


@pytest.mark.parametrize("command", ["sweep", "reconcile", "migrate"])
def test_a_node_that_was_heard_just_now(stopped: Down, command: str) -> None:
    heard(stopped.url, "n2", NOW - 20)
    with pytest.raises(AlreadyExists, match="n2 20 s ago") as told:
        COMMANDS[command](stopped.boot(stopped.url))
    assert "--force" in told.value.hint
    COMMANDS[command](stopped.boot(stopped.url), force=True)


def test_nodes_that_are_gone_do_not_count(stopped: Down) -> None:
    """One was not heard for long, one left; the own one's lock is held."""
    heard(stopped.url, "n2", NOW - 31)
    heard(stopped.url, "n1", NOW - 1)
    heard(stopped.url, "n3", NOW - 1)
    engine = open_engine(stopped.url)
    IndexWriter.claim_epoch(engine, [], NOW - 1).node_left("n3", "b1", NOW - 1)
    engine.dispose()
    reconcile_index(stopped.boot(stopped.url), now=NOW, workers=1)


def test_restore(tmp_path: Path, sqlite_url: str) -> None:
    down = Down(tmp_path, sqlite_url)
    backup_index(down.site.bootstrap, tmp_path / "backup", now=NOW)
    down.stop()
    heard(sqlite_url, "n2", NOW - 20)
    with pytest.raises(AlreadyExists, match="n2"):
        restore_index(down.boot(sqlite_url), tmp_path / "backup", now=NOW)
    restore_index(down.boot(sqlite_url), tmp_path / "backup", now=NOW, force=True)


def test_a_master_that_starts_meanwhile_ends_it(stopped: Down) -> None:
    """Nothing that is asked before can exclude it; the epoch does."""

    def meanwhile(done: int, total: int) -> None:
        engine = open_engine(stopped.url)
        IndexWriter.claim_epoch(engine, [], NOW)
        engine.dispose()

    with pytest.raises(StaleEpoch):
        reconcile_index(stopped.boot(stopped.url), now=NOW, workers=1, progress=meanwhile)
