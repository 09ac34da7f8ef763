"""Writes about forecasts, levels and alarms."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from raypacs.index import alarms, audit, forecasts, levels
from raypacs.index.engine import insert
from raypacs.index.schema import meta
from raypacs.index.writing import Writing

_PROGRESS = "archive progress"


class ForecastWrites(Writing):
    """The forecasts' part of the writer."""

    def keep_level(self, row: levels.LevelRow, changed: bool, now: float) -> None:
        """Keep the level of a cache; a change is an audit event with what it rests on."""
        with self.transaction(now) as txn:
            levels.keep(txn, [row])
            if changed:
                detail = {"tier": row.tier, "level": row.level.value, **row.detail}
                audit.record(txn, "level", detail=detail)

    def drop_levels(self, tiers: Sequence[str], now: float) -> None:
        """Forget the levels of tiers that are gone."""
        with self.transaction(now) as txn:
            levels.drop(txn, tiers)

    def keep_forecast(self, made: forecasts.Made, now: float) -> None:
        """Keep a forecast, once an hour and tier."""
        with self.transaction(now) as txn:
            forecasts.keep(txn, made)

    def score_forecasts(self, tier: str, now: float) -> int:
        """Compare a tier's forecasts that are over with what came; return how many."""
        with self.transaction(now) as txn:
            return forecasts.score(txn, tier)

    def begin_alarm(self, key: str, tier: str, text: str, now: float) -> None:
        """Note an alarm, to be told."""
        with self.transaction(now) as txn:
            alarms.begin(txn, key, tier, text)
            audit.record(txn, "alarm", detail={"alarm": key, "tier": tier, "text": text})

    def end_alarm(self, key: str, now: float) -> None:
        """Note that an alarm is over."""
        with self.transaction(now) as txn:
            alarms.finish(txn, key)
            audit.record(txn, "alarm over", detail={"alarm": key})

    def alarm_told(self, key: str, state: int, since_s: float, now: float) -> None:
        """Note that the beginning or the end of the alarm since ``since_s`` was told."""
        with self.transaction(now) as txn:
            alarms.told(txn, key, state, since_s)

    def archive_progress(self, library_bytes: int, now: float) -> float:
        """Return when bytes were archived last: now, if there are more than the last time.

        Since the first call, if nothing ever was. Fewer (a copy was deleted) are no progress.
        """
        with self.transaction(now) as txn:
            ours = meta.c.name == _PROGRESS
            row = txn.conn.execute(sa.select(meta).where(ours)).one_or_none()
            if row is None:
                values = {"name": _PROGRESS, "number": library_bytes, "value": "", "at_s": now}
                txn.conn.execute(insert(txn.conn, meta).values(values))
                return now
            if library_bytes == row.number:
                return float(row.at_s)
            at_s = now if library_bytes > row.number else float(row.at_s)
            change = sa.update(meta).where(ours).values(number=library_bytes, at_s=at_s)
            txn.conn.execute(change)
            return at_s
