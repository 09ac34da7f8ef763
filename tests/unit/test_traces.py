"""Synthetic arrivals: the same for the same seed, and with what makes them like real ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.traces import HELD_OUT, TUNING, arrivals, expected

SITE = TUNING[0]


def test_the_same_seed_gives_the_same_arrivals() -> None:
    one, same, other = (arrivals(SITE, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.at_s, same.at_s)
    assert np.array_equal(one.size_bytes, same.size_bytes)
    assert len(other.at_s) != len(one.at_s)
    assert (np.diff(one.at_s) >= 0).all()


def test_hours_sum_up_studies() -> None:
    trace = arrivals(SITE, 2, 1)
    samples = trace.intake()
    assert sum(hour.size_bytes for hour in samples) == trace.size_bytes.sum()
    assert sum(hour.studies for hour in samples) == len(trace.at_s)
    assert trace.by_hour().sum() == pytest.approx(trace.size_bytes.sum())


def test_what_is_drawn_from_is_what_comes_on_average() -> None:
    site = replace(SITE, outage_week=99.0)
    came = np.mean([arrivals(site, 1, seed).by_hour().sum() for seed in range(8)])
    drawn = np.mean([expected(site, 1, seed).sum() for seed in range(8)])
    assert came == pytest.approx(drawn, rel=0.1)


def test_an_outage_holds_back_and_catches_up() -> None:
    site = replace(SITE, outage_week=1.35, outage_hours=8, catch_up_hours=4)
    calm = arrivals(replace(site, outage_week=99.0), 2, 5).by_hour()
    hit = arrivals(site, 2, 5).by_hour()
    begin = round(1.35 * 168)
    assert hit[begin + 1 : begin + 7].sum() == 0
    assert hit.sum() == pytest.approx(calm.sum())
    assert hit[begin + 8 : begin + 12].sum() > 2 * calm[begin + 8 : begin + 12].sum()


def test_a_modality_is_added_and_holidays_are_like_sundays() -> None:
    week = expected(SITE, 13, 1).reshape(13, 7, 24).sum(axis=2)
    assert week[11:, 1].mean() > 1.1 * week[9:11, 1].mean()
    friday = week[6, 4]  # Good Friday
    assert friday < 0.7 * week[5, 4]


def test_sites_for_tuning_and_for_measuring_are_others() -> None:
    assert not {site.name for site in TUNING} & {site.name for site in HELD_OUT}
