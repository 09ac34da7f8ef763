"""Which priors are relevant: by modality, body part, age and number."""

from __future__ import annotations

from typing import Any

import pytest

from raypacs.autopilot.moving import PrefetchRule
from raypacs.policy.prefetching import MOST_PRIORS, Announced, Prior, choose

T = 1_704_153_600.0  # 2024-01-02
NEW = Announced("P1", "CT", "CHEST", T, "1.1", "20240102")


def prior(uid: str, date: str, modality: str = "CT", part: str = "CHEST") -> Prior:
    return Prior(uid, modality, part, date, T)


PRIORS = [
    prior("1.2", "20231201"),
    prior("1.3", "20230101"),
    prior("1.4", "20220101", part="HEAD"),
    prior("1.5", "20231215", modality="\\CR\\SR\\"),
    prior("1.6", "20100101"),
    prior("1.7", "20240105"),
    prior("1.1", "20240102"),
]


def chosen(announced: Announced = NEW, **rule: Any) -> list[str]:
    rules = [PrefetchRule(name="r", **rule)]
    return [one.study_uid for one in choose(announced, PRIORS, rules)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, ["1.2", "1.3"]),
        ({"number": 1}, ["1.2"]),
        ({"number": 5}, ["1.2", "1.3", "1.4"]),
        ({"number": 5, "body_part": "same"}, ["1.2", "1.3"]),
        ({"modality": ("CR",)}, ["1.5"]),
        ({"modality": "any", "number": 2}, ["1.5", "1.2"]),
        ({"modality": "any", "number": 20, "max_age_days": 40.0}, ["1.5", "1.2"]),
        ({"number": 20, "max_age_days": 10_000.0}, ["1.2", "1.3", "1.4", "1.6"]),
        ({"when_modality": ("MR",)}, []),
        ({"when_modality": ("ct", "MR")}, ["1.2", "1.3"]),
        ({"when_body_part": ("head",)}, []),
    ],
)
def test_rules(rule: dict[str, Any], expected: list[str]) -> None:
    assert chosen(**rule) == expected


def test_nobody_without_an_id_has_priors() -> None:
    assert chosen(Announced("", "CT", "CHEST", T)) == []


def test_a_study_that_is_announced_has_no_date_yet() -> None:
    assert chosen(Announced("P1", "CT", "", T)) == ["1.1", "1.2"]


def test_the_first_rule_that_wants_a_prior_names_it_and_all_of_them_are_bounded() -> None:
    many = [prior(f"2.{n}", "20230101") for n in range(100)]
    rules = [
        PrefetchRule(name="a", number=15, into="image"),
        PrefetchRule(name="b", number=20, priority="medium"),
    ]
    found = choose(NEW, many, rules)
    assert len(found) == MOST_PRIORS
    assert [one.rule for one in found] == ["a"] * 15 + ["b"] * 5
    assert [one.web for one in found] == [False] * 15 + [True] * 5
    assert len({one.study_uid for one in found}) == len(found)
