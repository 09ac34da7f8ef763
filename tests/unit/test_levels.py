"""Levels of caches: where they begin and end, and that they do not flap."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raypacs.autopilot.thresholds import Thresholds
from raypacs.autopilot.tiers import TierSettings
from raypacs.config import Settings
from raypacs.policy.caches import Cache, judged, rates
from raypacs.policy.forecast import HourlyIntake
from raypacs.policy.forecasting import Forecast
from raypacs.policy.levels import Hours, Level, full_bytes, judge, thresholds_of
from raypacs.policy.window import is_open

GIB = 1 << 30
HOURS = Hours(48.0, 24.0, 12.0, 0.1)
LEVELS = st.sampled_from(list(Level))
LEFT = st.floats(0, 1000)


@st.composite
def thresholds(draw: st.DrawFn) -> Hours:
    amber = draw(st.floats(0, 200))
    red = draw(st.floats(0, 1)) * amber
    return Hours(amber, red, draw(st.floats(0, 200)), draw(st.floats(0, 1)))


def tier(**more: object) -> TierSettings:
    return TierSettings(name="a", role="image", url="file:///a", **more)


@given(LEFT, LEVELS, thresholds(), st.sampled_from(["image", "web"]))
def test_judged_again_a_level_stays(left: float, before: Level, hours: Hours, role: str) -> None:
    once = judge(left, before, hours, role=role)
    assert judge(left, once, hours, role=role) is once


@given(LEFT, LEFT, LEVELS, thresholds())
def test_fewer_hours_are_never_less_urgent(
    one: float, other: float, before: Level, hours: Hours
) -> None:
    less, more = sorted((one, other))
    assert judge(less, before, hours).rank >= judge(more, before, hours).rank


@given(LEFT, LEVELS, LEVELS, thresholds())
def test_what_was_more_urgent_is_not_less_so_now(
    left: float, one: Level, other: Level, hours: Hours
) -> None:
    low, high = sorted((one, other), key=lambda level: level.rank)
    assert judge(left, high, hours).rank >= judge(left, low, hours).rank


@given(st.lists(st.floats(44.0, 52.7), max_size=30))
def test_a_forecast_that_wavers_within_the_hysteresis_changes_a_level_once(
    wavering: list[float],
) -> None:
    level, changes = Level.GREEN, 0
    for left in wavering:
        found = judge(left, level, HOURS)
        changes += found is not level
        level = found
    assert changes <= 1


def test_levels_begin_at_their_hours_and_end_beyond_them() -> None:
    assert judge(48.1, Level.GREEN, HOURS) is Level.GREEN
    assert judge(48.0, Level.GREEN, HOURS) is Level.AMBER
    assert judge(52.8, Level.AMBER, HOURS) is Level.AMBER
    assert judge(53.0, Level.AMBER, HOURS) is Level.GREEN
    assert judge(24.0, Level.AMBER, HOURS) is Level.RED
    assert judge(26.0, Level.RED, HOURS) is Level.RED
    assert judge(27.0, Level.RED, HOURS) is Level.AMBER
    assert judge(None, Level.RED, HOURS) is Level.GREEN
    assert judge(11.0, Level.GREEN, HOURS, role="web") is Level.AMBER
    assert judge(1.0, Level.GREEN, HOURS, role="web") is Level.AMBER


def test_zero_hours_switch_a_level_off() -> None:
    off = Hours(0, 0, 0, 0.1)
    assert judge(0.0, Level.GREEN, off) is Level.GREEN


def test_a_full_cache_is_red_without_a_rate() -> None:
    full = {"available_bytes": 0, "capacity_bytes": GIB}
    assert judge(None, Level.GREEN, HOURS, **full) is Level.RED
    assert judge(None, Level.GREEN, HOURS, role="web", **full) is Level.RED
    # A little more than full is full still, where it was.
    full["available_bytes"] = full_bytes(GIB) + 1
    assert judge(None, Level.GREEN, HOURS, **full) is Level.GREEN
    assert judge(None, Level.RED, HOURS, **full) is Level.RED


def test_a_small_cache_that_is_empty_is_not_full() -> None:
    assert (
        judge(None, Level.GREEN, HOURS, available_bytes=10**7, capacity_bytes=10**7) is Level.GREEN
    )


def test_own_thresholds_and_those_of_the_night() -> None:
    of_all = Thresholds(amber_h=40, red_h=20, amber_night_h=30)
    assert thresholds_of(of_all, tier(), is_night=False) == Hours(40, 20, 24, 0.1)
    assert thresholds_of(of_all, tier(), is_night=True) == Hours(30, 20, 24, 0.1)
    own = tier(thresholds={"amber_h": 9, "red_h": 3, "red_night_h": 0, "hysteresis": 0.5})
    assert thresholds_of(of_all, own, is_night=False) == Hours(9, 3, 24, 0.5)
    assert thresholds_of(of_all, own, is_night=True) == Hours(30, 0, 24, 0.5)


def test_what_a_tier_does_not_say_is_as_for_all_also_when_read_again() -> None:
    settings = Settings(
        thresholds=Thresholds(amber_h=100, red_h=60, web_h=7, keep_days=2),
        tiers=(tier(thresholds={"amber_h": 70, "amber_night_h": None}),),
    )
    again = Settings.model_validate_json(settings.model_dump_json())
    assert again == settings
    for one in (settings, again):
        assert one.model_dump(mode="json")["tiers"][0]["thresholds"] == {
            "amber_h": 70,
            "amber_night_h": None,
        }
        for is_night in (False, True):
            found = thresholds_of(one.thresholds, one.tiers[0], is_night=is_night)
            assert found == Hours(70, 60, 7, 0.1, 48)


def test_red_above_amber_of_all_is_refused_with_the_name_of_the_tier() -> None:
    for own in ({"amber_h": 20}, {"red_h": 50}, {"amber_night_h": 4}):
        with pytest.raises(ValidationError, match=r"tier a.* is above amber"):
            Settings(tiers=(tier(thresholds=own),))
    # By themselves, over the usual 48 hours, these would be refused.
    Settings(thresholds=Thresholds(amber_h=100), tiers=(tier(thresholds={"red_h": 60}),))


@pytest.mark.parametrize(
    "wrong",
    [
        {"amber_h": 10, "red_h": 11},
        {"amber_night_h": 20},
        {"red_night_h": 49},
        {"amber_night_h": 5, "red_night_h": 6},
    ],
)
def test_red_above_amber_is_refused_with_the_reason(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="is above amber"):
        Thresholds(**wrong)
    with pytest.raises(ValidationError, match="is above amber"):
        Settings(tiers=(tier(thresholds=wrong),))


def steady(bytes_an_hour: float, available: float) -> Forecast:
    left = available / bytes_an_hour
    return Forecast(left * 0.8, left, left * 1.2, "seasonal", "", ((1.0, bytes_an_hour),))


@given(st.integers(1, 400), LEVELS)
def test_freeing_what_is_needed_leaves_the_level(left_h: int, before: Level) -> None:
    rate = GIB
    cache = Cache("a", "image", 1000 * GIB, left_h * GIB)
    found = judged(cache, steady(rate, left_h * GIB), before, HOURS, is_night=False)
    if found.level is Level.GREEN:
        assert found.need_bytes == 0
        return
    freed = cache.available_bytes + found.need_bytes + 1
    after = judged(
        Cache("a", "image", 1000 * GIB, freed), steady(rate, freed), found.level, HOURS,
        is_night=False,
    )  # fmt: skip
    assert after.level is Level.GREEN
    if found.level is Level.RED:
        freed = cache.available_bytes + found.need_bytes_red + 1
        assert judge(freed / rate, Level.RED, HOURS) is not Level.RED


def test_a_full_cache_without_rate_needs_to_be_freed() -> None:
    never = Forecast(None, None, None, "plain", "nothing has arrived yet")
    found = judged(Cache("a", "image", GIB, 0), never, Level.GREEN, HOURS, is_night=False)
    assert found.level is Level.RED
    assert found.need_bytes_red > full_bytes(GIB)


def test_a_tenth_of_the_cache_is_freed_at_a_time_while_only_the_plain_rate_is_known() -> None:
    plain = Forecast(None, 2.0, None, "plain", "2 days", ((1.0, 50 * GIB),))
    found = judged(
        Cache("a", "image", 1000 * GIB, 100 * GIB), plain, Level.GREEN, HOURS, is_night=False
    )
    assert found.level is Level.RED
    assert found.need_bytes == found.need_bytes_red == 100 * GIB


def test_hours_until_nothing_evictable_is_left() -> None:
    cache = Cache("a", "image", 1000, 100, unarchived_bytes=600, pinned_bytes=100)
    found = judged(cache, steady(10, 100), Level.GREEN, HOURS, is_night=False)
    assert found.evictable_hours == pytest.approx(30)
    assert found.amber_bytes == 480
    held = Cache("a", "image", 1000, 100, unarchived_bytes=1000, pinned_bytes=100)
    nothing = judged(held, steady(10, 100), Level.GREEN, HOURS, is_night=False)
    assert nothing.evictable_hours == 0


def test_rates_by_day_and_night_over_a_change_of_the_clocks() -> None:
    """On 2025-10-26 a night in Berlin has eleven hours from 20:00 to 06:00, and two times 02:00."""
    zone = ZoneInfo("Europe/Berlin")
    begin = int(datetime(2025, 10, 25, 6, tzinfo=zone).timestamp())
    now = int(datetime(2025, 10, 26, 6, tzinfo=zone).timestamp())
    hours = range(begin, now, 3600)
    assert len(hours) == 25

    def is_night(hour_s: int) -> bool:
        return is_open(hour_s, "20:00", "06:00", "Europe/Berlin")

    history = [HourlyIntake(hour, 1, 10, 1000 if is_night(hour) else 5000, 7) for hour in hours]
    found = rates(history, is_night, float(now))
    night, day, whole = found["night"], found["day"], found["all"]
    assert night is not None
    assert day is not None
    assert whole is not None
    assert night["bytes_per_hour"] == pytest.approx(1007)
    assert day["bytes_per_hour"] == pytest.approx(5007)
    assert day["studies_per_hour"] == pytest.approx(1)
    assert day["bytes_per_object"] == pytest.approx(500)
    assert whole["bytes_per_hour"] == pytest.approx((11 * 1007 + 14 * 5007) / 25)
    assert rates([], is_night, float(now)) == {"all": None, "day": None, "night": None}


def test_days_of_space_are_made_once_a_cache_is_amber() -> None:
    """B13: not only until the level is left."""
    off = thresholds_of(Thresholds(keep_days=10), tier(), is_night=False)
    assert off.keep_h == 240
