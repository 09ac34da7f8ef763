"""The archive window: over midnight, within a day, and when the clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypacs import moments
from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.policy import window

NIGHT = ("20:00", "06:00", "Europe/Berlin")


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-01-10T19:59:59", False),
        ("2026-01-10T20:00:00", True),
        ("2026-01-10T23:59:59", True),
        ("2026-01-11T00:00:00", True),
        ("2026-01-11T05:59:59", True),
        ("2026-01-11T06:00:00", False),
        ("2026-01-11T12:00:00", False),
    ],
)
def test_over_midnight(moment: str, is_open: bool) -> None:
    assert window.is_open(at(moment), *NIGHT) is is_open


def test_within_a_day() -> None:
    day = ("09:00", "17:30", "UTC")
    assert [window.is_open(at(f"2026-05-01T{t}", "UTC"), *day) for t in ("08:59", "09:00")] == [
        False,
        True,
    ]
    assert window.is_open(at("2026-05-01T17:29", "UTC"), *day)
    assert not window.is_open(at("2026-05-01T17:30", "UTC"), *day)


def test_always() -> None:
    always = ("00:00", "00:00", "UTC")
    assert window.is_open(1.7e9, *always)
    assert window.closes_at(1.7e9, *always) == float("inf")
    assert window.next_open(1.7e9, *always) == 1.7e9
    assert window.length_s(1.7e9, *always) == 86400


def test_opens_and_closes() -> None:
    noon = at("2026-01-10T12:00")
    assert window.next_open(noon, *NIGHT) == at("2026-01-10T20:00")
    assert window.closes_at(noon, *NIGHT) == noon
    late = at("2026-01-10T23:00")
    assert window.next_open(late, *NIGHT) == late
    assert window.closes_at(late, *NIGHT) == at("2026-01-11T06:00")
    assert window.opened_at(late, NIGHT[0], NIGHT[2]) == at("2026-01-10T20:00")


def test_a_night_has_nine_ten_or_eleven_hours() -> None:
    # Clocks in Berlin go forward on 29 March 2026 and back on 25 October 2026.
    for noon, hours in (("2026-03-28", 9), ("2026-03-27", 10), ("2026-10-24", 11)):
        assert window.length_s(at(f"{noon}T12:00"), *NIGHT) == hours * 3600


def test_an_hour_that_is_skipped() -> None:
    # From 02:00 to 03:00 there is no local time: 02:30 is 03:00, the moment of the change.
    change = datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()
    assert not window.is_open(change - 1, "02:30", "06:00", "Europe/Berlin")
    assert window.is_open(change, "02:30", "06:00", "Europe/Berlin")
    assert window.is_open(change - 1, "20:00", "02:30", "Europe/Berlin")
    assert not window.is_open(change, "20:00", "02:30", "Europe/Berlin")


def test_an_hour_that_is_repeated() -> None:
    opens, again = (at("2026-10-25T02:30", fold=fold) for fold in (0, 1))
    assert again - opens == 3600
    assert window.next_open(opens - 60, "02:30", "06:00", "Europe/Berlin") == opens
    for moment in (opens, opens + 1800, again, again + 60):
        assert window.is_open(moment, "02:30", "06:00", "Europe/Berlin")
    for moment in (opens, opens + 1900, again):
        assert not window.is_open(moment, "20:00", "02:30", "Europe/Berlin")


@settings(max_examples=200, deadline=None)
@given(
    st.floats(1.6e9, 1.9e9),
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)
def test_what_opens_closes(now: float, first: int, last: int, zone: str) -> None:
    start, end = (f"{one // 60:02}:{one % 60:02}" for one in (first, last))
    opens = window.next_open(now, start, end, zone)
    assert now <= opens <= now + 2 * 86400
    if first == last:
        return
    # Both may fall on the moment that the clocks are put forward: then there is no window.
    if window.is_open(opens, start, end, zone):
        closes = window.closes_at(opens, start, end, zone)
        assert opens < closes <= opens + 26 * 3600
        assert not window.is_open(closes, start, end, zone)
        assert window.is_open(closes - 1, start, end, zone)


@pytest.mark.parametrize("text", ["24:00", "7", "6:60", "20.00", "", "noon"])
def test_no_time_of_day(text: str) -> None:
    with pytest.raises(ValueError, match="HH:MM"):
        moments.time_of(text)


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "../etc/passwd", "CEST+7"])
def test_no_time_zone(name: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        moments.zone_of(name)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("window_start", "25:00", "HH:MM"),
        ("window_end", "6", "HH:MM"),
        ("time_zone", "Europe/Atlantis", "IANA"),
        ("form", "jpeg", "as received"),
        ("statuses", ["lost"], "approved"),
        ("items", 0, "greater than"),
        ("window", "20-6", "not permitted"),
    ],
)
def test_settings_say_what_is_wrong(key: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ArchiveSettings.model_validate({key: value})
