"""Replay a load against other thresholds, capacities or rules, on a virtual clock (FEATURES F4).

Decisions are those of the master: the same forecast, levels, staging rules and order of eviction,
window and placement. What is simulated is everything around them: what arrives, what is opened,
how fast is archived. Pure: a load and a scenario in, an outcome out; the same ones give the same.

A step: the grace period of evicted studies ends, new studies are placed (what finds no room is
refused and sent again in the next step), studies are opened (what is only in a library is
restored), the archive runs, then each cache is forecast, judged and freed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.autopilot.staging import StagingRule
from raypacs.autopilot.thresholds import Thresholds
from raypacs.autopilot.tiers import TierSettings
from raypacs.policy import archiving, levels, placement, staging, window
from raypacs.policy.archiving import Archivable
from raypacs.policy.caching import order_of
from raypacs.policy.eviction import Candidate
from raypacs.policy.forecast import HOUR_S, HourlyIntake
from raypacs.policy.levels import Level
from raypacs.policy.load import DAY_S, Ints, Load
from raypacs.policy.placement import TierRoom
from raypacs.policy.simulated_cache import HISTORY_HOURS, Cache, Watermarks, fill
from raypacs.policy.simulated_outcome import Counts, Outcome, outcome_of

WEB_RATIO = 0.45
"""Bytes of the wavelet form a byte received, where nothing better is known."""
_LIBRARIES = (TierSettings(name="library", role="library", url="file:///library"),)
_ANY_TIER = TierSettings(name="any", role="image", url="file:///any")
_OLDER_S = 7 * DAY_S


@dataclass(frozen=True)
class Scenario:
    """What a load is run against. Sizes in bytes, rates in bytes a second."""

    image_bytes: tuple[int, ...]
    """Capacity of each image cache, in their order."""
    web_bytes: int = 0
    """Capacity of the web cache; 0: none is simulated."""
    web_ratio: float = WEB_RATIO
    thresholds: Thresholds = field(default_factory=Thresholds)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    archive_rate: float = 200e6
    """What libraries take; the settings' own limit counts where it is less."""
    archive_outages: tuple[tuple[float, float], ...] = ()
    """(first day, days) from the start in which nothing is archived."""
    rules: tuple[StagingRule, ...] = ()
    order: str = "lru"
    watermarks: Watermarks | None = None
    """Fixed percentages instead of hours left: for comparison."""
    prefetch: int = 0
    """Priors of a patient that are brought back when a new study of theirs arrives."""
    grace_s: float = 60.0
    step_s: float = 3600.0
    forecast_s: float = 3600.0
    warm_up_days: float = 14.0
    """Days before the start that are run as well and not counted: caches, queues and fill rates
    are then those of a site that goes on."""
    start_full: bool = True
    """Whether caches hold what came last before the start, as after years; else they are empty."""

    @property
    def policy(self) -> str:
        """In words."""
        how = str(self.watermarks) if self.watermarks else "hours left"
        return how if self.order == "lru" else f"{how}, {self.order}"

    def __post_init__(self) -> None:
        if not self.image_bytes or min(self.image_bytes) <= 0:
            raise ValueError("an image cache needs a capacity above 0")
        if not 60 <= self.step_s <= 6 * HOUR_S:
            raise ValueError(f"a step of {self.step_s:g} s: 60 s to 6 h")
        if self.archive_rate < 0 or self.web_bytes < 0 or self.web_ratio <= 0:
            raise ValueError("archive_rate and web_bytes are 0 or more, web_ratio above 0")


def simulate(
    load: Load, scenario: Scenario, *, progress: Callable[[float], None] = lambda part: None
) -> Outcome:
    """Run ``scenario`` on ``load``; ``progress`` is told the part that is done, 0 to 1.

    Raises:
        ValueError: the scenario cannot be.
    """
    return _Run(load, scenario).run(progress)


@dataclass
class _Pending:
    """Studies that are to be archived, and those that found no room."""

    unarchived: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    budget: float = 0.0


class _Run:
    def __init__(self, load: Load, scenario: Scenario) -> None:
        self.load, self.scenario = load, scenario
        count = len(load.arrived_s)
        self.accessed_s = load.arrived_s.copy()
        self.archived = np.zeros(count, dtype=bool)
        self.where = np.full(count, -1, dtype=np.int8)  # image cache, -1 only in a library
        self.web_size = np.maximum(1, load.size_bytes * scenario.web_ratio).astype(np.int64)
        self.images = [
            self._cache(f"image{at + 1}", "image", size)
            for at, size in enumerate(scenario.image_bytes)
        ]
        self.webs = [self._cache("web1", "web", scenario.web_bytes)] if scenario.web_bytes else []
        self.caches = [*self.images, *self.webs]
        self.counts = Counts()
        self.pending = _Pending()
        self.unarchived_bytes = 0
        self.begin_s = self._begin_s()
        self.next_study = int(np.searchsorted(load.arrived_s, self.begin_s))
        self.next_read = int(np.searchsorted(load.read_s, self.begin_s))
        window_ = scenario.archive
        self.is_night = window.is_open(
            self.begin_s, window_.window_start, window_.window_end, window_.time_zone
        )
        self.last_of = self._last_studies() if scenario.prefetch else {}
        self._begin()

    def _cache(self, name: str, role: str, capacity: int) -> Cache:
        count = len(self.load.arrived_s)
        order = order_of(self.scenario.order, self.load, self.accessed_s, capacity)
        return Cache(name, role, capacity, order, count)

    def run(self, progress: Callable[[float], None]) -> Outcome:
        """Go through time step by step."""
        load, step = self.load, self.scenario.step_s
        warm = round((load.start_s - self.begin_s) / step)
        steps = max(1, round((load.end_s - load.start_s) / step))
        for number in range(1 - warm, steps + 1):
            now = load.start_s + number * step
            if number == 1 and warm:
                self._start_counting()
            for cache in self.caches:
                cache.free_due(now)
            self._arrive(now)
            self._read(now)
            self._archive(now)
            self._judge(now)
            if number % 200 == 0:
                progress(max(0.0, number / steps))
        return outcome_of(load, self.scenario.policy, step, self.caches, self.counts)

    # what was before

    def _begin_s(self) -> float:
        """Return when the run begins: before the start where the history reaches back so far."""
        warm_s = round(self.scenario.warm_up_days * DAY_S / self.scenario.step_s)
        begin_s = self.load.start_s - warm_s * self.scenario.step_s
        enough = len(self.load.arrived_s) and begin_s > self.load.arrived_s[0] + 7 * DAY_S
        return begin_s if self.scenario.start_full and enough else self.load.start_s

    def _start_counting(self) -> None:
        self.counts = Counts(unarchived_high_bytes=self.unarchived_bytes)
        for cache in self.caches:
            cache.start_counting()

    def _begin(self) -> None:
        """Take the history: what was accessed last is in the caches, everything is archived."""
        load, first = self.load, self.next_study
        past = load.reads[: self.next_read]
        np.maximum.at(self.accessed_s, past, load.read_s[: self.next_read])
        self.archived[:first] = True
        begin = max(
            self.begin_s - HISTORY_HOURS * HOUR_S, float(load.arrived_s[0]) if first else np.inf
        )
        history = load.hourly(begin, self.begin_s) if first else []
        for cache in self.caches[:1] + self.webs:
            ratio = self.scenario.web_ratio if cache.role == "web" else 1.0
            cache.begin(
                [
                    HourlyIntake(one.hour_s, one.studies, one.objects, int(one.size_bytes * ratio))
                    for one in history
                ]
            )
        if not self.scenario.start_full or not first:
            return
        order = np.argsort(-self.accessed_s[:first], kind="stable")
        for at, cache in enumerate(self.caches):
            web = cache.role == "web"
            size = self.web_size if web else load.size_bytes
            pool = order if web else order[self.where[order] < 0]
            fill(cache, size, pool, self._start_bytes(cache))
            if not web:
                self.where[cache.present] = at

    def _start_bytes(self, cache: Cache) -> int:
        """Return how full a cache is at the start: as its policy would have left it."""
        if self.scenario.watermarks is not None:
            marks = self.scenario.watermarks
            return int(cache.capacity_bytes * (marks.high + marks.low) / 200)
        hours = cache.history[-28 * 24 :]
        rate = sum(hour.filled_bytes for hour in hours) / max(1, len(hours))
        thresholds = self.scenario.thresholds
        free_h = thresholds.web_h if cache.role == "web" else thresholds.amber_h
        return max(0, int(cache.capacity_bytes - 1.5 * free_h * rate))

    def _last_studies(self) -> dict[int, list[int]]:
        """Return the studies of each patient so far, in order."""
        found: dict[int, list[int]] = {}
        for study, patient in enumerate(self.load.patient[: self.next_study].tolist()):
            found.setdefault(patient, []).append(study)
        return found

    # a step

    def _arrive(self, now: float) -> None:
        load = self.load
        end = int(np.searchsorted(load.arrived_s, now, side="left"))
        again, self.pending.refused = self.pending.refused, []
        for study in (*again, *range(self.next_study, end)):
            size = int(load.size_bytes[study])
            if not self._place(study, size, now, new=True):
                self.counts.refused += 1
                self.counts.refused_bytes += size
                self.pending.refused.append(study)
                continue
            self.counts.studies += 1
            self.counts.bytes += size
            self.pending.unarchived.append(study)
            self.unarchived_bytes += size
            self._prepare(study, now)
            if self.scenario.prefetch:
                self._prefetch(study, now)
        self.next_study = end
        highest = max(self.counts.unarchived_high_bytes, self.unarchived_bytes)
        self.counts.unarchived_high_bytes = highest

    def _place(self, study: int, size: int, now: float, *, new: bool) -> bool:
        """Put a study on the image cache that placement chooses."""
        if len(self.images) == 1:  # no choice, and this is asked for every study
            chosen = 0 if size <= self.images[0].available_bytes else -1
        else:
            rooms = [
                TierRoom(cache.name, "image", at + 1, cache.available_bytes)
                for at, cache in enumerate(self.images)
            ]
            name = placement.choose(rooms, role="image", need_bytes=size)
            names = [room.name for room in rooms]
            chosen = -1 if name is None else names.index(name)
        if chosen < 0:
            return False
        self.images[chosen].take(study, int(self.load.objects[study]), size, now, new=new)
        self.where[study] = chosen
        return True

    def _prepare(self, study: int, now: float) -> None:
        for cache in self.webs:
            size = int(self.web_size[study])
            if size > cache.available_bytes:
                self.counts.unprepared += 1
            else:
                cache.take(study, int(self.load.objects[study]), size, now, new=True)

    def _prefetch(self, study: int, now: float) -> None:
        known = self.last_of.setdefault(int(self.load.patient[study]), [])
        for prior in known[: -self.scenario.prefetch - 1 : -1]:
            # It inherits the access time of the study it was fetched for (B7).
            self.accessed_s[prior] = max(self.accessed_s[prior], self.load.arrived_s[study])
            if self.where[prior] < 0 and self.archived[prior] and self._restore(prior, now):
                self.counts.prefetched += 1
        known.append(study)

    def _restore(self, study: int, now: float) -> bool:
        size = int(self.load.size_bytes[study])
        if not self._place(study, size, now, new=False):
            self.counts.restores_refused += 1
            return False
        self.counts.restored += 1
        self.counts.restored_bytes += size
        return True

    def _read(self, now: float) -> None:
        load = self.load
        begin, end = self.next_read, int(np.searchsorted(load.read_s, now, side="left"))
        self.next_read = end
        studies, times = load.reads[begin:end], load.read_s[begin:end]
        if not len(studies):
            return
        self.accessed_s[studies] = np.maximum(self.accessed_s[studies], times)
        older = times - load.arrived_s[studies] > _OLDER_S
        there = self.where[studies] >= 0
        missing = np.zeros(len(studies), dtype=bool)
        for cache in self.images:
            cache.order.touch(studies, slice(begin, end))
        if not there.all():
            first = np.zeros(len(studies), dtype=bool)
            # The first who asks waits for the restore, the others of this step find it there.
            first[np.unique(studies, return_index=True)[1]] = True
            missing = ~there & first
            for study in studies[missing].tolist():
                if self.archived[study]:
                    self._restore(study, now)
        self.counts.read(load.size_bytes[studies], missing, older)
        for cache in self.webs:
            self._read_web(cache, studies, slice(begin, end), now)

    def _read_web(self, cache: Cache, studies: Ints, reads: slice, now: float) -> None:
        """Serving what is not prepared any more makes it due for PREPARE again."""
        cache.order.touch(studies, reads)
        for study in np.unique(studies[~cache.present[studies]]).tolist():
            if self.where[study] >= 0:
                self.counts.web_misses += 1
                size = int(self.web_size[study])
                if size <= cache.available_bytes:
                    cache.take(study, int(self.load.objects[study]), size, now, new=False)
        self.counts.web_reads += len(studies)

    def _archive(self, now: float) -> None:
        """Copy to the library, the least recently accessed first, while the window is open."""
        scenario, waiting = self.scenario, self.pending
        settings = scenario.archive
        begun = now - scenario.step_s
        red = settings.red_opens and any(one.level is Level.RED for one in self.images)
        day = (begun - self.load.start_s) / DAY_S
        stands = any(first <= day < first + days for first, days in scenario.archive_outages)
        is_open = self.is_night or red
        worst = max((one.level for one in self.images), key=lambda level: level.rank)
        copying = staging.copying(scenario.rules, worst)
        if stands or not (is_open or copying):
            waiting.budget = 0.0
            return
        limit = settings.bandwidth_bytes_per_s or scenario.archive_rate
        waiting.budget += min(limit, scenario.archive_rate) * scenario.step_s
        found = [
            one
            for one in waiting.unarchived
            if (is_open and self._due(one, now))
            or (copying and staging.matching(copying, self._candidate(one), now) is not None)
        ]
        due = np.array(found, dtype=np.int64)
        due = due[np.argsort(self.accessed_s[due], kind="stable")]
        done = due[np.cumsum(self.load.size_bytes[due]) <= waiting.budget]
        size = int(self.load.size_bytes[done].sum())
        self.archived[done] = True
        self.unarchived_bytes -= size
        self.counts.archived += len(done)
        self.counts.archived_bytes += size
        waiting.unarchived = [one for one in waiting.unarchived if not self.archived[one]]
        # What is left of the hour is lost, unless one large study waits for the next one.
        waiting.budget = waiting.budget - size if len(done) < len(due) else 0.0

    def _due(self, study: int, now: float) -> bool:
        known = Archivable(
            study_uid=str(study),
            archiving=True,
            created_s=float(self.load.arrived_s[study]),
            status=self._status(study),
            his_verified=True,
            growing=False,
            proven=frozenset(),
        )
        return not archiving.why_not(known, self.scenario.archive, _LIBRARIES, now)

    def _status(self, study: int) -> str:
        """Nobody tells more of a load: reported from when it was opened."""
        return "reported" if self.accessed_s[study] > self.load.arrived_s[study] else "new"

    def _judge(self, now: float) -> None:
        scenario = self.scenario
        settings = scenario.archive
        night = window.is_open(now, settings.window_start, settings.window_end, settings.time_zone)
        self.is_night = night  # the archive of the next step begins with it
        hours = levels.thresholds_of(scenario.thresholds, _ANY_TIER, is_night=night)
        for cache in self.caches:
            furthest_h = max(hours.amber_h, hours.web_h)
            if scenario.watermarks is None or not cache.is_far(now, furthest_h):
                cache.look_ahead(now, settings.time_zone, scenario.forecast_s)
                cache.judge(now, hours, self.unarchived_bytes, is_night=night)
            candidate = self._web_candidate if cache.role == "web" else self._candidate
            if scenario.watermarks is not None:
                cache.evict_by_watermarks(now, scenario.watermarks, candidate, scenario.grace_s)
            elif cache.level is not Level.GREEN:
                cache.evict(now, scenario.rules, candidate, scenario.grace_s)
            if cache.role == "image":
                self.where[cache.gone] = -1
            cache.gone.clear()
            cache.note(now, self.unarchived_bytes)

    def _candidate(self, study: int) -> Candidate:
        return Candidate(
            study_uid=str(study),
            size_bytes=int(self.load.size_bytes[study]),
            accessed_s=float(self.accessed_s[study]),
            created_s=float(self.load.arrived_s[study]),
            status=self._status(study),
            proven=("library",) if self.archived[study] else (),
        )

    def _web_candidate(self, study: int) -> Candidate:
        return Candidate(
            study_uid=str(study),
            size_bytes=int(self.web_size[study]),
            accessed_s=float(self.accessed_s[study]),
            created_s=float(self.load.arrived_s[study]),
            proven=("library",),
        )
