"""Questions about the status of studies, sources and rules."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from raypacs.compression import matches
from raypacs.errors import NotFound
from raypacs.index import judging, settings
from raypacs.index.rows import study_row
from raypacs.index.schema import sources, studies
from raypacs.policy import arrival

_OPERATIONAL = ("status", "status_s", "exported", "his_verified", "committed", "archiving", "state")
_TIMES = ("created_s", "last_received_s", "pinned_until_s", "offline_s", "delete_after_s")


class StudyReader:
    """The studies' part of the read side."""

    _engine: sa.Engine

    def study_status(self, study_uid: str) -> dict[str, Any]:
        """Return status, flags, senders and what rules decided of a study. Raises NotFound."""
        with self._engine.connect() as conn:
            return judging.status_of(conn, study_uid)

    def study_statuses(
        self, wanted: dict[str, Any], *, limit: int, before: int = 0
    ) -> list[dict[str, Any]]:
        """Return studies in the order of the list with their status and flags.

        ``wanted``: status and flags that they are to have; ``before``: ``list_no`` of the last one
        of the page before, 0 for the first.
        """
        query = sa.select(studies).order_by(studies.c.list_no.desc()).limit(limit)
        for name, value in wanted.items():
            query = query.where(studies.c[name] == value)
        if before:
            query = query.where(studies.c.list_no < before)
        with self._engine.connect() as conn:
            return [
                {
                    "study_uid": row["study_uid"],
                    "list_no": row["list_no"],
                    **{name: row[name] for name in (*_OPERATIONAL, *_TIMES)},
                    "attributes": study_row(row),
                }
                for row in conn.execute(query).mappings()
            ]

    def sources_seen(self) -> list[dict[str, Any]]:
        """Return every sender by name, with what it sent and the settings that may be its own.

        Which of them holds for an object depends on the address it came from as well.
        """
        with self._engine.connect() as conn:
            told = settings.read(conn)[1].sources
            rows = conn.execute(sa.select(sources).order_by(sources.c.source)).mappings().all()
        found = []
        for row in rows:
            named = [
                one.name
                for one in told
                if not one.ae_titles
                or any(matches(title, row["source"]) for title in one.ae_titles)
            ]
            found.append({**row, "settings": named})
        return found

    def explain_study(self, study_uid: str, now: float) -> dict[str, Any]:
        """Return what becomes of every rule for a stored study, and why. Raises NotFound."""
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
            known = next((one for _, one in judging.facts(conn, [study_uid])), None)
            if known is None:
                raise NotFound(f"no study {study_uid}", study_uid=study_uid)
        return arrival.explained(current, known, now)

    def explain_described(self, described: dict[str, Any], now: float) -> dict[str, Any]:
        """Return what becomes of every rule for a study that need not be stored.

        ``described``: study, series, source, address, status, size_bytes; ``rules`` and ``sources``
        as in the settings (None: those in force).

        Raises:
            ConfigError: a rule or source is wrong.
        """
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
        return arrival.explained_of(current, described, now)

    def deletes_by_rule(
        self, now: float, after: tuple[float, str], limit: int
    ) -> list[tuple[float, str]]:
        """Return (when, study UID) of studies that a rule wants deleted, behind ``after``."""
        place = sa.tuple_(studies.c.delete_after_s, studies.c.study_uid)
        query = (
            sa.select(studies.c.delete_after_s, studies.c.study_uid)
            .where(
                studies.c.delete_after_s > 0,
                studies.c.delete_after_s >= after[0],
                studies.c.delete_after_s <= now,
                place > sa.tuple_(sa.literal(after[0]), sa.literal(after[1])),
            )
            .order_by(studies.c.delete_after_s, studies.c.study_uid)
            .limit(limit)
        )
        with self._engine.connect() as conn:
            return [(row[0], row[1]) for row in conn.execute(query)]
