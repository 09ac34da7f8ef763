"""Questions about where studies lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from raypacs.index import evicting, restoring, sealing, settings
from raypacs.index.schema import containers, copies, series, studies
from raypacs.records import StudyPlaces


class PlacingReader:
    """The places' part of the read side."""

    _engine: sa.Engine

    def places(self, study_uid: str) -> StudyPlaces:
        """Return where the index says that the instances of a study lie."""
        with self._connected() as conn:
            refs = sealing.manifests(conn, study_uid)
            roles = {tier.name: tier.role for tier in settings.read(conn)[1].tiers}
            tiers = conn.execute(
                sa.select(copies.c.tier).where(copies.c.study_uid == study_uid)
            ).scalars()
            held = frozenset(tier for tier in tiers if roles.get(tier, "image") == "image")
            gone = evicting.gone_paths(conn, study_uid)
            gone |= {path for _, path in evicting.pending(conn, study_uid)}
            return StudyPlaces(
                tuple((ref.series_uid, ref.tier, ref.path, ref.size_bytes) for ref in refs),
                frozenset(gone),
                held,
            )

    def is_away(self, study_uid: str) -> bool:
        """Whether instances of a study left the image tiers."""
        with self._connected() as conn:
            return restoring.is_away(conn, study_uid)

    def in_library(self, study_uid: str, series_uid: str) -> bool:
        """Whether a series left the image tiers, and a library has a sound container of it.

        One of today's generation, in a copy that was proven: what is stored again is not needed.
        """
        query = (
            sa.select(containers.c.path)
            .join(studies, studies.c.study_uid == containers.c.study_uid)
            .join(
                series,
                sa.and_(
                    series.c.study_uid == containers.c.study_uid,
                    series.c.series_uid == containers.c.series_uid,
                ),
            )
            .join(
                copies,
                sa.and_(
                    copies.c.study_uid == containers.c.study_uid,
                    copies.c.tier == containers.c.tier,
                ),
            )
            .where(
                containers.c.study_uid == study_uid,
                containers.c.series_uid == series_uid,
                containers.c.damaged == "",
                containers.c.generation == studies.c.generation,
                copies.c.generation == studies.c.generation,
                copies.c.archive_proven,
                series.c.gone_path != "",
                series.c.gone_path == series.c.manifest_path,
            )
        )
        with self._connected() as conn:
            return conn.execute(query.limit(1)).first() is not None

    def grown_away(self, limit: int) -> list[str]:
        """Return studies that grew while they were away, and for which no restore was made yet."""
        with self._connected() as conn:
            return restoring.grown(conn, limit)

    def restores(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the items that bring studies back, newest first."""
        with self._connected() as conn:
            return restoring.items(conn, limit)

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as conn:
            yield conn
