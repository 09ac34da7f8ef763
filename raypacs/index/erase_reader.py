"""Questions about erasures."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index import erasing, site, tombstones
from raypacs.index.schema import copies, erased, erasure_places, erasures, studies


class EraseReader:
    """The erasures' part of the read side."""

    _engine: sa.Engine

    def erasures(self, limit: int = 100, before_id: int = 0) -> list[dict[str, Any]]:
        """Return erasures, the newest first; without their reports."""
        query = sa.select(erasures).order_by(erasures.c.erasure_id.desc()).limit(limit)
        if before_id:
            query = query.where(erasures.c.erasure_id < before_id)
        with self._engine.connect() as conn:
            rows = conn.execute(query).mappings().all()
        return [{name: value for name, value in row.items() if name != "report"} for row in rows]

    def erasure(self, number: int) -> dict[str, Any]:
        """Return an erasure with how far it is, and its report once it is done. Raises NotFound."""
        with self._engine.connect() as conn:
            query = sa.select(erasures).where(erasures.c.erasure_id == number)
            row = conn.execute(query).mappings().one_or_none()
            if row is None:
                raise NotFound(f"no erasure {number}", erasure_id=number)
            ours = sa.and_(erasure_places.c.erasure_id == number, erasure_places.c.tier != "")
            counted = conn.execute(
                sa.select(erasure_places.c.state, sa.func.count())
                .where(ours)
                .group_by(erasure_places.c.state)
            )
            counts = {state or "deleting": count for state, count in counted}
            return {**row, "places": counts}

    def erasure_preview(self, what: str, subject: str) -> dict[str, Any]:
        """Return what an erasure would be about. Raises InvalidQuery, NotFound."""
        with self._engine.connect() as conn:
            uids = erasing.subjects(conn, what, subject)
            told = []
            for uid in uids:
                ours = copies.c.study_uid == uid
                row = conn.execute(
                    sa.select(studies.c.instance_count, studies.c.study_date).where(
                        studies.c.study_uid == uid
                    )
                ).one_or_none()
                rows = conn.execute(
                    sa.select(copies.c.tier, copies.c.objects, copies.c.size_bytes).where(ours)
                )
                told.append(
                    {
                        "study_uid": uid,
                        "instances": row.instance_count if row else 0,
                        "study_date": row.study_date if row else "",
                        "copies": [dict(one) for one in rows.mappings()],
                    }
                )
            return {"what": what, "studies": told}

    def erasure_open(self) -> dict[str, Any] | None:
        """Return the oldest erasure that is not done."""
        query = (
            sa.select(erasures)
            .where(erasures.c.state != erasing.DONE)
            .order_by(erasures.c.erasure_id)
            .limit(1)
        )
        with self._engine.connect() as conn:
            row = conn.execute(query).mappings().one_or_none()
        return None if row is None else dict(row)

    def erasure_busy(self, number: int) -> str:
        """Say what of an erasure is still on its way out; '' nothing is."""
        with self._engine.connect() as conn:
            return erasing.busy(conn, number)

    def erasure_studies(self, number: int, state: str, limit: int) -> list[str]:
        """Return studies of an erasure in a state."""
        with self._engine.connect() as conn:
            return [row[0] for row in conn.execute(_places(number, state, limit, studies=True))]

    def erasure_places(self, number: int, limit: int) -> list[tuple[str, str, str]]:
        """Return (study UID, tier, path) of an erasure that nobody looked at yet."""
        with self._engine.connect() as conn:
            return [tuple(row) for row in conn.execute(_places(number, "", limit, studies=False))]

    def erasure_uids(self, number: int) -> list[str]:
        """Return all studies of an erasure that is not done."""
        with self._engine.connect() as conn:
            return erasing.study_uids(conn, number)

    def erased_keys(self) -> dict[str, float]:
        """Return hashes of erased studies, and when they were erased."""
        with self._engine.connect() as conn:
            rows = conn.execute(sa.select(erased.c.study_key, erased.c.at_s))
            return {row[0]: float(row[1]) for row in rows}

    def erased_among(self, after: str, limit: int) -> tuple[dict[str, float], str]:
        """Return erased studies of the next page of all studies, and its last UID ('': the end)."""
        query = sa.select(studies.c.study_uid).where(studies.c.study_uid > after)
        with self._engine.connect() as conn:
            found = conn.execute(query.order_by(studies.c.study_uid).limit(limit)).scalars().all()
            last = found[-1] if len(found) == limit else ""
            return tombstones.came_back(conn, found), last

    def erased_key(self, text: str) -> str:
        """Return the hash that stands for a UID or Patient ID after it was erased."""
        with self._engine.connect() as conn:
            return tombstones.key_of(site.read(conn).site_id, text)


def _places(number: int, state: str, limit: int, *, studies: bool) -> sa.Select[Any]:
    at = erasure_places.c
    return (
        sa.select(at.study_uid, at.tier, at.path)
        .where(
            at.erasure_id == number, at.state == state, at.tier == "" if studies else at.tier != ""
        )
        .order_by(at.study_uid, at.tier, at.path)
        .limit(limit)
    )
