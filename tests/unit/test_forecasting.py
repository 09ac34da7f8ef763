"""The forecast of hours left: what it knows, what it says of too little, that it is consistent."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypacs.errors import ConfigError
from raypacs.policy.forecast import HourlyIntake
from raypacs.policy.forecasting import PLAIN, SEASONAL, Forecast, forecast, forecast_hours
from raypacs.policy.wall_clock import wall_hours

BERLIN = ZoneInfo("Europe/Berlin")
MIB = 1 << 20


def clinic(begin: datetime, days: int, *, growth: float = 0.0) -> list[HourlyIntake]:
    """Return 60 MiB an hour from 8 to 18 on weekdays by the clock on the wall, else 1 MiB."""
    first = int(begin.timestamp())
    found = []
    for hour in range(days * 24):
        local = datetime.fromtimestamp(first + hour * 3600, BERLIN)
        busy = 8 <= local.hour < 18 and local.weekday() < 5
        size = round((60 if busy else 1) * MIB * (1 + growth) ** (hour / 168))
        found.append(HourlyIntake(first + hour * 3600, 1, 10, size))
    return found


def said(history: list[HourlyIntake], at: datetime, available: float, **more: float) -> Forecast:
    return forecast(
        [hour for hour in history if hour.hour_s < at.timestamp()],
        at.timestamp(),
        available,
        time_zone="Europe/Berlin",
        **more,
    )


BEGIN = datetime(2025, 1, 6, tzinfo=BERLIN)
HISTORY = clinic(BEGIN, 70)


def test_it_knows_the_night_and_the_weekend() -> None:
    friday = BEGIN + timedelta(days=46, hours=18)
    assert friday.weekday() == 4
    # 62 quiet hours until Monday at eight, then one busy hour.
    found = said(HISTORY, friday, (62 + 60) * MIB)
    assert found.method == SEASONAL
    assert found.hours_p50 == pytest.approx(63, abs=0.5)
    tuesday = BEGIN + timedelta(days=43, hours=9)
    assert said(HISTORY, tuesday, 240 * MIB).hours_p50 == pytest.approx(4, abs=0.1)


def test_it_goes_by_the_clock_on_the_wall_over_the_change_to_summer_time() -> None:
    history = clinic(datetime(2025, 2, 3, tzinfo=BERLIN), 60)
    monday = datetime(2025, 3, 31, 7, tzinfo=BERLIN)  # the first working day of summer time
    found = said(history, monday, 61 * MIB)
    assert found.hours_p50 == pytest.approx(2, abs=0.15)
    sunday = datetime(2025, 3, 30, 0, tzinfo=BERLIN)  # the change is ahead: a day of 23 hours
    found = said(history, sunday, (31 + 60) * MIB)
    assert found.hours_p50 == pytest.approx(32, abs=0.5)


def test_hours_of_the_wall_leave_one_out_in_spring_and_have_one_twice_in_autumn() -> None:
    for day, steps in (((2025, 3, 30), [1, 2, 1]), ((2025, 10, 26), [1, 0, 1])):
        at = int(datetime(*day, 0, tzinfo=BERLIN).timestamp())
        hours = at + 3600 * np.arange(0, 5)
        found = np.diff(wall_hours(hours, "Europe/Berlin"))
        assert found.tolist()[: len(steps)] == steps or found.tolist()[1 : len(steps) + 1] == steps
        assert wall_hours(hours[:1], "Europe/Berlin")[0] % 24 == 0
    with pytest.raises(ConfigError, match="time zone"):
        wall_hours(np.array([0]), "Middle/Earth")


def test_too_little_history_is_said_and_the_plain_rate_holds() -> None:
    now = BEGIN + timedelta(days=9)
    found = said(HISTORY, now, 100 * MIB)
    assert found.method == PLAIN
    assert "9.0 days of history, 14 are needed" in found.why
    assert (found.hours_p10, found.hours_p90) == (None, None)
    assert found.hours_p50 is not None
    none = forecast([], 0.0, 100)
    assert (none.hours_p50, none.why) == (None, "nothing has arrived yet")
    few = [HourlyIntake(int(BEGIN.timestamp()) + day * 86400, 1, 1, MIB) for day in range(20)]
    assert "hours with intake" in said(few, BEGIN + timedelta(days=20), MIB).why


def test_one_burst_is_not_the_rate() -> None:
    begin = int(BEGIN.timestamp())
    gib = 1 << 30
    first = forecast([HourlyIntake(begin, 10, 1000, 10 * gib)], begin + 1800, 190 * gib)
    assert first.hours_p50 == pytest.approx(190 / (10 / 24))
    # 8 GiB every eighth day: the quiet days before the last one count.
    weeks = [HourlyIntake(begin + 8 * day * 86400, 10, 1000, 8 * gib) for day in range(9)]
    said = forecast(weeks, weeks[-1].hour_s + 3600, 100 * gib)
    assert said.method == PLAIN
    assert said.hours_p50 == pytest.approx(100 / (8 / 168))
    # What was before these days does not.
    none = forecast(weeks, weeks[-1].hour_s + 7 * 86400 + 3600, 100 * gib)
    assert (none.hours_p50, none.ahead) == (None, ())


def test_growth_is_followed() -> None:
    history = clinic(BEGIN, 70, growth=0.05)
    at = BEGIN + timedelta(days=63, hours=8)
    came = sum(hour.size_bytes for hour in history if 0 <= hour.hour_s - at.timestamp() < 8 * 3600)
    assert said(history, at, came).hours_p50 == pytest.approx(8, abs=0.8)


def test_backlog_shortens_the_hours() -> None:
    at = BEGIN + timedelta(days=43, hours=9)
    plain = said(HISTORY, at, 240 * MIB).hours_p50
    less = said(HISTORY, at, 240 * MIB, backlog_bytes=120 * MIB).hours_p50
    all_of_it = said(HISTORY, at, 240 * MIB, backlog_bytes=2400 * MIB).hours_p50
    assert plain is not None
    assert less is not None
    assert all_of_it is not None
    assert all_of_it < less < plain


def test_an_outage_and_what_caught_up_is_not_taken_for_the_usual() -> None:
    history = list(HISTORY)
    day = 24 * 43  # a Tuesday
    lost = sum(hour.size_bytes for hour in history[day + 8 : day + 14])
    for hour in range(day + 8, day + 14):
        history[hour] = HourlyIntake(history[hour].hour_s, 0, 0, 0)
    late = history[day + 15]
    history[day + 15] = HourlyIntake(late.hour_s, 1, 10, late.size_bytes + lost)
    week_later = BEGIN + timedelta(days=50, hours=9)
    assert said(history, week_later, 240 * MIB).hours_p50 == pytest.approx(4, abs=0.4)


def test_within_the_hour_the_rest_of_it_counts() -> None:
    at = BEGIN + timedelta(days=43, hours=9, minutes=30)
    assert said(HISTORY, at, 30 * MIB).hours_p50 == pytest.approx(0.5, abs=0.05)
    assert said(HISTORY, at, 90 * MIB).hours_p50 == pytest.approx(1.5, abs=0.1)


def test_a_cache_of_years_has_hours_too() -> None:
    at = BEGIN + timedelta(days=63)
    week = (50 * 60 + 118) * MIB
    found = said(HISTORY, at, 200 * week)
    assert found.hours_p50 == pytest.approx(200 * 168, rel=0.05)
    assert found.bytes_until(168) == pytest.approx(week, rel=0.05)
    left = found.hours_until(week)
    assert left == pytest.approx(168, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.5), st.integers(14, 60), st.floats(0, 0.8))
def test_quantiles_are_in_order_and_more_space_is_never_fewer_hours(
    seed: int, noise: float, days: int, empty: float
) -> None:
    random = np.random.default_rng(seed)
    hours = days * 24
    taken = random.lognormal(0, noise, hours) * (random.random(hours) > empty) * MIB
    taken[::9] += MIB
    now = float(hours * 3600)
    last = (0.0, 0.0, 0.0)
    for available in (0, MIB, 5 * MIB, 30 * MIB, 300 * MIB, 10**12, 10**15):
        found = forecast_hours(0, np.append(taken, 0.0), now, available)
        assert found.method == SEASONAL, found.why
        low, half, high = found.hours_p10, found.hours_p50, found.hours_p90
        assert low is not None
        assert half is not None
        assert high is not None
        assert 0 <= low <= half <= high
        assert all(np.isfinite((low, half, high)))
        # Which earlier times are like this one depends on how far ahead is looked.
        assert days < 35 or half >= last[1] * 0.7
        last = (low, half, high)
