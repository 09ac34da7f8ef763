"""Indexes of whole sites, made at once: so many studies of 20 series and 1,000 instances.

They lie in the folder ``RAYPACS_BENCH_DIR`` (else below the temporary folder) and are found again
by the next benchmark. Instances are sealed: in manifests, not rows. What a search or the master
looks at is all there: studies, their terms, series, copies, finished work items, the story.
"""

from __future__ import annotations

import datetime
import json
import os
import random
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

from raypacs.index import facets, listing
from raypacs.index.attributes import fold_name, joined
from raypacs.index.engine import migrate, open_engine
from raypacs.index.schema import ledger, meta, studies

SERIES = 20
INSTANCES = 1000
NOW = 1_767_225_600.0  # 2026-01-01
DAYS = 3650
_ROOT = "1.2.826.0.1.3680043.9.7433.2"
_LAST_DAY = datetime.date(2025, 12, 31)
_MODALITIES = ("CT", "MR", "CR", "US", "DX", "MG", "XA", "NM", "PT", "RF")
_SHARES = (30, 22, 15, 12, 10, 4, 3, 2, 1, 1)
_SYLLABLES = tuple(
    re.findall(
        "[a-z]+",
        "ba be bi bo bra dal den dor ec el fel gar ger hal har hen hol ka kel kir kra lan leh lin "
        "ma mer mil mo nau neu nor ost pa pet ra rei ro sal sche schmi ste stra tal tho ul vo wal",
    )
)

STUDY_COLUMNS = (
    "study_uid",
    "patient_id",
    "patient_name_folded",
    "study_date",
    "accession_number",
    "attributes",
    "state",
    "generation",
    "series_count",
    "instance_count",
    "size_bytes",
    "prepared_count",
    "transcoded_count",
    "proven_count",
    "raw_bytes",
    "prepared_bytes",
    "created_s",
    "last_received_s",
    "prepared_s",
    "accessed_s",
    "modalities",
    "source",
    "sealed_s",
    "list_no",
)


def folder() -> Path:
    """Return where sites are kept."""
    found = os.environ.get("RAYPACS_BENCH_DIR")
    path = Path(found) if found else Path(tempfile.gettempdir()) / "raypacs-bench"
    path.mkdir(parents=True, exist_ok=True)
    return path


def sqlite_site(count: int) -> str:
    """Return the URL of a site of ``count`` studies on SQLite; made if it is not there."""
    path = folder() / f"site-{count}.sqlite"
    if not path.exists():
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        engine = open_engine(f"sqlite:///{new}")
        migrate(engine)
        engine.dispose()
        _fill_sqlite(new, count)
        new.rename(path)
    return _current(f"sqlite:///{path}")


def postgresql_site(server: Any, count: int) -> str:
    """Return the URL of the same site on a server of ``tests.postgres``."""
    name, new = f"site_{count}", f"site_{count}_new"
    if not server.has(name):
        server.drop(new)
        engine = open_engine(server.create(new))
        migrate(engine)
        engine.dispose()
        with _psycopg(server.url(new)) as connection:
            _fill_postgresql(connection, count)
        with _psycopg(server.url("postgres")) as connection:
            connection.execute(f"ALTER DATABASE {new} RENAME TO {name}")
    return _current(server.url(name))


def _current(url: str) -> str:
    """Return ``url``, brought to this version's schema: a kept site may be older."""
    engine = open_engine(url)
    migrate(engine)
    engine.dispose()
    return url


@contextmanager
def _psycopg(url: str) -> Iterator[psycopg.Connection[Any]]:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        yield connection


def study_uid(number: int) -> str:
    """Return the UID of a site's study, counted from 0."""
    return f"{_ROOT}.{number}"


def study_rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Yield ``count`` studies, the same every time, as STUDY_COLUMNS."""
    chance = random.Random(count)
    surnames = sorted({_name(chance, 2, 4) for _ in range(20_000)})
    given = sorted({_name(chance, 1, 2) for _ in range(1000)})
    used: dict[str, int] = {}
    for number in range(count):
        # Two and a half studies a patient, and a patient's name is always the same.
        patient = random.Random(chance.randrange(max(1, count * 2 // 5)))
        patient_id = f"P{patient.getrandbits(40):012d}"
        name = f"{patient.choice(surnames)}^{patient.choice(given)}"
        day = _LAST_DAY - datetime.timedelta(days=chance.randrange(DAYS))
        date = f"{day:%Y%m%d}"
        used[date] = used.get(date, 0) + 1
        main = chance.choices(_MODALITIES, _SHARES)[0]
        modalities = joined({main, "SR"} if number % 3 == 0 else {main})
        uid = study_uid(number)
        received_s = NOW - (_LAST_DAY - day).days * 86_400.0
        size = INSTANCES * 526_000
        attributes = {
            "PatientName": name,
            "PatientID": patient_id,
            "PatientBirthDate": f"19{patient.randrange(20, 99)}0615",
            "PatientSex": patient.choice("FM"),
            "StudyDate": date,
            "StudyTime": f"{number % 24:02d}1500",
            "AccessionNumber": f"A{number:09d}",
            "StudyID": str(number % 10_000),
            "StudyDescription": f"{main} examination {number % 40}",
            "ReferringPhysicianName": f"Referrer^{number % 300}",
            "ReferringPhysicianNameFolded": f"referrer^{number % 300}",
            "InstitutionName": "Generated Hospital",
        }
        yield (
            *(uid, patient_id, fold_name(name), date, f"A{number:09d}"),
            *(json.dumps(attributes, separators=(",", ":")), "prepared", 1, SERIES, INSTANCES),
            *(size, INSTANCES, INSTANCES, INSTANCES, size, size // 4),
            *(received_s, received_s, received_s + 60, received_s),
            *(modalities, f"MODALITY{number % 25}", received_s + 3600),
            listing.bounds(date, date)[0] + used[date],
        )


def _name(chance: random.Random, fewest: int, most: int) -> str:
    return "".join(chance.choices(_SYLLABLES, k=chance.randint(fewest, most))).capitalize()


def _term_rows(count: int) -> Iterator[tuple[str, int]]:
    name, modalities, place = (
        STUDY_COLUMNS.index(column) for column in ("patient_name_folded", "modalities", "list_no")
    )
    for row in study_rows(count):
        for term in listing.terms_of(row[name], row[modalities]):
            yield term, row[place]


# One statement each, of what both databases understand; ``seq`` holds 1..SERIES.
_SERIES_SQL = f"""
INSERT INTO series (study_uid, series_uid, modality, series_number, attributes, instance_count,
  size_bytes, manifest_tier, manifest_path, created_s)
SELECT study_uid, study_uid || '.' || n,
  CASE WHEN n = {SERIES} AND modalities LIKE '%\\SR\\%' {{escape}} THEN 'SR' ELSE {{main}} END,
  n, {{attributes}}, {INSTANCES // SERIES}, size_bytes / {SERIES}, 'image1',
  'studies/' || study_uid || '/' || n || '.manifest', created_s
FROM studies, seq ORDER BY study_uid, n
"""
_COPIES_SQL = f"""
INSERT INTO copies (study_uid, tier, objects, size_bytes, generation, archive_proven, created_s)
SELECT study_uid, tier, {INSTANCES}, {{size}}, 1, FALSE, created_s FROM studies,
  (SELECT 'image1' AS tier UNION ALL SELECT 'web1') AS tiers ORDER BY study_uid, tier
"""
_ITEMS_SQL = """
INSERT INTO work_items (kind, study_uid, generation, state, priority, due_s, attempt, token, epoch,
  node, created_s, updated_s, started_s, finished_s, error, patient_id, ae_title)
SELECT 'PREPARE', study_uid, 1, 'COMPLETED',
  CASE WHEN list_no % 50 = 0 THEN 30 WHEN list_no % 10 = 0 THEN 20 ELSE 10 END,
  created_s, 1, study_uid, 1,
  'node-' || (list_no % 8), created_s, created_s + 60, created_s, created_s + 60, '',
  patient_id, source
FROM studies ORDER BY list_no
"""
_FAILED_SQL = """
UPDATE work_items SET state = 'FAILED', error = 'TierFull: web1 has no room for ' || study_uid
WHERE item_id % 500 = 0
"""
_BOUND_SQL = "UPDATE work_items SET wanted_node = node WHERE item_id % 20 = 0"
_COUNTS_SQL = """
INSERT INTO item_counts (kind, state, items, last_s)
SELECT kind, state, COUNT(*), MAX(updated_s) FROM work_items GROUP BY kind, state
"""
_AUDIT_SQL = """
INSERT INTO audit (at_s, epoch, event, study_uid, item_id, node, who, detail)
SELECT created_s, 1, event, study_uid, 0, '', '', '{{"generation":1}}' FROM studies,
  (SELECT 'received' AS event UNION ALL SELECT 'prepared') AS events
"""


def _fill_sqlite(path: Path, count: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-1500000", "temp_store=FILE"):
        connection.execute(f"PRAGMA {pragma}")
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL "
        "AND tbl_name IN ('series', 'studies', 'work_items')"
    ).fetchall()
    connection.execute("BEGIN")
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    marks = ", ".join("?" * len(STUDY_COLUMNS))
    connection.executemany(
        f"INSERT INTO studies ({', '.join(STUDY_COLUMNS)}) VALUES ({marks})", study_rows(count)
    )
    connection.execute("CREATE TEMP TABLE terms (term, list_no)")
    connection.executemany("INSERT INTO terms VALUES (?, ?)", _term_rows(count))
    connection.execute("INSERT INTO study_terms SELECT * FROM terms ORDER BY term, list_no")
    connection.execute("DROP TABLE terms")
    connection.execute("CREATE TEMP TABLE seq (n)")
    connection.executemany("INSERT INTO seq VALUES (?)", [(n + 1,) for n in range(SERIES)])
    connection.execute(
        _SERIES_SQL.format(
            escape="",
            main="substr(replace(modalities, '\\SR\\', '\\'), 2, 2)",
            attributes='\'{"SeriesNumber":"\' || n || \'","SeriesDescription":"series"}\'',
        )
    )
    for statement in _statements("size_bytes"):
        connection.execute(statement)
    for _, statement in indexes:
        connection.execute(statement)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    _account(f"sqlite:///{path}", count)


def _fill_postgresql(connection: psycopg.Connection[Any], count: int) -> None:
    connection.execute("SET maintenance_work_mem = '1GB'")
    connection.execute("SET work_mem = '512MB'")
    indexes = connection.execute(
        "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' "
        "AND tablename IN ('series', 'studies', 'work_items') AND indexname !~ '_pkey$'"
    ).fetchall()
    with connection.transaction():
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        _copy(connection, f"studies ({', '.join(STUDY_COLUMNS)})", study_rows(count))
        connection.execute('CREATE TEMP TABLE terms (term TEXT COLLATE "C", list_no BIGINT)')
        _copy(connection, "terms", _term_rows(count))
        connection.execute("INSERT INTO study_terms SELECT * FROM terms ORDER BY term, list_no")
        connection.execute("DROP TABLE terms")
        connection.execute(f"CREATE TEMP TABLE seq AS SELECT generate_series(1, {SERIES}) AS n")
        connection.execute(
            _SERIES_SQL.format(
                escape="ESCAPE '!'",
                main="substr(replace(modalities, '\\SR\\', '\\'), 2, 2)",
                attributes="json_build_object('SeriesNumber', n::text, 'SeriesDescription', "
                "'series')",
            )
        )
        for statement in _statements("size_bytes"):
            connection.execute(statement)
        for _, statement in indexes:
            connection.execute(statement)
    connection.execute("VACUUM ANALYZE")  # as autovacuum does
    url = sa.URL.create(
        "postgresql+psycopg",
        connection.info.user,
        connection.info.password,
        connection.info.host,
        connection.info.port,
        connection.info.dbname,
    )
    _account(url.render_as_string(hide_password=False), count)


def _copy(connection: psycopg.Connection[Any], table: str, rows: Iterator[tuple[Any, ...]]) -> None:
    with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _statements(size: str) -> list[str]:
    found = [_COPIES_SQL.format(size=size), _ITEMS_SQL, _FAILED_SQL, _BOUND_SQL, _COUNTS_SQL]
    return [*found, *facets.FILL, _AUDIT_SQL.format()]


def _account(url: str, count: int) -> None:
    """Say what the tiers hold."""
    engine = open_engine(url)
    with engine.begin() as conn:
        size = int(conn.execute(sa.select(sa.func.sum(studies.c.size_bytes))).scalar() or 0)
        conn.execute(
            sa.insert(ledger),
            [
                {"tier": tier, "used_bytes": size, "capacity_bytes": 2 * size, "seen_s": NOW}
                for tier in ("image1", "web1")
            ],
        )
        conn.execute(sa.insert(meta).values(name="bench_studies", number=count, at_s=NOW))
    engine.dispose()
