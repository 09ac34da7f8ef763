"""The read side of what lies on tiers: the site, what is sealed, which objects are known."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from raypacs.index import attempts, deletion, reinventory, sealing, site


class TierReader:
    """The tiers' part of the reader."""

    _engine: sa.Engine

    def site(self) -> site.Site:
        """Return the site's identity, epoch, adopted tiers, and why it must be reconciled."""
        with self._engine.connect() as conn:
            return site.read(conn)

    def epoch(self) -> int:
        """Return the newest epoch that was claimed, 0 without any."""
        with self._engine.connect() as conn:
            return site.epoch(conn)

    def sequence(self) -> int:
        """Return the number of the newest change."""
        with self._engine.connect() as conn:
            return site.sequence(conn)

    def deleted_since(self, study_uid: str, since_s: float) -> int | None:
        """Return how many objects a study had that was deleted since then; None: it was not."""
        with self._engine.connect() as conn:
            return deletion.deleted_since(conn, study_uid, since_s)

    def reconcile(self) -> str:
        """Return why index and tiers must be compared before anything is deleted, or ''."""
        return self.site().reconcile

    def seals_due(
        self, now: float, after_s: float, *, limit: int, without: Collection[str] = ()
    ) -> list[str]:
        """Return prepared studies that have stayed as they are for ``after_s`` seconds."""
        with self._engine.connect() as conn:
            return sealing.due(conn, now, after_s, limit=limit, without=without)

    def instance_rows(self, study_uid: str) -> dict[str, list[sealing.Row]]:
        """Return all columns of a study's instances by series UID; {} for a sealed one."""
        with self._engine.connect() as conn:
            return sealing.rows(conn, study_uid)

    def series_attributes(self, study_uid: str) -> dict[str, dict[str, str]]:
        """Return the attributes of each series, by keyword, with those of its study."""
        with self._engine.connect() as conn:
            return sealing.described(conn, study_uid)

    def manifests(self, study_uid: str, series_uid: str = "") -> list[sealing.ManifestRef]:
        """Return where the manifests of a study (or series) lie; [] while it is open."""
        with self._engine.connect() as conn:
            return sealing.manifests(conn, study_uid, series_uid)

    def known_objects(self, study_uid: str) -> reinventory.Known:
        """Return what the index knows of a study's objects (``reinventory.known``)."""
        with self._engine.connect() as conn:
            return reinventory.known(conn, study_uid)

    def aside_places(self) -> set[reinventory.Place]:
        """Return (tier, path) of everything kept aside."""
        with self._engine.connect() as conn:
            return reinventory.all_asides(conn)

    def study_uids(self) -> set[str]:
        """Return every study that the index knows."""
        with self._engine.connect() as conn:
            return reinventory.study_uids(conn)

    def knows_study(self, study_uid: str) -> bool:
        """Whether the index knows the study."""
        with self._engine.connect() as conn:
            return reinventory.knows(conn, study_uid)

    def live_tokens(self) -> set[str]:
        """Return the tokens of the attempts that run."""
        with self._engine.connect() as conn:
            return attempts.live_tokens(conn)
