"""An index that moves to another database, and one that is backed up and restored."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from raypacs import node_file, process
from raypacs.config import Bootstrap, Settings, TierSettings
from raypacs.errors import AlreadyExists, ConfigError, IndexUnavailable, StaleEpoch
from raypacs.index import site
from raypacs.index.engine import migrate as migrate_schema
from raypacs.index.engine import open_engine, public_url
from raypacs.index.ledger import TierSeen
from raypacs.index.reader import IndexReader
from raypacs.index.schema import metadata
from raypacs.index.writer import IndexWriter
from raypacs.maintenance.backup import backup_index, restore_index
from raypacs.maintenance.migrate import Moved, migrate_index
from raypacs.records import AsideRecord, Lease, Outcome, WorkResult
from tests.factories import instance_record, node_info, prepared_series
from tests.postgres import PostgresServer, binaries

T = 1_700_000_000.0
GB = 1_000_000_000

Rows = dict[str, list[tuple[Any, ...]]]


@dataclass
class Site:
    """A node that is down, its index, and what still runs in it."""

    bootstrap: Bootstrap
    lease: Lease | None = None
    result: WorkResult | None = None

    def fill(self) -> None:
        """Give the index something of everything."""
        engine = open_engine(self.bootstrap.database_url)
        writer = IndexWriter.claim_epoch(engine, [], T, chance=lambda: 1.0)
        reader = IndexReader(self.bootstrap.database_url)
        writer.tiers_seen([TierSeen("image1", 10 * GB, True), TierSeen("web1", GB, False)], T)
        image = TierSettings(name="image1", role="image", url="memory://a")
        writer.apply_settings(Settings(tiers=(image,)), "me", T)
        writer.node_seen(node_info(), T)
        attributes = {"PatientName": "Müller^Jörg=山田^太郎", "StudyDescription": "Kopf\t'"}
        for number in range(3):
            study = f"1.2.{number}"
            records = [instance_record(study=study, attributes=attributes) for _ in range(4)]
            conflict = replace(records[0], path=f"conflicts/{number}", sha256="f")
            writer.register([*records, conflict], T)
        writer.aside(AsideRecord(Outcome.QUARANTINED, "image1", "q/1", 5, "bad", "AE", T), T)
        writer.grant("image1", "n1/a", 1000, T)
        writer.enqueue_due(T + 100)
        done, going = writer.lease("n1", ["PREPARE"], 2, T + 100)
        writer.report(done, self._prepared(reader, done), T + 101)
        self.lease, self.result = going, self._prepared(reader, going)
        writer.delete_study(done.study_uid, T + 102, grace_s=5)
        reader.close()
        engine.dispose()

    @staticmethod
    def _prepared(reader: IndexReader, lease: Lease) -> WorkResult:
        series: dict[str, list[Any]] = {}
        for one in reader.unprepared(lease.study_uid):
            series.setdefault(one.record.series_uid, []).append(one)
        return WorkResult(packs=tuple(prepared_series(few, lease) for few in series.values()))


@pytest.fixture
def filled(tmp_path: Path, database_url: str) -> Site:
    site = Site(Bootstrap(data_dir=tmp_path / "data", index_url=database_url, node_name="n1"))
    site.fill()
    return site


@pytest.fixture
def embedded(tmp_path: Path) -> Site:
    """A site as ``raypacs up`` makes it: SQLite in the data folder."""
    site = Site(Bootstrap(data_dir=tmp_path / "data", node_name="n1"))
    engine = open_engine(site.bootstrap.database_url)
    migrate_schema(engine)
    engine.dispose()
    site.fill()
    return site


@pytest.fixture
def target_url(database_url: str, postgres: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """An empty database of the other kind, without a schema yet."""
    if database_url.startswith("sqlite"):
        yield postgres.create("target")
        postgres.drop("target")
    else:
        yield f"sqlite:///{tmp_path / 'target' / 'index.sqlite'}"


def _rows(url: str) -> Rows:
    engine = open_engine(url)
    with engine.connect() as conn:
        found = {
            table.name: [
                tuple(row) for row in conn.execute(sa.select(table).order_by(*table.primary_key))
            ]
            for table in metadata.sorted_tables
        }
    engine.dispose()
    return found


def _move(site: Site, to: str) -> Moved:
    return migrate_index(site.bootstrap, to, now=T + 200)


class TestMigrate:
    def test_everything_moves_with_its_numbers(self, filled: Site, target_url: str) -> None:
        before = _rows(filled.bootstrap.database_url)
        told: dict[str, int] = {}
        moved = migrate_index(filled.bootstrap, target_url, now=T + 200, progress=told.__setitem__)
        after = _rows(target_url)
        changed = {name for name in before if before[name] != after[name]}
        # The move claimed an epoch of its own: that, and its story.
        assert changed == {"meta", "audit"}
        assert after["audit"][:-1] == before["audit"]
        assert {name: count for name, count in moved.rows.items() if count} == told
        assert moved.rows == {name: len(rows) for name, rows in after.items()}
        assert moved.rows["instances"] == 8
        password = sa.make_url(target_url).password
        assert password is None or password not in moved.target

    def test_the_site_goes_on_there_and_only_there(self, filled: Site, target_url: str) -> None:
        _move(filled, target_url)
        engine = open_engine(target_url)
        writer = IndexWriter.claim_epoch(engine, [2], T + 300)
        reader = IndexReader(target_url)
        assert writer.epoch == 3
        assert reader.reconcile() == ""
        assert filled.lease is not None
        assert filled.result is not None
        lease = writer.renew(filled.lease, T + 120)
        assert writer.report(lease, filled.result, T + 121).value == "COMPLETED"
        (answer,) = writer.register([instance_record(study="1.9")], T + 300)
        assert answer.outcome is Outcome.STORED
        assert writer.enqueue_due(T + 400) == 1
        version, settings = reader.settings()
        changed = settings.model_copy(update={"quiet_s": 9.0})
        assert writer.apply_settings(changed, "me", T + 400) == version + 1
        used = {tier: row.used_bytes for tier, row in writer.ledger(T).items() if row.used_bytes}
        assert used == writer.recount(T)
        with pytest.raises(ConfigError, match="moved") as told:
            IndexWriter.claim_epoch(open_engine(filled.bootstrap.database_url), [], T)
        assert "index_url" in told.value.hint
        reader.close()
        engine.dispose()

    def test_a_master_that_was_overlooked_is_stale(self, filled: Site, target_url: str) -> None:
        engine = open_engine(filled.bootstrap.database_url)
        overlooked = IndexWriter.claim_epoch(engine, [], T)
        migrate_index(filled.bootstrap, target_url, now=T + 200, force=True)
        with pytest.raises((StaleEpoch, IndexUnavailable)):
            overlooked.audit("late", T)
        assert "late" not in str(_rows(filled.bootstrap.database_url)["audit"])
        engine.dispose()

    def test_a_target_that_is_not_empty_is_refused(
        self, filled: Site, target_url: str, tmp_path: Path
    ) -> None:
        other = Site(Bootstrap(data_dir=tmp_path / "other", index_url=target_url))
        engine = open_engine(target_url)
        migrate_schema(engine)
        engine.dispose()
        other.fill()
        before = _rows(target_url)
        with pytest.raises(ConfigError, match="not empty"):
            _move(filled, target_url)
        assert _rows(target_url) == before
        engine = open_engine(filled.bootstrap.database_url)
        assert IndexWriter.claim_epoch(engine, [], T).epoch == 2
        engine.dispose()

    def test_a_move_that_broke_off_is_made_again(self, filled: Site, target_url: str) -> None:
        def break_off(table: str, rows: int) -> None:
            if table == "series":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            migrate_index(filled.bootstrap, target_url, now=T, progress=break_off)
        assert not any(_rows(target_url).values())
        # Broken off at the worst moment: the source was marked, the target not committed.
        engine = open_engine(filled.bootstrap.database_url)
        writer = IndexWriter.claim_epoch(engine, [], T)
        with writer.transaction(T) as txn:
            site.put(txn, "moved_to", 1, public_url(target_url))
        engine.dispose()
        assert _move(filled, target_url).rows["instances"] == 8
        with pytest.raises(ConfigError, match="before"):
            _move(filled, target_url)

    def test_not_while_the_node_runs(self, filled: Site, target_url: str) -> None:
        with node_file.held(filled.bootstrap), pytest.raises(AlreadyExists, match="node"):
            _move(filled, target_url)

    def test_not_while_the_master_runs_elsewhere_on_this_host(
        self, filled: Site, target_url: str
    ) -> None:
        other = subprocess.Popen(["sleep", "60"])
        who = process.identity("n2") | {
            "pid": other.pid,
            "started": process.process_start(other.pid),
        }
        engine = open_engine(filled.bootstrap.database_url)
        IndexWriter.claim_epoch(engine, [], T, claimer=who)
        engine.dispose()
        try:
            with pytest.raises(AlreadyExists, match="n2"):
                _move(filled, target_url)
        finally:
            other.kill()
            other.wait()
        _move(filled, target_url)

    def test_an_index_that_is_not_there(self, tmp_path: Path, target_url: str) -> None:
        nothing = Bootstrap(data_dir=tmp_path / "nothing")
        with pytest.raises(ConfigError, match="no index"):
            migrate_index(nothing, target_url, now=T)

    def test_null_characters_stay_behind(self, embedded: Site, postgres_url: str) -> None:
        engine = open_engine(embedded.bootstrap.database_url)
        with engine.begin() as conn:
            studies = metadata.tables["studies"]
            conn.execute(
                sa.update(studies).values(
                    patient_id="a\0b", attributes={"PatientID": "a\0b", "x": ["\0c"]}
                )
            )
        engine.dispose()
        _move(embedded, postgres_url)
        engine = open_engine(postgres_url)
        with engine.connect() as conn:
            found = conn.execute(sa.select(studies.c.patient_id, studies.c.attributes)).first()
        assert tuple(found) == ("ab", {"PatientID": "ab", "x": ["c"]})
        engine.dispose()


class TestBackup:
    def test_back_to_what_was_without_a_lower_epoch(self, embedded: Site, tmp_path: Path) -> None:
        url = embedded.bootstrap.database_url
        file = tmp_path / "backup.sqlite"
        before = _rows(url)
        made = backup_index(embedded.bootstrap, file, now=T + 200)
        assert (made.epoch, made.taken_s) == (1, T + 200)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert made.size_bytes == file.stat().st_size
        engine = open_engine(url)
        for _ in range(3):
            writer = IndexWriter.claim_epoch(engine, [], T + 300)
        writer.register([instance_record(study="1.9")], T + 300)
        engine.dispose()
        restored = restore_index(embedded.bootstrap, file, now=T + 400)
        assert restored.epoch == 4
        after = _rows(url)
        assert {name for name in before if before[name] != after[name]} == {"meta"}
        reader = IndexReader(url)
        assert "backup.sqlite" in reader.reconcile()
        reader.close()
        assert restored.replaced is not None
        kept = _rows(f"sqlite:///{restored.replaced}")
        assert len(kept["instances"]) == len(before["instances"]) + 1
        engine = open_engine(url)
        assert IndexWriter.claim_epoch(engine, [], T + 500).epoch == 5
        engine.dispose()

    def test_while_the_master_writes(self, embedded: Site, tmp_path: Path) -> None:
        engine = open_engine(embedded.bootstrap.database_url)
        writer = IndexWriter.claim_epoch(engine, [], T)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                writer.register([instance_record(study="1.7") for _ in range(20)], T)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            files = [tmp_path / f"{number}.sqlite" for number in range(3)]
            for file in files:
                backup_index(embedded.bootstrap, file, now=T)
        finally:
            stop.set()
            thread.join()
        engine.dispose()
        for file in files:
            url = f"sqlite:///{file}"
            copy = open_engine(url)
            balanced = IndexWriter.claim_epoch(copy, [], T)
            used = {tier: row.used_bytes for tier, row in balanced.ledger(T).items()}
            assert {tier: size for tier, size in used.items() if size} == balanced.recount(T)
            copy.dispose()

    def test_an_index_that_is_lost_or_damaged_is_replaced(
        self, embedded: Site, tmp_path: Path
    ) -> None:
        file = tmp_path / "b.sqlite"
        backup_index(embedded.bootstrap, file, now=T)
        index = Path(sa.make_url(embedded.bootstrap.database_url).database or "")
        index.write_bytes(b"no database " * 1000)
        index.with_name(f"{index.name}-wal").write_bytes(b"x" * 5000)
        restored = restore_index(embedded.bootstrap, file, now=T)
        assert restored.replaced is not None
        assert restored.replaced.read_bytes().startswith(b"no database")
        assert len(_rows(embedded.bootstrap.database_url)["instances"]) == 8
        index.unlink()
        assert restore_index(embedded.bootstrap, file, now=T).replaced is None

    def test_what_is_no_whole_backup_of_this_site_is_refused(
        self, embedded: Site, tmp_path: Path
    ) -> None:
        before = _rows(embedded.bootstrap.database_url)
        empty, text, cut, foreign = (tmp_path / name for name in ("e", "t", "c", "f"))
        sqlite3.connect(empty).close()
        text.write_text("no database")
        backup_index(embedded.bootstrap, cut, now=T)
        os.truncate(cut, cut.stat().st_size // 2)
        other = Site(Bootstrap(data_dir=tmp_path / "other"))
        engine = open_engine(other.bootstrap.database_url)
        migrate_schema(engine)
        engine.dispose()
        other.fill()
        backup_index(other.bootstrap, foreign, now=T)
        for file in (empty, text, cut, foreign, tmp_path / "missing"):
            with pytest.raises(ConfigError):
                restore_index(embedded.bootstrap, file, now=T)
        assert _rows(embedded.bootstrap.database_url) == before
        assert not (tmp_path / "missing").exists()
        with node_file.held(embedded.bootstrap), pytest.raises(AlreadyExists):
            restore_index(embedded.bootstrap, foreign, now=T)

    def test_a_backup_is_not_overwritten(self, embedded: Site, tmp_path: Path) -> None:
        file = tmp_path / "b.sqlite"
        backup_index(embedded.bootstrap, file, now=T)
        with pytest.raises(AlreadyExists):
            backup_index(embedded.bootstrap, file, now=T)
        with pytest.raises(IndexUnavailable):
            backup_index(embedded.bootstrap, tmp_path / "none" / "b.sqlite", now=T)
        assert [path.name for path in tmp_path.glob(".*")] == []

    def test_postgres_tools_do_it_as_they_are_named(
        self, postgres: PostgresServer, postgres_url: str, tmp_path: Path
    ) -> None:
        site = Site(Bootstrap(data_dir=tmp_path / "data", index_url=postgres_url))
        site.fill()
        before = _rows(postgres_url)
        file = tmp_path / "b.dump"
        password = sa.make_url(postgres_url).password or ""
        for ask in (backup_index, restore_index):
            with pytest.raises(ConfigError) as told:
                ask(site.bootstrap, file, now=T)
            command = shlex.split(told.value.hint.partition(";")[0])
            assert password not in told.value.hint
            command[0] = str((binaries() or Path()) / command[0])
            environment = os.environ | {"PGPASSWORD": password}
            subprocess.run(command, env=environment, check=True, capture_output=True)
            engine = open_engine(postgres_url)
            if ask is backup_index:
                IndexWriter.claim_epoch(engine, [], T)
            engine.dispose()
        assert _rows(postgres_url) == before
        assert json.dumps(before["meta"]).count("epoch") == 1
