"""What is a time and what is none."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from raypacs import moments


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("1700000000", 1.7e9),
        (" 2026-03-01T22:00 ", 1772402400.0),
        ("2026-03-01T22:00:00Z", 1772402400.0),
        ("2026-03-01T23:00:00+01:00", 1772402400.0),
        ("9999-12-31T23:59:59Z", 253_402_300_799.0),
    ],
)
def test_times(value: Any, seconds: float) -> None:
    assert moments.seconds_of(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "nan", "inf", "-inf", "-1", "1e400", "1700000000000", "1969-12-31T00:00"),
        *(-1, 1.7e12, math.inf, math.nan, 10**400, moments.END_S),
        *("0001-01-01T00:00+14:00", True, None, [], [5], {}),
    ],
)
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match=r"neither ISO 8601 nor seconds|not in seconds"):
        moments.seconds_of(value)


def test_without_a_zone_it_is_that_of_who_asks() -> None:
    east = timezone(timedelta(hours=2))
    assert moments.seconds_of("2026-03-01T22:00", east) == 1772402400.0 - 7200
    local = datetime(2026, 3, 1, 22).timestamp()
    assert moments.seconds_of("2026-03-01T22:00", None) == local


def test_a_time_that_cannot_be_is_told_all_the_same() -> None:
    assert moments.told(0) == "1970-01-01T00:00:00+00:00"
    assert moments.told(math.inf) == "inf s"
    assert moments.told(1.7e12) == "1700000000000.0 s"
    assert moments.told(-5.0) == "-5.0 s"
