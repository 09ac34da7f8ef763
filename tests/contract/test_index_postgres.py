"""What is PostgreSQL's own: lost servers, ended sessions, limits, order of text, URLs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from raypacs.errors import ConfigError, IndexUnavailable, StaleEpoch
from raypacs.index.engine import migrate, open_engine, public_url, version
from raypacs.index.reader import IndexReader
from raypacs.index.schema import metadata
from raypacs.index.writer import IndexWriter
from tests.factories import instance_record
from tests.postgres import PostgresServer, postgres_server

T = 1_700_000_000.0


@pytest.fixture
def engine(postgres_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(postgres_url)
    yield engine
    engine.dispose()


def _sessions(engine: sa.Engine) -> list[str]:
    query = (
        "SELECT application_name FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with engine.connect() as conn:
        return sorted(conn.execute(sa.text(query)).scalars())


def _holds(engine: sa.Engine) -> int:
    with engine.connect() as conn:
        return conn.execute(
            sa.text(
                "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
                "WHERE locktype = 'advisory' AND granted AND d.datname = current_database()"
            )
        ).scalar_one()


@pytest.fixture(scope="module")
def server(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PostgresServer]:
    """A server to be stopped; the session's is needed by others (and skips where none is)."""
    with postgres_server(tmp_path_factory.mktemp("lost"), durable=True) as server:
        yield server


class TestLost:
    @pytest.mark.parametrize("crash", [False, True])
    def test_a_server_that_goes_is_told_and_comes_back(
        self, server: PostgresServer, crash: bool
    ) -> None:
        url = server.create(f"lost_{crash}".lower())
        engine = open_engine(url)
        migrate(engine)
        writer, reader = IndexWriter.claim_epoch(engine, [], T), IndexReader(url)
        record = instance_record()
        writer.register([record], T)
        server.stop(crash=crash)
        for ask in (
            lambda: writer.register([instance_record()], T),
            lambda: reader.known(record.sop_instance_uid),
            lambda: IndexWriter.claim_epoch(open_engine(url), [], T),
        ):
            with pytest.raises(IndexUnavailable) as told:
                ask()
            assert server.url("").split(":")[2].split("@")[0] not in str(told.value)
        server.start()
        assert reader.known(record.sop_instance_uid) is not None
        assert writer.register([instance_record()], T)[0].outcome.value == "stored"
        assert _holds(engine) == 1
        reader.close()
        engine.dispose()


class TestSessions:
    def test_the_master_holds_the_lock_and_older_sessions_go(
        self, engine: sa.Engine, postgres_url: str
    ) -> None:
        older = open_engine(postgres_url)
        old = IndexWriter.claim_epoch(older, [], T, claimer={"node": "n1", "pid": 1})
        old.audit("old", T)
        assert _holds(engine) == 1
        assert any(name == "raypacs-master-1-n1" for name in _sessions(engine))
        new = IndexWriter.claim_epoch(engine, [], T, claimer={"node": "n2", "pid": 1})
        new.audit("new", T)
        assert set(_sessions(engine)) == {"raypacs-master-2-n2"}
        assert _holds(engine) == 1
        with pytest.raises(StaleEpoch):
            old.audit("old", T)
        older.dispose()
        engine.dispose()
        assert _holds(engine) == 0

    def test_an_ended_session_costs_one_call_at_most(
        self, engine: sa.Engine, postgres_url: str
    ) -> None:
        writer = IndexWriter.claim_epoch(engine, [], T)
        writer.audit("one", T)
        shell = open_engine(postgres_url)
        with pytest.raises(IndexUnavailable):
            self._write_while_ended(writer, shell)
        writer.audit("two", T)
        assert _holds(shell) == 1
        shell.dispose()

    def _write_while_ended(self, writer: IndexWriter, shell: sa.Engine) -> None:
        ours = sa.text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name LIKE 'raypacs-master-%' AND datname = current_database()"
        )
        with writer.transaction(T) as txn:
            txn.conn.execute(sa.select(1))
            with shell.begin() as conn:
                conn.execute(ours)
            txn.conn.execute(sa.select(1))

    def test_two_migrations_at_once(self, postgres: PostgresServer) -> None:
        url = postgres.create("race")
        engines = [open_engine(url) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(migrate, engines))
        assert version(engines[0]) is not None
        for engine in engines:
            engine.dispose()
        postgres.drop("race")

    def test_limits_are_set_and_the_url_has_the_last_word(self, postgres_url: str) -> None:
        asked = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
        found = {}
        for name, url in (
            ("ours", postgres_url),
            ("theirs", f"{postgres_url}?options=-c%20lock_timeout%3D7s"),
        ):
            engine = open_engine(url, read_only=True)
            with engine.connect() as conn:
                found[name] = [conn.exec_driver_sql(f"SHOW {one}").scalar() for one in asked]
            engine.dispose()
        assert found == {"ours": ["30s", "1min", "1min"], "theirs": ["7s", "1min", "1min"]}


class TestText:
    def test_every_text_column_is_in_order_of_bytes(self, engine: sa.Engine) -> None:
        """Otherwise ORDER BY and ranges differ from SQLite's, and LIKE 'x%' uses no index."""
        query = sa.text(
            "SELECT table_name || '.' || column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = 'text' "
            "AND collation_name IS DISTINCT FROM 'C'"
        )
        with engine.connect() as conn:
            assert conn.execute(query).scalars().all() == []
        for table in metadata.sorted_tables:
            for column in table.c:
                if isinstance(column.type, sa.Text):
                    assert column.type.dialect_impl(engine.dialect).collation == "C", column


class TestUrl:
    def test_plain_postgresql_means_psycopg(self, postgres_url: str) -> None:
        plain = postgres_url.replace("postgresql+psycopg://", "postgresql://")
        engine = open_engine(plain)
        with engine.connect() as conn:
            assert conn.execute(sa.select(1)).scalar() == 1
        assert "***" in public_url(plain)
        engine.dispose()

    @pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "not a url secret", "sqlite+x:///a"])
    def test_others_are_refused_without_quoting_them(self, url: str) -> None:
        with pytest.raises(ConfigError) as refused:
            open_engine(url)
        assert "secret" not in str(refused.value)

    def test_a_schema_of_a_later_version_is_refused(self, engine: sa.Engine) -> None:
        with engine.begin() as conn:
            conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(ConfigError, match="9999"):
            migrate(engine)
