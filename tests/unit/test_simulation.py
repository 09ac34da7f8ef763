"""Simulations: what always holds, and what thresholds, archives and orders of eviction do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.autopilot.staging import StagingRule
from raypacs.autopilot.thresholds import Thresholds
from raypacs.policy import synthetic_load
from raypacs.policy.caching import ORDERS, GreedyDualSize, S3Fifo
from raypacs.policy.load import DAY_S, Load, of_rows
from raypacs.policy.simulated_cache import Cache, Watermarks
from raypacs.policy.simulation import Scenario, _Run, simulate

START = datetime(2026, 3, 2, tzinfo=UTC)
GB = 10**9


def small(days: float = 6, seed: int = 1, scale: float = 0.12, history: float = 45) -> Load:
    hospital = synthetic_load.Hospital(scale=scale)
    return synthetic_load.generate(
        days, history_days=history, start=START, seed=seed, hospital=hospital
    )


def bare(*sizes: int, gap_s: float = 60.0, reads: tuple[tuple[float, int], ...] = ()) -> Load:
    """Studies of given sizes, one after the other, and who opens which when."""
    count = len(sizes)
    start = START.timestamp()
    return Load(
        start_s=start,
        end_s=start + max([count * gap_s, *(at for at, _ in reads)]) + 3600,
        arrived_s=start + gap_s * np.arange(count, dtype=np.float64),
        size_bytes=np.array(sizes, dtype=np.int64),
        objects=np.ones(count, dtype=np.int64),
        modality=np.zeros(count, dtype=np.int64),
        modalities=("CT",),
        patient=np.arange(count, dtype=np.int64),
        read_s=np.array([start + at for at, _ in reads]),
        reads=np.array([study for _, study in reads], dtype=np.int64),
    )


ALWAYS = ArchiveSettings(window_start="00:00", window_end="00:00")
NEVER = ((0.0, 10_000.0),)


def checked(load: Load, scenario: Scenario) -> _Run:
    """Run step by step and hold what always holds."""
    run = _Run(load, scenario)
    evicted: list[int] = []
    original = Cache._out

    def out(cache: Cache, study: int, size_bytes: int, due_s: float) -> None:
        assert cache.present[study], "evicted twice"
        if cache.role == "image":
            assert run.archived[study], "evicted before it was archived"
            assert run.scenario.watermarks or cache.level.value != "green", "evicted on green"
        evicted.append(study)
        original(cache, study, size_bytes, due_s)

    Cache._out = out  # type: ignore[method-assign]
    try:
        outcome = run.run(lambda part: None)
    finally:
        Cache._out = original  # type: ignore[method-assign]
    for cache in run.caches:
        sizes = run.web_size if cache.role == "web" else load.size_bytes
        going = sum(size for _, size in cache._going)
        assert cache.used_bytes == int(sizes[cache.present].sum()) + going, "bytes are bytes"
        assert cache.fullest_bytes <= cache.capacity_bytes
        assert max(cache.track.used_bytes) <= cache.capacity_bytes
    for at, cache in enumerate(run.images):
        assert np.array_equal(run.where == at, cache.present)
    unarchived = int(load.size_bytes[run.pending.unarchived].sum())
    assert run.unarchived_bytes == unarchived
    # What came, and was not refused at the end, is somewhere: in a cache or in the library.
    came = np.flatnonzero(load.arrived_s < run.load.end_s)
    lost = (run.where[came] < 0) & ~run.archived[came]
    assert set(came[lost].tolist()) == set(run.pending.refused)
    assert outcome.counts.hits <= outcome.counts.reads
    return run


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    capacity=st.integers(3, 120),
    second=st.sampled_from([0, 0, 20, 60]),
    web=st.sampled_from([0, 10, 40]),
    order=st.sampled_from(ORDERS),
    marks=st.sampled_from([None, None, Watermarks(80, 70), Watermarks(95, 85)]),
    rate=st.sampled_from([0.0, 1e5, 2e8]),
    outage=st.sampled_from([(), ((1.0, 3.0),), NEVER]),
    prefetch=st.integers(0, 2),
    start_full=st.booleans(),
)
def test_no_run_overfills_loses_or_evicts_what_it_must_not(
    seed: int,
    capacity: int,
    second: int,
    web: int,
    order: str,
    marks: Watermarks | None,
    rate: float,
    outage: tuple[tuple[float, float], ...],
    prefetch: int,
    start_full: bool,
) -> None:
    images = (capacity * GB, *([second * GB] if second else []))
    scenario = Scenario(
        images,
        web_bytes=web * GB,
        order=order,
        watermarks=marks,
        archive_rate=rate,
        archive_outages=outage,
        prefetch=prefetch,
        start_full=start_full,
        warm_up_days=0,
    )
    checked(small(3, seed), scenario)


def test_the_same_load_and_scenario_give_the_same() -> None:
    scenario = Scenario((40 * GB,), web_bytes=20 * GB, prefetch=1, warm_up_days=1)
    first, again = (simulate(small(2, seed=7), scenario) for _ in range(2))
    assert str(first.as_json(track=True)) == str(again.as_json(track=True))
    other = simulate(small(2, seed=8), scenario)
    assert other.as_json() != first.as_json()


def test_a_cache_that_is_large_enough_is_never_freed() -> None:
    outcome = simulate(small(3), Scenario((10_000 * GB,), warm_up_days=1))
    assert outcome.hours_at_red == outcome.hours_at_amber == 0
    assert outcome.caches[0].evicted == 0
    assert outcome.hit_ratio == 1.0


def test_a_full_cache_with_nothing_archived_refuses_and_says_so() -> None:
    load = bare(*[GB] * 10)
    outcome = simulate(load, Scenario((3 * GB,), archive_outages=NEVER))
    assert outcome.counts.studies == 3
    assert outcome.counts.refused >= 7
    assert outcome.caches[0].evicted == 0
    assert outcome.caches[0].hours_at["red"] > 0
    assert outcome.counts.unarchived_high_bytes == 3 * GB


def test_refused_studies_are_sent_again_and_get_in_when_there_is_room() -> None:
    load = bare(*[GB] * 8, gap_s=1800, reads=((40 * 3600.0, 7),))
    outcome = simulate(load, Scenario((3 * GB,), archive=ALWAYS))
    assert outcome.counts.studies == 8
    assert outcome.counts.archived == 8


def test_who_opens_what_left_the_cache_waits_once_and_the_next_one_does_not() -> None:
    day = 24 * 3600.0
    load = bare(*[GB] * 30, gap_s=3600, reads=((day * 2, 0), (day * 2 + 60, 0), (day * 3, 0)))
    few_hours = Thresholds(amber_h=3, red_h=1)
    outcome = simulate(load, Scenario((10 * GB,), archive=ALWAYS, thresholds=few_hours))
    assert outcome.counts.reads == 3
    assert outcome.counts.hits == 2
    assert outcome.counts.restored == 1


def test_nothing_is_archived_outside_the_window_but_on_red() -> None:
    load = bare(*[GB] * 8, gap_s=60)  # from midnight UTC
    closed = ArchiveSettings(window_start="12:00", window_end="13:00", red_opens=False)
    assert simulate(load, Scenario((100 * GB,), archive=closed)).counts.archived == 0
    assert simulate(load, Scenario((8 * GB,), archive=closed)).counts.archived == 0
    red = closed.model_copy(update={"red_opens": True})
    late = bare(*[GB] * 8, gap_s=60, reads=((5 * 3600.0, 0),))
    assert simulate(late, Scenario((8 * GB,), archive=red)).counts.archived == 8


def test_staging_rules_hold() -> None:
    rules = (
        StagingRule(name="a month", action="delete from cache", level="amber", hours=720),
        StagingRule(name="a day", action="delete from cache", level="red", hours=24),
    )
    outcome = simulate(small(6, history=90), Scenario((60 * GB,), rules=rules, warm_up_days=4))
    assert set(outcome.caches[0].by_rule) <= {"a month", "a day"}
    assert outcome.caches[0].by_rule


def test_higher_thresholds_keep_more_space_free() -> None:
    load = small(5, history=90)
    free = {}
    for amber in (24.0, 96.0):
        thresholds = Thresholds(amber_h=amber, red_h=12)
        outcome = simulate(load, Scenario((80 * GB,), thresholds=thresholds, warm_up_days=4))
        free[amber] = np.median(outcome.caches[0].track.available_bytes)
    assert free[96.0] > 1.5 * free[24.0]


def test_knowing_the_future_is_better_than_the_past() -> None:
    load = small(14, seed=3, history=60)
    seldom = Scenario((40 * GB,), warm_up_days=7, forecast_s=6 * 3600.0)
    lru, by_bytes, by_studies = (
        simulate(load, replace(seldom, order=order)) for order in ("lru", "offline", "offline-size")
    )
    assert (by_bytes.byte_hit_ratio or 0) > (lru.byte_hit_ratio or 0) > 0.5
    assert (by_studies.hit_ratio or 0) > (lru.hit_ratio or 0) > 0.5


def test_large_studies_leave_first_by_greedy_dual_size_and_read_ones_stay_by_s3_fifo() -> None:
    load = bare(GB, 2 * GB, GB, 3 * GB)
    sizes = load.size_bytes
    gdsf, s3 = GreedyDualSize(sizes), S3Fifo(sizes, 5 * GB)
    for order in (gdsf, s3):
        for study in range(4):
            order.add(study)
        for _ in range(3):
            order.touch(np.array([0]), slice(0, 1))
    assert list(gdsf.walk()) == [3, 1, 2, 0]
    assert list(s3.walk())[:3] == [1, 2, 3], "what was opened moved to the main queue"
    assert sorted(s3.walk()) == [0, 1, 2, 3], "a walk alone removes nothing"
    gdsf.remove(3)
    assert list(gdsf.walk()) == [1, 2, 0]


def test_a_later_tier_takes_what_the_first_has_no_room_for() -> None:
    load = bare(*[GB] * 6)
    run = checked(load, Scenario((4 * GB, 4 * GB), archive_outages=NEVER))
    assert [int(cache.present.sum()) for cache in run.images] == [4, 2]


def test_prefetched_priors_are_there_when_they_are_opened() -> None:
    load = small(6, seed=5, history=120)
    without = simulate(load, Scenario((30 * GB,), warm_up_days=2))
    with_them = simulate(load, Scenario((30 * GB,), warm_up_days=2, prefetch=3))
    assert with_them.counts.prefetched > 0
    assert (with_them.older_hit_ratio or 0) > (without.older_hit_ratio or 0)


def test_a_synthetic_hospital_is_like_one() -> None:
    load = small(28, scale=1.0, history=0)
    told = load.summary()
    assert 330 < told["studies_per_day"] < 450
    assert 0.8e12 < told["bytes"] / 28 * 30.4 < 1.3e12, "about a terabyte a month"
    days = ((load.arrived_s - load.start_s) // DAY_S).astype(int)
    counts = np.bincount(days, minlength=28)
    assert counts[[5, 6, 12, 13]].mean() < 0.5 * counts[[0, 1, 2, 3]].mean(), "weekends are quiet"
    assert np.all(load.read_s >= load.arrived_s[load.reads]), "nothing is opened before it is there"


def test_an_outage_holds_studies_back_and_sends_them_afterwards() -> None:
    hospital = synthetic_load.Hospital(scale=0.2, outages=((2.0, 1.0),))
    load = synthetic_load.generate(6, history_days=0, start=START, seed=1, hospital=hospital)
    hour = ((load.arrived_s - load.start_s) // 3600).astype(int)
    assert not np.any((hour >= 48) & (hour < 72))
    assert np.count_nonzero((hour >= 72) & (hour < 75)) > 40


def test_recorded_rows_become_a_load() -> None:
    day = 86400.0
    rows = [
        (day * 3, "accessed", "a", "", 0, 0),
        (day, "received", "a", "CT", 100, 500),
        (day + 60, "received", "a", "CT", 50, 250),
        (day * 2, "received", "b", "MR", 10, 90),
        (day * 2, "prepared", "b", "MR", 10, 40),
        (day * 2, "accessed", "unknown", "", 0, 0),
    ]
    load = of_rows(rows)
    assert load.size_bytes.tolist() == [750, 90]
    assert load.objects.tolist() == [150, 10]
    assert load.modalities == ("CT", "MR")
    assert (load.read_s.tolist(), load.reads.tolist()) == ([day * 3], [0])
    assert load.read_origin == "recorded"
    assert of_rows(rows, days=1.5).first == 1
    with pytest.raises(ValueError, match="nothing to replay"):
        of_rows([(1.0, "prepared", "a", "", 1, 1)])


def test_a_scenario_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity"):
        Scenario(())
    with pytest.raises(ValueError, match="step"):
        Scenario((GB,), step_s=1)
    with pytest.raises(ValueError, match="no order"):
        simulate(bare(1), Scenario((GB,), order="random"))
    with pytest.raises(ValueError, match="low < high"):
        Watermarks(80, 90)
