"""The master's duty to forecast hours left, to judge levels and to raise alarms.

Once a minute each cache is judged, one a tick; once an hour its forecast is kept, to be compared
with what came. Telling people is the work of a thread of its own (``raypacs.alarms``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property

from raypacs.alarms import Notice, Notifier
from raypacs.config import Settings
from raypacs.index.alarms import OVER, TO_TELL, AlarmRow
from raypacs.index.forecasts import Made
from raypacs.index.levels import LevelRow
from raypacs.master.sealing import SealDuties
from raypacs.policy.caches import HORIZONS, Cache, Judged, judged
from raypacs.policy.forecast import HOUR_S, HourlyIntake, hour_of
from raypacs.policy.forecasting import KEPT_HOURS, Forecast, forecast
from raypacs.policy.levels import Level, thresholds_of
from raypacs.policy.window import is_open, opened_at

log = logging.getLogger(__name__)

JUDGE_EVERY_S = 60.0
STANDS_STILL = "archiving"


@dataclass
class _Watch:
    """What the duty remembers between ticks; all of it can be read again from the index."""

    settings: Settings
    left: list[Cache] = field(default_factory=list)
    """Caches that this round has still to judge."""
    levels: dict[str, LevelRow] = field(default_factory=dict)
    alarms: dict[str, AlarmRow] = field(default_factory=dict)
    history: dict[str, list[HourlyIntake]] = field(default_factory=dict)
    kept_hour_s: dict[str, int] = field(default_factory=dict)


class ForecastDuties(SealDuties):
    """Forecasts and levels of caches."""

    @cached_property
    def _watch(self) -> _Watch:
        return _Watch(self._reader.settings()[1])

    @cached_property
    def _notifier(self) -> Notifier:
        return Notifier(lambda: self._reader.settings()[1].alarms)

    def _forecast_due(self, now: float) -> None:
        """Sample, forecast and judge the level of each cache, about every minute."""
        watch = self._watch
        if watch.left:
            self._judge_cache(watch.left.pop(0), now)
        elif now >= self._due.caches_s:
            self._due.caches_s = now + JUDGE_EVERY_S
            self._begin_round(now)

    def _end_alarms(self) -> None:
        """Stop telling; what was not told is told by the next master."""
        if "_notifier" in self.__dict__:
            self._notifier.close()

    def _begin_round(self, now: float) -> None:
        """Look at what all caches have in common; tell alarms, and note those that were told."""
        watch = self._watch
        watch.settings = self._reader.settings()[1]
        watch.left = self._reader.cache_states(now)
        watch.levels = self._reader.levels()
        there = {cache.tier for cache in watch.left}
        gone = watch.levels.keys() - there
        if gone:
            self._writer.drop_levels(sorted(gone), now)
            for tier in gone:
                watch.history.pop(tier, None)
        rows = self._reader.alarms()
        watch.alarms = {row.key: row for row in rows if not row.is_over}
        for row in watch.alarms.values():
            if row.tier and row.tier not in there:
                self._alarm(row.key, row.tier, "", now)
        self._watch_archiving(now)
        self._tell(now)

    def _judge_cache(self, cache: Cache, now: float) -> None:
        """Forecast one cache, keep its level, and the forecast if it is the hour's first."""
        watch = self._watch
        tier = next((one for one in watch.settings.tiers if one.name == cache.tier), None)
        if tier is None:
            return
        archive = watch.settings.archive
        said = forecast(
            self._history(cache.tier, now),
            now,
            cache.available_bytes,
            backlog_bytes=cache.backlog_bytes,
            time_zone=archive.time_zone,
        )
        night = is_open(now, archive.window_start, archive.window_end, archive.time_zone)
        row = watch.levels.get(cache.tier)
        before = row.level if row else Level.GREEN
        hours = thresholds_of(watch.settings.thresholds, tier, is_night=night)
        found = judged(cache, said, before, hours, is_night=night)
        changed = row is None or row.level is not found.level
        since_s = now if row is None or changed else row.since_s
        kept = LevelRow(cache.tier, found.level, since_s, now, found.detail())
        self._writer.keep_level(kept, changed and not (row is None and not found.level.rank), now)
        self._alarms_of(cache, found, now)
        if watch.kept_hour_s.get(cache.tier) != hour_of(now):
            watch.kept_hour_s[cache.tier] = hour_of(now)
            self._keep_forecast(cache, said, now)
            self._writer.score_forecasts(cache.tier, now)

    def _history(self, tier: str, now: float) -> list[HourlyIntake]:
        """Return the hourly samples of a cache; what is over is read from the index once."""
        known = self._watch.history.setdefault(tier, [])
        # The newest hour known may not have been over when it was read.
        while known and known[-1].hour_s >= hour_of(now) - HOUR_S:
            known.pop()
        oldest_s = hour_of(now) - KEPT_HOURS * HOUR_S
        since_s = known[-1].hour_s + HOUR_S if known else oldest_s
        known += self._reader.intake(tier, since_s)
        if known and known[0].hour_s < oldest_s - 7 * 24 * HOUR_S:
            known[:] = [hour for hour in known if hour.hour_s >= oldest_s]
        return known

    def _keep_forecast(self, cache: Cache, said: Forecast, now: float) -> None:
        hours = (said.hours_p10, said.hours_p50, said.hours_p90)
        ahead = {horizon: said.bytes_until(horizon) for horizon in HORIZONS}
        made = Made(
            cache.tier, now, said.method, hours, cache.available_bytes, cache.backlog_bytes, ahead
        )
        self._writer.keep_forecast(made, now)

    # Alarms

    def _alarms_of(self, cache: Cache, found: Judged, now: float) -> None:
        """Begin and end the alarms of one cache."""
        text = ""
        if found.level is Level.RED:
            left = "full" if found.hours_p50 is None else f"{found.hours_p50:.1f} hours left"
            text = f"cache {cache.tier} is red: {left}, {cache.available_bytes} bytes available"
        self._alarm(f"red {cache.tier}", cache.tier, text, now)
        least_h = self._watch.settings.alarms.evictable_h
        key = f"evictable {cache.tier}"
        if key in self._watch.alarms:
            least_h *= 1.1
        text = ""
        left_h = found.evictable_hours
        waits = cache.role == "image" and cache.unarchived_bytes > 0
        if waits and left_h is not None and left_h < least_h:
            text = (
                f"cache {cache.tier}: in {left_h:.1f} hours nothing is left that may be evicted; "
                f"{cache.unarchived_bytes} bytes are not archived, {cache.pinned_bytes} are pinned"
            )
        self._alarm(key, cache.tier, text, now)

    def _watch_archiving(self, now: float) -> None:
        """Begin the alarm that nothing is archived; any progress ends it."""
        watch = self._watch
        current = watch.settings
        waiting = sum(cache.unarchived_bytes for cache in watch.left if cache.role == "image")
        progress_s = self._writer.archive_progress(self._reader.library_bytes(), now)
        still_s = current.alarms.archive_still_h * HOUR_S
        before = watch.alarms.get(STANDS_STILL)
        libraries = any(tier.role == "library" for tier in current.tiers)
        if not (libraries and waiting and still_s) or (before and progress_s > before.since_s):
            self._alarm(STANDS_STILL, "", "", now)
            return
        archive = current.archive
        if before or not is_open(now, archive.window_start, archive.window_end, archive.time_zone):
            return
        since_s = max(progress_s, opened_at(now, archive.window_start, archive.time_zone))
        if now - since_s < still_s:
            return
        # Studies that came lately may be too young; more than those must wait.
        recent_s = now - max(still_s, archive.min_age_s)
        fresh = sum(
            hour.filled_bytes
            for cache in watch.left
            if cache.role == "image"
            for hour in self._history(cache.tier, now)
            if hour.hour_s + HOUR_S > recent_s
        )
        # Nor is it an alarm that settings keep back what there is: then nothing is to be done.
        if waiting > fresh and self._reader.archiving_stuck(now - still_s):
            text = (
                f"nothing was archived for {(now - since_s) / HOUR_S:.1f} hours of the window, "
                f"{waiting} bytes wait"
            )
            self._alarm(STANDS_STILL, "", text, now)

    def _alarm(self, key: str, tier: str, text: str, now: float) -> None:
        """Begin an alarm, or end it ('' as ``text``); nothing where it is so already."""
        lasting = self._watch.alarms
        if text and key not in lasting:
            log.warning("alarm: %s", text, extra={"alarm": key})
            self._writer.begin_alarm(key, tier, text, now)
            lasting[key] = AlarmRow(key, tier, text, now, TO_TELL)
        elif not text and key in lasting:
            log.info("alarm over: %s", lasting.pop(key).text, extra={"alarm": key})
            self._writer.end_alarm(key, now)

    def _tell(self, now: float) -> None:
        """Hand over what is to be told, and note what was."""
        for notice in self._notifier.told():
            state = OVER if notice.event == "over" else TO_TELL
            self._writer.alarm_told(notice.key, state, notice.since_s, now)
        for row in self._reader.alarms():
            if row.state in (TO_TELL, OVER):
                event = "over" if row.is_over else "alarm"
                self._notifier.tell(
                    Notice(row.key, event, row.tier, row.text, row.since_s, now, self._node_name)
                )
