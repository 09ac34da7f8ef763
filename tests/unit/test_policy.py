"""Retry, fill rate and placement: pure values in, values out."""

from __future__ import annotations

import pytest

from raypacs.policy.forecast import FillRate, HourlyIntake, fill_rate, hour_of, hours_left
from raypacs.policy.placement import TierRoom, choose
from raypacs.policy.retry import Retry

HOUR = 3600


@pytest.mark.parametrize(
    ("attempt", "retryable", "chance", "expected"),
    [
        (1, True, 1.0, 2.0),
        (1, True, 0.0, 1.5),
        (2, True, 1.0, 4.0),
        (2, True, 0.0, 3.0),
        (3, True, 1.0, None),
        (4, True, 1.0, None),
        (1, False, 1.0, None),
    ],
)
def test_retry_by_default(
    attempt: int, retryable: bool, chance: float, expected: float | None
) -> None:
    assert Retry().delay_s(attempt, retryable=retryable, chance=chance) == expected


def test_retry_delays_grow_whatever_chance_says_up_to_the_cap() -> None:
    retry = Retry(max_attempts=5000, base_s=2, cap_s=300)
    longest = [retry.delay_s(attempt, chance=1.0) for attempt in range(1, 8)]
    shortest = [retry.delay_s(attempt, chance=0.0) for attempt in range(1, 8)]
    assert all(a < b for a, b in zip(longest, shortest[1:], strict=False))
    assert retry.delay_s(4000, chance=1.0) == 300


def test_waiting_for_room_and_lost_nodes_never_give_up_and_waits_are_short() -> None:
    retry = Retry()
    assert (retry.wait_s(chance=0.0), retry.wait_s(chance=1.0)) == (22.5, 30.0)
    assert Retry(cap_s=5).wait_s(chance=1.0) == 5.0
    assert [retry.after_death_s(attempt, chance=1.0) for attempt in (1, 2, 3, 4)] == [2, 4, 8, 16]


def test_fill_rate_counts_quiet_hours() -> None:
    history = [
        HourlyIntake(0, studies=4, objects=400, size_bytes=40_000),
        HourlyIntake(9 * HOUR, studies=6, objects=600, size_bytes=60_000),
    ]
    rate = fill_rate(history, now=10 * HOUR)
    assert rate == FillRate(studies_per_hour=1.0, objects_per_study=100, bytes_per_object=100)
    assert rate.bytes_per_hour == 10_000
    assert hours_left(25_000, rate) == 2.5


def test_a_first_minute_counts_as_an_hour() -> None:
    rate = fill_rate([HourlyIntake(7200, 1, 10, 5000)], now=7260)
    assert rate is not None
    assert rate.bytes_per_hour == 5000


def test_growth_of_old_studies_fills_the_tier_too() -> None:
    rate = fill_rate([HourlyIntake(0, studies=0, objects=10, size_bytes=1000)], now=HOUR)
    assert rate is not None
    assert rate.bytes_per_hour == 1000


def test_no_history_means_no_figure() -> None:
    old = HourlyIntake(0, 1, 1, 1)
    assert fill_rate([], now=5) is None
    assert fill_rate([old], now=8 * 24 * HOUR) is None
    assert hours_left(100, None) is None
    assert hours_left(100, FillRate(1, 1, 0)) is None
    assert hours_left(-5, FillRate(1, 1, 1)) == 0


def test_hour_of_is_the_utc_hour() -> None:
    assert hour_of(7199.9) == 3600
    assert hour_of(7200.0) == 7200


def room(name: str, order: int, available: int, **changes: bool) -> TierRoom:
    return TierRoom(name, "image", order, available, **changes)


@pytest.mark.parametrize(
    ("tiers", "expected"),
    [
        ([room("a", 1, 50), room("b", 1, 90), room("c", 2, 1000)], "b"),
        ([room("a", 1, 5), room("b", 2, 50)], "b"),
        ([room("b", 1, 50), room("a", 1, 50)], "a"),
        ([room("a", 1, 50, read_only=True), room("b", 2, 50)], "b"),
        ([room("a", 1, 50, reachable=False), room("b", 2, 50)], "b"),
        ([room("a", 1, 9)], None),
        ([TierRoom("w", "web", 1, 50)], None),
        ([], None),
    ],
)
def test_placement(tiers: list[TierRoom], expected: str | None) -> None:
    assert choose(tiers, role="image", need_bytes=10) == expected
