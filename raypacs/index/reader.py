"""The read side of the index: every process its own, read-only, without asking the master."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.errors import NotFound
from raypacs.index import (
    audit,
    ledger,
    nodes,
    search,
    settings,
    status,
    task_list,
    why,
)
from raypacs.index.archive_reader import ArchiveReader
from raypacs.index.engine import open_engine
from raypacs.index.erase_reader import EraseReader
from raypacs.index.evict_reader import EvictReader
from raypacs.index.forecast_reader import ForecastReader
from raypacs.index.placing_reader import PlacingReader
from raypacs.index.queue_reader import QueueReader
from raypacs.index.schema import asides, copies, instances, packs, series, studies
from raypacs.index.study_reader import StudyReader
from raypacs.index.tier_reader import TierReader
from raypacs.index.tiering_reader import TieringReader
from raypacs.records import AsideRecord, InstanceRecord, Outcome, PackRef, StoredInstance

_RECORD = InstanceRecord.__slots__


class IndexReader(
    QueueReader,
    TierReader,
    TieringReader,
    EvictReader,
    ArchiveReader,
    PlacingReader,
    StudyReader,
    EraseReader,
    ForecastReader,
):
    """Answers from the index at ``url``. Thread-safe. Rows are plain, JSON-able dicts.

    Any method may raise MasterUnavailable while the index does not exist yet.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, read_only=True)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # Search (PS3.18 section 10.6)

    def search_studies(self, params: search.Params) -> list[search.Row]:
        """QIDO-RS studies: DICOM keyword to text or number. Raises InvalidQuery."""
        with self._engine.connect() as conn:
            return search.search_studies(conn, params)

    def search_series(self, params: search.Params) -> list[search.Row]:
        """QIDO-RS series, with their study's attributes. Raises InvalidQuery."""
        with self._engine.connect() as conn:
            return search.search_series(conn, params)

    def search_instances(self, params: search.Params) -> list[search.Row]:
        """QIDO-RS instances, with series' and study's attributes. Raises InvalidQuery."""
        with self._engine.connect() as conn:
            return search.search_instances(conn, params)

    # Instances and packs

    def known(self, sop_instance_uid: str) -> tuple[str, str, str] | None:
        """Return (sha256, Transfer Syntax UID, path) of the served instance, None if unknown."""
        query = sa.select(
            instances.c.sha256, instances.c.transfer_syntax_uid, instances.c.path
        ).where(instances.c.sop_instance_uid == sop_instance_uid)
        with self._engine.connect() as conn:
            row = conn.execute(query).one_or_none()
        return None if row is None else (row[0], row[1], row[2])

    def instances(self, study_uid: str, series_uid: str = "") -> list[StoredInstance]:
        """Return the instances of a study (or one of its series), by series and number."""
        where = instances.c.study_uid == study_uid
        if series_uid:
            where = sa.and_(where, instances.c.series_uid == series_uid)
        return self._stored(where)

    def unprepared(self, study_uid: str) -> list[StoredInstance]:
        """Return the instances of a study that have no prepared form yet."""
        # What lies nowhere but in libraries has to come back first.
        there = sa.and_(instances.c.form == "", instances.c.tier != "")
        return self._stored(sa.and_(instances.c.study_uid == study_uid, there))

    def locate_instance(self, sop_instance_uid: str) -> StoredInstance | None:
        """Return the served instance with this SOP Instance UID."""
        found = self._stored(instances.c.sop_instance_uid == sop_instance_uid)
        return found[0] if found else None

    def _stored(self, where: sa.ColumnElement[bool]) -> list[StoredInstance]:
        with self._engine.connect() as conn:
            return stored(conn, where)

    def locate(self, series_uid: str, study_uid: str = "") -> list[PackRef]:
        """Return the published packs of a series, oldest first."""
        where = packs.c.series_uid == series_uid
        if study_uid:
            where = sa.and_(where, packs.c.study_uid == study_uid)
        with self._engine.connect() as conn:
            return _packs(conn, where)

    def series_state(self, study_uid: str, series_uid: str) -> tuple[str, ...]:
        """Return what changes with every registration, pack, move or deletion of a series.

        One query; () for a series that is not known.
        """
        counted = sa.literal(" ") + sa.cast(series.c.instance_count, sa.Text)
        query = sa.union_all(
            sa.select((sa.cast(series.c.created_s, sa.Text) + counted).label("state")).where(
                series.c.study_uid == study_uid, series.c.series_uid == series_uid
            ),
            sa.select(packs.c.pack_path).where(
                packs.c.study_uid == study_uid, packs.c.series_uid == series_uid
            ),
        )
        with self._engine.connect() as conn:
            return tuple(sorted(conn.execute(query).scalars()))

    def packs(self, study_uid: str) -> dict[str, list[PackRef]]:
        """Return the published packs of a study by series UID, oldest first."""
        with self._engine.connect() as conn:
            uids = conn.execute(
                sa.select(packs.c.series_uid).distinct().where(packs.c.study_uid == study_uid)
            ).scalars()
            return {
                uid: _packs(
                    conn, sa.and_(packs.c.study_uid == study_uid, packs.c.series_uid == uid)
                )
                for uid in uids.all()
            }

    # Operation

    def studies(self, limit: int = 1000, offset: int = 0) -> list[dict[str, Any]]:
        """Return studies with their counts and state, the newest arrivals first."""
        query = (
            sa.select(studies)
            .order_by(studies.c.created_s.desc(), studies.c.study_uid)
            .limit(limit)
            .offset(offset)
        )
        with self._engine.connect() as conn:
            return [_study(conn, row) for row in conn.execute(query).mappings().all()]

    def study(self, study_uid: str) -> dict[str, Any]:
        """Return one study with its series, copies, objects kept aside, items and story.

        Raises:
            NotFound: no such study.
        """
        with self._engine.connect() as conn:
            row = (
                conn.execute(sa.select(studies).where(studies.c.study_uid == study_uid))
                .mappings()
                .one_or_none()
            )
            if row is None:
                raise NotFound(f"no study {study_uid}", study_uid=study_uid)
            return {
                **_study(conn, row),
                "series": [
                    {**search.series_row(one, row), "size_bytes": one["size_bytes"]}
                    for one in conn.execute(
                        sa.select(series)
                        .where(series.c.study_uid == study_uid)
                        .order_by(series.c.series_number, series.c.series_uid)
                    ).mappings()
                ],
                "copies": _rows(conn, sa.select(copies).where(copies.c.study_uid == study_uid)),
                "aside": _rows(conn, _asides(study_uid)),
                "items": task_list.page(
                    conn, {"study_uid": study_uid}, limit=1000, offset=0, before_id=0
                )["items"],
                "story": audit.story(conn, study_uid, 1000),
            }

    def why(self, study_uid: str) -> list[dict[str, Any]]:
        """Return the story of a study in order, also of a deleted one (``why.why``).

        Raises:
            NotFound: nothing is known of such a study.
        """
        with self._engine.connect() as conn:
            return why.why(conn, study_uid)

    def aside(self, study_uid: str = "", limit: int = 1000, offset: int = 0) -> list[AsideRecord]:
        """Return conflicts and quarantined objects, newest first."""
        query = _asides(study_uid).limit(limit).offset(offset)
        with self._engine.connect() as conn:
            return [
                AsideRecord(
                    **{
                        **{name: row[name] for name in AsideRecord.__slots__},
                        "outcome": Outcome(row["outcome"]),
                    }
                )
                for row in conn.execute(query).mappings()
            ]

    def aside_known(self, sop_instance_uid: str, sha256: str) -> bool:
        """Whether an object with this UID ('' where it has none) and hash is kept aside."""
        query = sa.select(asides.c.aside_id).where(
            asides.c.sop_instance_uid == sop_instance_uid, asides.c.sha256 == sha256
        )
        with self._engine.connect() as conn:
            return conn.execute(query.limit(1)).first() is not None

    def settings(self) -> tuple[int, Settings]:
        """Return (version, settings)."""
        with self._engine.connect() as conn:
            return settings.read(conn)

    def tiers(self, now: float) -> list[dict[str, Any]]:
        """Return the tiers with their account, fill rate and hours left."""
        with self._engine.connect() as conn:
            return status.tiers(conn, now)

    def ledger(self) -> dict[str, ledger.LedgerRow]:
        """Return every tier's account."""
        with self._engine.connect() as conn:
            return ledger.read(conn)

    def nodes(self, now: float) -> list[dict[str, Any]]:
        """Return the nodes, each with its state and problems (``nodes.read``)."""
        with self._engine.connect() as conn:
            return nodes.read(conn, now, settings.read(conn)[1].node_lost_s)

    def status(self, now: float) -> dict[str, Any]:
        """Return the state of the cluster (``status.status``)."""
        with self._engine.connect() as conn:
            return status.status(conn, now)


def stored(conn: sa.Connection, where: sa.ColumnElement[bool]) -> list[StoredInstance]:
    """Return the instances that have a row, by series and number."""
    query = (
        sa.select(*(instances.c[name] for name in (*_RECORD, "form", "reason")))
        .where(where)
        .order_by(instances.c.series_uid, instances.c.instance_number, instances.c.sop_instance_uid)
    )
    width = len(_RECORD)
    return [
        StoredInstance(
            InstanceRecord(**dict(zip(_RECORD, row[:width], strict=True))),
            form=row[width],
            reason=row[width + 1],
        )
        for row in conn.execute(query).all()
    ]


def _packs(conn: sa.Connection, where: sa.ColumnElement[bool]) -> list[PackRef]:
    rows = conn.execute(
        sa.select(packs.c.tier, packs.c.pack_path, packs.c.header_path, packs.c.token)
        .where(where)
        .order_by(packs.c.created_s, packs.c.pack_path)
    )
    return [PackRef(*row) for row in rows]


def _study(conn: sa.Connection, row: sa.RowMapping) -> dict[str, Any]:
    """Return the operational view of a study; DICOM attributes by keyword under ``attributes``."""
    found = {
        str(name): value
        for name, value in row.items()
        if name
        not in ("attributes", "patient_id", "patient_name_folded", "study_date", "accession_number")
    }
    modalities = conn.execute(
        sa.select(series.c.modality)
        .distinct()
        .where(series.c.study_uid == row["study_uid"])
        .order_by(series.c.modality)
    ).scalars()
    conflicts = conn.execute(
        sa.select(sa.func.count()).select_from(asides).where(asides.c.study_uid == row["study_uid"])
    ).scalar_one()
    return found | {
        "attributes": search.study_row(row),
        "modalities": [modality for modality in modalities if modality],
        "aside_count": conflicts,
        # None while nothing was transcoded: there is nothing to prove about copies.
        "lossless_proven": (
            row["proven_count"] == row["transcoded_count"] if row["transcoded_count"] else None
        ),
    }


def _asides(study_uid: str) -> sa.Select[Any]:
    query = sa.select(asides).order_by(asides.c.aside_id.desc())
    return query.where(asides.c.study_uid == study_uid) if study_uid else query


def _rows(conn: sa.Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in conn.execute(query).mappings()]
