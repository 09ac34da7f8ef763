"""Which studies leave, in which order, by which rule: pure functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raypacs.autopilot.staging import SeriesShare, StagingRule
from raypacs.policy.eviction import Candidate, choose, choose_page, passes, shares
from raypacs.policy.levels import Level
from raypacs.policy.staging import copying, deleting, matches

NOW = 1_700_000_000.0
DAY = 86_400.0
DELETE, COPY = "delete from cache", "copy to library"


def one(number: int = 0, **more: Any) -> Candidate:
    base = Candidate(f"1.{number}", 100, NOW - 30 * DAY, NOW - 40 * DAY, proven=("lib1",))
    return replace(base, **more)


def rule(**more: Any) -> StagingRule:
    return StagingRule(**{"name": "r", "action": DELETE, "level": "amber", **more})


class TestRules:
    def test_deleting_on_green_says_why_not(self) -> None:
        with pytest.raises(ValidationError, match="nothing is ever evicted then"):
            rule(level="green")
        assert rule(level="green", action=COPY)

    @pytest.mark.parametrize("hours", [-1, 596_524])
    def test_hours_have_bounds(self, hours: int) -> None:
        with pytest.raises(ValidationError):
            rule(hours=hours)
        assert rule(hours=596_523)

    @pytest.mark.parametrize(
        ("asked", "study", "matched"),
        [
            ({}, {}, True),
            ({"status": "approved"}, {"status": "new", "accessed_s": NOW}, False),
            ({"status": "approved"}, {"status": "approved", "accessed_s": NOW}, True),
            # Ignored once it was idle for seven days.
            ({"status": "approved"}, {"status": "new", "accessed_s": NOW - 7 * DAY}, True),
            ({"status": "approved"}, {"status": "new", "accessed_s": NOW - 7 * DAY + 1}, False),
            ({"exported": "must be"}, {"exported": True}, True),
            ({"exported": "must be"}, {}, False),
            ({"exported": "must not be"}, {"exported": True}, False),
            ({"exported": "must not be"}, {}, True),
            ({"his_verified": "must be"}, {}, False),
            ({"his_verified": "must be"}, {"his_verified": True}, True),
            ({"hours": 24}, {"created_s": NOW - DAY}, True),
            ({"hours": 24}, {"created_s": NOW - DAY + 1}, False),
            ({"hours": 596_523}, {"created_s": 0.0}, False),
        ],
    )
    def test_options(self, asked: dict[str, Any], study: dict[str, Any], matched: bool) -> None:
        assert matches(rule(**asked), one(**study), NOW) is matched

    def test_without_a_rule_that_deletes_the_built_in_ones_hold(self) -> None:
        copy = rule(action=COPY, level="green")
        assert [one.name for one in deleting([copy], Level.AMBER)] == ["built-in, amber"]
        assert deleting([copy], Level.GREEN) == ()
        assert deleting([rule(level="red")], Level.AMBER) == ()
        assert copying([copy, rule(action=COPY, level="red")], Level.AMBER) == (copy,)


class TestChoose:
    def test_in_their_order_until_it_is_enough(self) -> None:
        found = choose([one(n) for n in range(5)], (), Level.AMBER, 150, NOW)
        assert [choice.candidate.study_uid for choice in found] == ["1.0", "1.1"]
        assert {choice.rule for choice in found} == {"built-in, amber"}

    def test_nothing_on_green_nor_without_need(self) -> None:
        assert choose([one()], (), Level.GREEN, 10**9, NOW) == []
        assert choose([one()], (), Level.RED, 0, NOW) == []
        assert passes(Level.GREEN) == ()

    def test_amber_rules_on_all_before_red_ones_on_any(self) -> None:
        rules = [rule(name="red", level="red"), rule(name="amber", exported="must be")]
        studies = [one(0), one(1, exported=True), one(2)]
        found = choose(studies, rules, Level.RED, 200, NOW)
        told = [(choice.candidate.study_uid, choice.rule) for choice in found]
        assert told == [("1.1", "amber"), ("1.0", "red")]
        assert len(choose(studies, rules, Level.AMBER, 200, NOW)) == 1
        assert len(choose(studies, rules, Level.RED, 300, NOW, red_need_bytes=100)) == 1

    @pytest.mark.parametrize(
        ("study", "goes"),
        [
            ({"proven": ()}, False),
            ({"proven": (), "archiving": False}, True),
            ({"proven": (), "archiving": False, "committed": True}, False),
            ({"committed": True}, True),
            ({"busy": "PREPARE is to be done"}, False),
        ],
    )
    def test_what_may_not_go(self, study: dict[str, Any], goes: bool) -> None:
        assert bool(choose([one(**study)], (), Level.RED, 1, NOW)) is goes

    def test_web_caches_have_no_rules_and_need_no_proof(self) -> None:
        never = [rule(hours=596_523)]
        found = choose([one(proven=())], never, Level.RED, 1, NOW, is_web=True)
        assert [choice.rule for choice in found] == ["web threshold"]

    def test_shares_keep_series_while_there_is_room(self) -> None:
        room = shares([SeriesShare(name="k", percent=10)], 200, 5)
        assert room.room_bytes == 15
        studies = [one(n, kept_bytes=10) for n in range(2)]
        found = choose_page(studies, (), Level.AMBER, 190, NOW, room_bytes=15)
        assert [(choice.size_bytes, choice.keeps) for choice in found] == [(90, True), (100, False)]
        only = choose_page([one(kept_bytes=100)], (), Level.AMBER, 1, NOW, room_bytes=500)
        assert [choice.keeps for choice in only] == [False]

    @given(
        st.lists(
            st.builds(
                one,
                st.integers(0, 10**6),
                size_bytes=st.integers(1, 1000),
                proven=st.sampled_from([(), ("lib1",)]),
                archiving=st.booleans(),
                committed=st.booleans(),
                exported=st.booleans(),
                busy=st.sampled_from(["", "x"]),
                kept_bytes=st.integers(0, 300),
            ),
            max_size=30,
            unique_by=lambda study: study.study_uid,
        ),
        st.sampled_from(list(Level)),
        st.integers(0, 10_000),
        st.sampled_from([(), (rule(exported="must be"), rule(level="red", hours=24))]),
    )
    def test_never_more_than_needed_and_never_what_may_not(
        self, studies: list[Candidate], level: Level, need: int, rules: tuple[StagingRule, ...]
    ) -> None:
        found = choose(studies, rules, level, need, NOW, room_bytes=500)
        assert len({choice.candidate.study_uid for choice in found}) == len(found)
        assert all(choice.candidate.may_go and not choice.candidate.busy for choice in found)
        assert sum(choice.size_bytes for choice in found[:-1]) < max(need, 1)
        assert found == [] or level is not Level.GREEN
