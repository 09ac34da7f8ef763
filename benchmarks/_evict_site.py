"""An index of archived studies for the benchmark of eviction, made at once, on both databases.

Every second study lies on ``image1``, where nothing is held; the others on ``image2``, where of the
least recently used half one part is unarchived and the other pinned. Kept like ``sites``.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import sites
from raypacs.config import Settings, TierSettings
from raypacs.index.engine import migrate, open_engine
from raypacs.index.schema import copy_totals, ledger, levels
from raypacs.index.schema import settings as settings_rows
from raypacs.records import InstanceRecord
from raypacs.storage import manifest
from raypacs.storage.local import LocalTier

SERIES = 4
INSTANCES = 40
STUDY_BYTES = 250_000_000
NOW = sites.NOW
_ROOT = "1.2.826.0.1.3680043.9.7433.5"
_TOKEN = "0123456789abcdef"
# The order of access is another one than that of arrival: ``r`` is a study's place in it.
_STRIDE = 7919

_STUDIES = f"""
INSERT INTO studies (study_uid, patient_id, patient_name_folded, study_date, accession_number,
  attributes, state, generation, series_count, instance_count, size_bytes, prepared_count,
  created_s, last_received_s, prepared_s, accessed_s, modalities, source, sealed_s, list_no,
  pinned_until_s)
SELECT '{_ROOT}.' || n, 'P' || n, 'generated', '20240101', 'A' || n, '{{{{}}}}', 'prepared', 1,
  {SERIES}, {INSTANCES}, {STUDY_BYTES}, {INSTANCES}, {NOW} - ({{count}} - r) * 60.0,
  {NOW} - ({{count}} - r) * 60.0, {NOW} - ({{count}} - r) * 60.0, {NOW} - ({{count}} - r) * 60.0,
  '\\CT\\', 'CT1', {NOW} - ({{count}} - r) * 60.0, n + 1,
  CASE WHEN r < {{half}} AND n % 4 = 3 THEN {NOW} + 1e9 ELSE 0 END
FROM seq
"""
_SERIES = f"""
INSERT INTO series (study_uid, series_uid, modality, series_number, attributes, instance_count,
  size_bytes, manifest_tier, manifest_path, manifest_bytes, created_s)
SELECT '{_ROOT}.' || n, '{_ROOT}.' || n || '.' || k, 'CT', k, '{{{{}}}}', {INSTANCES // SERIES},
  {STUDY_BYTES // SERIES}, 'image' || (1 + n % 2),
  'studies/{_ROOT}.' || n || '/{_ROOT}.' || n || '.' || k || '/{_TOKEN}.manifest', 1000, 1.0
FROM seq, parts
"""
_COPIES = f"""
INSERT INTO copies (study_uid, tier, objects, size_bytes, generation, archive_proven, created_s,
  accessed_s, hold)
SELECT '{_ROOT}.' || n, 'image' || (1 + n % 2), {INSTANCES}, {STUDY_BYTES}, 1, FALSE, 1.0,
  {NOW} - ({{count}} - r) * 60.0,
  CASE WHEN r >= {{half}} OR n % 2 = 0 THEN '' WHEN n % 4 = 3 THEN 'pinned' ELSE 'unarchived' END
FROM seq
"""
_PROVEN = "NOT (r < {half} AND n % 4 = 1)"
_LIBRARY = f"""
INSERT INTO copies (study_uid, tier, objects, size_bytes, generation, archive_proven, created_s,
  accessed_s, hold)
SELECT '{_ROOT}.' || n, 'lib1', {SERIES}, {STUDY_BYTES}, 1, TRUE, 1.0,
  {NOW} - ({{count}} - r) * 60.0, 'library' FROM seq WHERE {_PROVEN}
"""
_CONTAINERS = f"""
INSERT INTO containers (tier, path, study_uid, series_uid, token, form, sha256, size_bytes,
  instance_count, generation, created_s, verified_s)
SELECT 'lib1', 'studies/{_ROOT}.' || n || '/{_ROOT}.' || n || '.' || k || '/{_TOKEN}.zip',
  '{_ROOT}.' || n, '{_ROOT}.' || n || '.' || k, '{_TOKEN}', 'as received', '',
  {STUDY_BYTES // SERIES}, {INSTANCES // SERIES}, 1, 1.0, 1.0
FROM seq, parts WHERE {_PROVEN}
"""


def sqlite_site(count: int) -> str:
    """Return the URL of the index on SQLite."""
    path = sites.folder() / f"evict-{count}.sqlite"
    url = f"sqlite:///{path}"
    if path.exists() and _is_worn(url, count):
        path.unlink()
    if not path.exists():
        shutil.rmtree(tiers_folder(url, count))  # markers of an index that is gone
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        _fill(f"sqlite:///{new}", count)
        new.rename(path)
    return url


def postgresql_site(server: Any, count: int) -> str:
    """Return the URL of the same index on a server of ``tests.postgres``."""
    name, new = f"evict_{count}", f"evict_{count}_new"
    if server.has(name) and _is_worn(server.url(name), count):
        server.drop(name)
    if not server.has(name):
        shutil.rmtree(tiers_folder(server.url(name), count))
        server.drop(new)
        _fill(server.create(new), count)
        engine = open_engine(server.url("postgres"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.execute(sa.text(f"ALTER DATABASE {new} RENAME TO {name}"))
        engine.dispose()
    return str(server.url(name))


def tiers_folder(url: str, count: int) -> Path:
    """Return where the tiers of a site lie."""
    folder = sites.folder() / f"evict-tiers-{url.partition(':')[0].partition('+')[0]}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def settings(folder: Path, **more: Any) -> Settings:
    """Return the settings of the site; its tiers lie below ``folder``."""
    tiers = [
        TierSettings.model_validate(
            {
                "name": name,
                "role": role,
                "url": (folder / name).as_uri(),
                "capacity_bytes": 10**15,
            }
        )
        for name, role in (
            ("image1", "image"),
            ("image2", "image"),
            ("web1", "web"),
            ("lib1", "library"),
        )
    ]
    return Settings(tiers=tuple(tiers), **more)


def _is_worn(url: str, count: int) -> bool:
    """Whether earlier runs evicted so much that it is another site by now, or another schema."""
    engine = open_engine(url)
    try:
        with engine.connect() as conn:
            rows = conn.execute(
                sa.select(sa.func.sum(copy_totals.c.copies)).where(
                    copy_totals.c.tier.in_(["image1", "image2"])
                )
            )
            left = int(rows.scalar() or 0)
            conn.execute(sa.text("SELECT gone_path FROM series LIMIT 1"))
            return left < (0.8 * count if count > 100_000 else count)
    except sa.exc.SQLAlchemyError:
        return True
    finally:
        engine.dispose()


def _fill(url: str, count: int) -> None:
    engine = open_engine(url)
    migrate(engine)
    values = {"count": count, "half": count // 2}
    statements = [one.format(**values) for one in (_STUDIES, _SERIES, _COPIES, _LIBRARY)]
    statements.append(_CONTAINERS.format(**values))
    if engine.dialect.name == "sqlite":
        path = str(engine.url.database)
        engine.dispose()
        _fill_sqlite(path, count, statements)
    else:
        with engine.begin() as conn:
            for statement in (
                "SET LOCAL synchronous_commit = off",
                f"CREATE TEMP TABLE seq AS SELECT n, n * {_STRIDE} % {count} AS r "
                f"FROM generate_series(0::bigint, {count - 1}) AS n",
                "CREATE TEMP TABLE parts AS SELECT generate_series(1, 4) AS k",
                *statements,
                "DROP TABLE seq, parts",
            ):
                conn.exec_driver_sql(statement.replace("%", "%%"))
    with engine.begin() as conn:
        conn.execute(sa.insert(ledger), list(_accounts(count)))
        body = settings(tiers_folder(url, count)).model_dump(mode="json")
        conn.execute(sa.insert(settings_rows).values(body=body, who="bench", at_s=NOW, epoch=0))
    if engine.dialect.name != "sqlite":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
            conn.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _fill_sqlite(path: str, count: int, statements: list[str]) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-1000000"):
        connection.execute(f"PRAGMA {pragma}")
    for statement in (
        "BEGIN",
        "CREATE TEMP TABLE seq (n INTEGER PRIMARY KEY, r INTEGER)",
        "CREATE TEMP TABLE parts (k INTEGER)",
        f"WITH RECURSIVE r(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < {count - 1}) "
        f"INSERT INTO seq SELECT n, n * {_STRIDE} % {count} FROM r",
        "INSERT INTO parts VALUES (1), (2), (3), (4)",
        *statements,
        "COMMIT",
        "PRAGMA journal_mode=WAL",
    ):
        connection.execute(statement)
    connection.close()


def _accounts(count: int) -> Iterable[dict[str, Any]]:
    proven = count - count // 2 // 4
    for tier, used in (
        ("image1", count // 2 * STUDY_BYTES),
        ("image2", count // 2 * STUDY_BYTES),
        ("lib1", proven * STUDY_BYTES),
    ):
        yield {"tier": tier, "used_bytes": used, "capacity_bytes": 10**15, "seen_s": NOW}


def set_level(engine: sa.Engine, tier: str, need_bytes: int, now: float) -> None:
    """Make a cache red, in need of so many bytes."""
    with engine.begin() as conn:
        account = conn.execute(sa.select(ledger).where(ledger.c.tier == tier)).one()
        detail = {
            "hours_p50": 10.0,
            "need_bytes": need_bytes,
            "need_bytes_amber": need_bytes,
            "need_bytes_red": need_bytes,
            "available_bytes": account.capacity_bytes - account.used_bytes,
        }
        conn.execute(sa.delete(levels))
        row = {"tier": tier, "level": "red", "since_s": now, "at_s": now, "detail": detail}
        conn.execute(sa.insert(levels).values(row))


class QuickTier(LocalTier):
    """A folder for markers; instances and manifests are made up, deleting them costs nothing."""

    deleted = 0

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return a manifest of what a study of the site has; anything else from the folder."""
        if not path.endswith(f"{_TOKEN}.manifest"):
            return super().read(path, start, length)
        _, study_uid, series_uid, _ = path.split("/")
        rows = [
            {"sop_instance_uid": f"{series_uid}.{n}", "tier": self.name, "path": f"{path}.{n}.dcm"}
            for n in range(INSTANCES // SERIES)
        ]
        return manifest.encode(study_uid, series_uid, rows, {})

    def delete(self, path: str) -> None:
        """Count an instance; delete anything else from the folder."""
        if path.endswith(".dcm"):
            type(self).deleted += 1
        else:
            super().delete(path)


def arriving(number: int, now: float) -> list[InstanceRecord]:
    """Return a batch of a study that arrives meanwhile."""
    uid = f"{_ROOT}.9{int(now * 1000)}.{number}"
    return [
        InstanceRecord(
            study_uid=uid,
            series_uid=f"{uid}.1",
            sop_instance_uid=f"{uid}.1.{index}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            tier="image1",
            path=f"studies/{uid}/{uid}.1/{uid}.1.{index}.{_TOKEN}.dcm",
            size_bytes=526_000,
            sha256=f"{number:032x}{index:032x}",
            dataset_offset_bytes=334,
            source="CT1",
            received_at_s=now,
            modality="CT",
            instance_number=index,
        )
        for index in range(10)
    ]
