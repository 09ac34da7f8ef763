"""Nodes: what is wrong with one, and the state it is shown in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from raypacs.policy.nodes import problems, refusals, silent, state
from tests.factories import node_info

T = 1_700_000_000.0
FINE = {"left_s": 0.0, "lost_s": 0.0, "seen_s": T, "problems": [], "draining": False}


def found(tiers: tuple[str, ...] | None = ("image1", "web1"), **changes: Any) -> tuple[str, ...]:
    node = replace(node_info(), tiers=tiers, **changes)
    return problems(node, bootstrap_hash="abc", version="0.1.0", tiers=["image1", "web1"])


def test_a_node_like_the_master_has_no_problems() -> None:
    assert found() == ()


@pytest.mark.parametrize("changes", [{"bootstrap_hash": "other"}, {"version": "0.0.9"}])
def test_another_configuration_or_version_is_refused(changes: dict[str, str]) -> None:
    (problem,) = found(**changes)
    assert refusals([problem]) == (problem.removeprefix("refused: "),)
    assert next(iter(changes.values())) in problem


def test_a_missing_tier_is_named_and_refuses_nothing() -> None:
    told = found(tiers=("image1",))
    assert told == ("it does not reach tier web1",)
    assert refusals(told) == ()


def test_a_node_that_has_not_looked_yet_is_not_blamed() -> None:
    assert found(tiers=None) == ()


def test_a_node_that_reaches_no_tier_is_told_of_each() -> None:
    assert found(tiers=()) == ("it does not reach tier image1", "it does not reach tier web1")


@pytest.mark.parametrize(
    ("changes", "running", "expected"),
    [
        ({}, 0, "live"),
        ({}, 3, "live"),
        ({"draining": True}, 1, "draining"),
        ({"draining": True}, 0, "drained"),
        ({"lost_s": T, "draining": True}, 0, "lost"),
        ({"seen_s": T - 31}, 0, "lost"),
        ({"seen_s": T - 29}, 0, "live"),
        ({"problems": ["refused: its version"]}, 0, "refused"),
        ({"problems": ["it does not reach tier web1"]}, 0, "live"),
        ({"left_s": T, "problems": ["refused: its version"]}, 0, "left"),
    ],
)
def test_states(changes: dict[str, Any], running: int, expected: str) -> None:
    assert state({**FINE, **changes}, running=running, lost_s=15.0, now=T) == expected


def test_silence_is_counted_from_the_last_word() -> None:
    heard = {"n1": T - 16, "n2": T - 14, "n0": T - 100}
    assert silent(heard, lost_s=15.0, now=T) == ["n0", "n1"]
