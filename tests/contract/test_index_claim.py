"""Claims against older masters that are frozen, dead, or somebody else."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from raypacs import process
from raypacs.errors import ConfigError, IndexUnavailable, StaleEpoch
from raypacs.index import site
from raypacs.index.engine import open_engine
from raypacs.index.schema import audit, meta
from raypacs.index.writer import IndexWriter

T = 1_700_000_000.0
WAIT_S = 0.5

# A master that stops in the middle of a transaction, or between two, until a line comes.
_MASTER = """
import sys
from raypacs.errors import RaypacsError
from raypacs.index.audit import record
from raypacs.index.engine import open_engine
from raypacs.index.writer import IndexWriter
writer = IndexWriter.claim_epoch(open_engine(sys.argv[1]), [], 1.0)
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
def tell(what):
    try:
        what()
    except RaypacsError as exc:
        print(type(exc).__name__, flush=True)
    else:
        print("done", flush=True)
def half():
    with writer.transaction(2.0) as txn:
        record(txn, "half")
        if sys.argv[2] == "inside":
            wait()
if sys.argv[2] == "outside":
    wait()
tell(half)
tell(lambda: writer.audit("later", 3.0))
"""


class Older:
    """An older master in a process of its own."""

    def __init__(self, url: str, where: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MASTER, url, where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> list[str]:
        self.process.send_signal(signal.SIGCONT)
        said, _ = self.process.communicate("\n", timeout=60)
        return said.split()


@contextmanager
def frozen(url: str, where: str) -> Iterator[Older]:
    older = Older(url, where)
    try:
        older.process.send_signal(signal.SIGSTOP)
        yield older
    finally:
        older.process.kill()
        older.process.communicate()


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(sqlite_url)
    yield engine
    engine.dispose()


def _events(engine: sa.Engine) -> list[str]:
    with engine.connect() as conn:
        return list(conn.execute(sa.select(audit.c.event).order_by(audit.c.audit_id)).scalars())


class TestFrozen:
    def test_between_transactions_it_changes_nothing_afterwards(
        self, engine: sa.Engine, database_url: str
    ) -> None:
        with frozen(database_url, "outside") as older:
            writer = IndexWriter.claim_epoch(engine, [], T, lock_wait_s=WAIT_S)
            assert writer.epoch == 2
            assert older.process.poll() is None
            said = older.go_on()
        # On PostgreSQL its session was ended; it comes back to be refused.
        assert said[-1] == "StaleEpoch"
        assert set(said) <= {"StaleEpoch", "IndexUnavailable"}
        assert _events(engine) == ["epoch", "epoch"]
        writer.audit("new", T)

    def test_inside_a_transaction_it_does_not_hold_up_a_claim(
        self, engine: sa.Engine, database_url: str
    ) -> None:
        with frozen(database_url, "inside") as older:
            writer = IndexWriter.claim_epoch(engine, [], T, lock_wait_s=WAIT_S)
            assert writer.epoch == 2
            writer.audit("new", T)
            if engine.dialect.name == "sqlite":
                assert older.process.wait(30) == -signal.SIGKILL
            else:
                assert older.go_on() == ["IndexUnavailable", "StaleEpoch"]
        assert _events(engine) == ["epoch", "epoch", "new"]


class TestSomebodyElse:
    @pytest.mark.parametrize("other", ["host", "started"])
    def test_only_the_process_meant_is_ended(
        self, sqlite_engine: sa.Engine, sqlite_url: str, other: str
    ) -> None:
        bystander = subprocess.Popen(["sleep", "60"])
        who = {
            "node": "n9",
            "pid": bystander.pid,
            "host": socket.gethostname(),
            "started": process.process_start(bystander.pid),
        }
        shell = open_engine(sqlite_url)
        try:
            IndexWriter.claim_epoch(sqlite_engine, [], T, claimer=who | {other: "else"})
            with shell.begin(), pytest.raises(IndexUnavailable, match="n9") as told:
                IndexWriter.claim_epoch(sqlite_engine, [], T, lock_wait_s=0.1)
            assert "fuser" in told.value.hint
            assert bystander.poll() is None
        finally:
            shell.dispose()
            bystander.kill()
            bystander.wait()
        assert IndexWriter.claim_epoch(sqlite_engine, [], T).epoch == 2

    def test_a_process_does_not_end_itself(self, sqlite_engine: sa.Engine, sqlite_url: str) -> None:
        IndexWriter.claim_epoch(sqlite_engine, [], T)
        shell = open_engine(sqlite_url)
        with shell.begin(), pytest.raises(IndexUnavailable, match="locked"):
            IndexWriter.claim_epoch(sqlite_engine, [], T, lock_wait_s=0.1)
        shell.dispose()

    def test_postgres_lets_a_foreign_lock_be_told(self, postgres_url: str) -> None:
        engine, shell = open_engine(postgres_url), open_engine(postgres_url)
        IndexWriter.claim_epoch(engine, [], T)
        with shell.begin() as conn:
            conn.execute(sa.select(meta).with_for_update())
            with pytest.raises(IndexUnavailable, match="lock") as told:
                IndexWriter.claim_epoch(engine, [], T, lock_wait_s=0.1)
            assert told.value.fields["locked"]
        assert IndexWriter.claim_epoch(engine, [], T).epoch == 2
        shell.dispose()
        engine.dispose()


class TestClaim:
    def test_claims_at_one_instant_get_epochs_of_their_own(self, database_url: str) -> None:
        engines = [open_engine(database_url) for _ in range(6)]

        def claim(engine: sa.Engine) -> IndexWriter:
            return IndexWriter.claim_epoch(engine, [], T, lock_wait_s=20)

        with ThreadPoolExecutor(len(engines)) as pool:
            writers = list(pool.map(claim, engines))
        assert sorted(writer.epoch for writer in writers) == [1, 2, 3, 4, 5, 6]
        for writer in writers:
            if writer.epoch < 6:
                with pytest.raises((StaleEpoch, IndexUnavailable)):
                    writer.audit("old", T)
        max(writers, key=lambda writer: writer.epoch).audit("new", T)
        assert _events(engines[0]).count("old") == 0
        for engine in engines:
            engine.dispose()

    def test_says_who_claimed(self, engine: sa.Engine) -> None:
        IndexWriter.claim_epoch(engine, [], T, claimer=process.identity("n1"))
        with engine.connect() as conn:
            row = conn.execute(sa.select(meta).where(meta.c.name == "master")).one()
        found = json.loads(row.value)
        assert found == process.identity("n1")
        assert (row.number, row.at_s) == (1, T)
        assert process.runs_here(found)

    def test_the_site_keeps_its_identity(self, engine: sa.Engine) -> None:
        IndexWriter.claim_epoch(engine, [], T)
        with engine.connect() as conn:
            first = site.read(conn).site_id
        IndexWriter.claim_epoch(engine, [], T)
        with engine.connect() as conn:
            assert site.read(conn).site_id == first
        assert len(first) == 16

    @pytest.mark.parametrize(("markers", "sequence"), [([1], 0), ([3], 0), ([], 1), ([0], 99)])
    def test_an_index_behind_its_tiers_must_be_reconciled(
        self, engine: sa.Engine, markers: list[int], sequence: int
    ) -> None:
        IndexWriter.claim_epoch(engine, [], T)
        writer = IndexWriter.claim_epoch(engine, markers, T, sequence=sequence)
        with engine.connect() as conn:
            why = site.read(conn).reconcile
        assert bool(why) == (markers == [3] or sequence == 99)
        assert writer.epoch == (4 if markers == [3] else 2)

    def test_an_index_that_was_moved_away_is_not_claimed(self, engine: sa.Engine) -> None:
        writer = IndexWriter.claim_epoch(engine, [], T)
        with writer.transaction(T) as txn:
            site.put(txn, "moved_to", 1, "postgresql://db/raypacs")
        with pytest.raises(ConfigError, match="postgresql://db/raypacs"):
            IndexWriter.claim_epoch(engine, [], T)
        writer.audit("still there", T)
