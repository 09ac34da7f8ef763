"""The master's duty to write statistics: samples by the hour, events as they come, as Parquet."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from raypacs import stats
from raypacs.errors import TierFull, TierUnavailable
from raypacs.master.base import MasterBase
from raypacs.policy.forecast import hour_of
from raypacs.policy.queue import WAITING, State
from raypacs.storage.filed import Files, statistics_of

log = logging.getLogger(__name__)

STATS_ROWS = 2_000
MERGE_EVERY_S = 10.0
# Rows of a day are written within minutes; those of forecasts when they were scored, two days on.
SETTLED_S = 4 * 86_400.0


class StatisticsDuties(MasterBase):
    """Statistics: sampled, written, merged."""

    def _sample(self, now: float) -> None:
        hour = hour_of(now)
        if hour > self._due.sampled_hour_s:
            self._writer.sample(hour, self._samples(now), now)
            self._due.sampled_hour_s = hour

    def _samples(self, now: float) -> list[dict[str, Any]]:
        states: dict[str, int] = {}
        for counts in self._reader.status(now)["queue"].values():
            for state, count in counts.items():
                states[state] = states.get(state, 0) + count
        queue = {
            "waiting": sum(states.get(state, 0) for state in WAITING),
            "running": states.get(State.IN_PROCESS, 0),
        }
        return [
            {
                **tier,
                **(tier["fill_rate"] or {}),
                **(tier["thresholds"] or {}),
                "tier": tier["name"],
                **queue,
            }
            for tier in self._reader.tier_states(now)
        ]

    def _stats_files(self) -> Files:
        """Return where statistics lie. Raises TierUnavailable."""
        name = self._reader.settings()[1].statistics_tier
        if not name:
            return statistics_of(self._stats_dir, None)
        for tier in self._tiers.reachable():
            if tier.name == name:
                return statistics_of(self._stats_dir, tier)
        raise TierUnavailable(f"statistics wait for tier {name}", tier=name)

    def _flush_stats(self, now: float) -> bool:
        """Write a batch of the statistics that wait; say whether there may be more.

        Where their tier cannot be written they stay in the index, and are written later.
        """
        rows = self._writer.outbox(now, STATS_ROWS)
        if not rows:
            return False
        try:
            stats.append(self._stats_files(), rows, self._writer.site_secret())
        except (TierFull, TierUnavailable) as exc:
            log.warning("statistics wait: %s", exc)
            return False
        self._writer.outbox_written(rows, now)
        return len(rows) >= STATS_ROWS

    def _merge_stats(self, now: float) -> None:
        """Merge a few small files of a day that is settled."""
        if now < self._due.merge_s or self._reader.erasure_open() is not None:
            return
        self._due.merge_s = now + MERGE_EVERY_S
        day = datetime.fromtimestamp(now - SETTLED_S, UTC).strftime("%Y-%m-%d")
        try:
            if not stats.merge(self._stats_files(), before_day=day):
                self._due.merge_s = now + 360 * MERGE_EVERY_S
        except (TierFull, TierUnavailable) as exc:
            log.warning("statistics are not merged: %s", exc)
