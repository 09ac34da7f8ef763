"""Where new objects land and studies move to: pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypacs.policy import migration
from raypacs.policy.migration import Lying
from raypacs.policy.placement import TierRoom, choose, ranked

A = TierRoom("a", "image", 1, 100)
B = TierRoom("b", "image", 1, 300)
C = TierRoom("c", "image", 2, 1000)
D = TierRoom("d", "image", 3, 5000)
WEB = TierRoom("w", "web", 1, 9000)
EVERY = (WEB, D, C, B, A)


class TestLanding:
    def test_lowest_order_then_most_free(self) -> None:
        assert ranked(EVERY, role="image") == ("b", "a", "c", "d")
        assert choose(EVERY, role="image", need_bytes=200) == "b"
        assert choose(EVERY, role="image", need_bytes=400) == "c"
        assert choose(EVERY, role="image", need_bytes=10_000) is None

    def test_a_study_stays_together_while_there_is_room(self) -> None:
        assert ranked(EVERY, role="image", held_by=("a",))[0] == "a"
        full = (replace(A, available_bytes=0), B, C)
        assert ranked(full, role="image", held_by=("a",)) == ("b", "c", "a")

    @pytest.mark.parametrize("how", ["read_only", "draining"])
    def test_what_takes_nothing_new_is_left_out(self, how: str) -> None:
        tiers = (A, replace(B, **{how: True}), C)
        assert ranked(tiers, role="image") == ("a", "c")
        assert choose(tiers, role="image", need_bytes=1) == "a"

    def test_what_is_away_is_tried_last(self) -> None:
        assert ranked((A, replace(B, reachable=False), C), role="image") == ("a", "c", "b")


class TestMoving:
    def test_to_the_next_later_tier_with_room(self) -> None:
        def to(need_bytes: int, later_than: int | None = 1) -> str | None:
            return migration.target(
                EVERY, held={"a": 10}, leaving=["a"], need_bytes=need_bytes, later_than=later_than
            )

        assert to(500) == "c"
        assert to(2000) == "d"
        assert to(9000) is None
        assert to(200, None) == "b"  # drained: an earlier or equal one will do

    def test_where_most_of_it_lies_already(self) -> None:
        found = migration.target(
            EVERY, held={"a": 10, "d": 400}, leaving=["a"], need_bytes=410, later_than=None
        )
        assert found == "d"

    def test_sources_are_urgent_tiers_with_a_later_one(self) -> None:
        levels = {"a": 1, "b": 2, "d": 2}
        assert [one.name for one in migration.sources(EVERY, levels, 1)] == ["b", "a"]
        assert [one.name for one in migration.sources(EVERY, levels, 2)] == ["b"]
        assert migration.sources(EVERY, levels, None) == []
        only = (A, replace(C, draining=True))
        assert migration.sources(only, {"a": 2}, 1) == []

    def test_enough_and_no_more(self) -> None:
        lying = [Lying(str(number), 40) for number in range(9)]
        assert len(migration.enough(lying, 100, 9)) == 3
        assert len(migration.enough(lying, 100, 2)) == 2
        assert migration.enough(lying, 0, 9) == []

    def test_some_is_left_free(self) -> None:
        assert migration.kept_free(1000, 10_000, 0.05) == 500
        assert migration.kept_free(100, 10_000, 0.05) == 0
