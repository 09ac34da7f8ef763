"""Sources and rules on arrival: what they refuse, what they decide, and that they are lawful."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypacs import dicom
from raypacs.autopilot import conditions
from raypacs.autopilot.arrival import ANY_ORIGIN, source_of
from raypacs.compression import CompressionRule
from raypacs.config import ArrivalRule, Settings, SourceSettings, parse
from raypacs.errors import ConfigError, InvalidQuery
from raypacs.index.attributes import DATES, SERIES_KEYWORDS, STUDY_KEYWORDS
from raypacs.policy import arrival, statuses
from raypacs.policy.arrival import Facts

T = 1_700_000_000.0  # 2023-11-14
DAY = 86400.0
OFF = SourceSettings(name="off", ae_titles=("A*",), addresses=("10.1.0.0/16",), archiving=False)
ON = SourceSettings(name="on", ae_titles=("B",))
TIERS = [{"name": "image1", "role": "image", "url": "file:///i"}]


def facts(**values: Any) -> Facts:
    told: dict[str, Any] = {
        "study": {"StudyDate": "20230101", "PatientBirthDate": "20100615", "PatientSex": "F"},
        "series": [
            {"Modality": "CT", "BodyPartExamined": "CHEST", "SeriesNumber": 2},
            {"Modality": "SR", "SeriesDescription": "dose", "SeriesNumber": 99},
        ],
        "origins": [("A1", "10.1.0.1")],
        "last_received_s": T,
    }
    return Facts(**(told | values))


def is_met(now: float = T, known: Facts | None = None, **when: Any) -> bool:
    rule = ArrivalRule(name="r", when=when, priority="low")
    return not list(arrival.failures(rule, known or facts(), now))


class TestKeys:
    def test_are_those_that_the_index_keeps(self) -> None:
        assert set(conditions.STUDY_KEYS) >= STUDY_KEYWORDS
        assert set(conditions.SERIES_KEYS) >= SERIES_KEYWORDS
        assert set(dicom.SEARCH_KEYWORDS) >= STUDY_KEYWORDS | SERIES_KEYWORDS
        kept = {key for key, kind in conditions.KEYS.items() if kind == "date"}
        assert kept == DATES & conditions.KEYS.keys()

    def test_statuses_are_the_same(self) -> None:
        for status in statuses.STATUSES:
            ArrivalRule(name="r", when={"status": status}, priority="low")
        assert len(conditions._STATUSES) == len(statuses.STATUSES)


class TestConditions:
    @pytest.mark.parametrize(
        ("when", "met"),
        [
            ({"Modality": "CT"}, True),
            ({"(0008,0060)": "CT"}, True),
            ({"00080060": ["MR", "C*"]}, True),
            ({"Modality": "MR"}, False),
            ({"Modality": "CT", "BodyPartExamined": "CHEST"}, True),
            ({"Modality": "SR", "BodyPartExamined": "CHEST"}, False),  # of no one series
            ({"Modality": "CT", "SeriesNumber": "1..9"}, True),
            ({"Modality": "CT", "SeriesNumber": "3.."}, False),
            ({"StudyDate": "2023-01-01"}, True),
            ({"StudyDate": "20230101..2023-06-01"}, True),
            ({"StudyDate": "..2022-12-31"}, False),
            ({"patient_age": "..18y"}, True),
            ({"patient_age": "13y.."}, False),
            ({"study_age": "300d..1y"}, True),
            ({"study_age": "1y.."}, False),
            ({"source": "A?"}, True),
            ({"address": "10.0.0.0/8"}, True),
            ({"address": "10.2.0.0/16"}, False),
            ({"status": ["new", "dictated"]}, True),
            ({"PatientSex": "M"}, False),
            ({"PatientName": "*"}, False),  # there is none
            ({"size_bytes": "1.."}, False),
        ],
    )
    def test_hold_or_not(self, when: dict[str, Any], met: bool) -> None:
        assert is_met(**when) is met

    def test_unless(self) -> None:
        rule = ArrivalRule(name="r", unless={"Modality": "SR"}, priority="low")
        assert list(arrival.failures(rule, facts(), T)) == ["Modality is CT, SR: unless SR"]
        assert not list(arrival.failures(rule, facts(series=[{"Modality": "CT"}]), T))

    def test_mapped_addresses(self) -> None:
        assert is_met(known=facts(origins=[("A", "::ffff:10.1.2.3")]), address="10.1.0.0/16")
        assert not is_met(known=facts(origins=[("A", "")]), address="0.0.0.0/0")

    @given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.floats(0, 4e9))
    def test_whatever_senders_write_harms_nobody(
        self, date: str, number: str, text: str, now: float
    ) -> None:
        known = facts(
            study={"StudyDate": date, "PatientBirthDate": number, "PatientName": text},
            series=[{"SeriesNumber": number, "SeriesDate": text}],
            origins=[(text, number)],
        )
        rules = tuple(
            ArrivalRule(name=key, when={key: value}, priority="low")
            for key, value in (
                ("StudyDate", "2020-01-01.."),
                ("patient_age", "..18y"),
                ("study_age", "1d.."),
                ("SeriesNumber", "..7"),
                ("SeriesDate", "..2020-01-01"),
                ("address", "10.0.0.0/8"),
            )
        )
        arrival.decide(Settings(rules=rules, sources=(OFF, ON)), known, now)


class TestDecisions:
    RULES = (
        ArrivalRule(name="one", when={"Modality": "CT"}, route=("X",), keep_days=1),
        ArrivalRule(name="two", route=("X", "Y"), keep_days=5, delete_after_days=9),
        ArrivalRule(name="three", when={"Modality": "SR"}, priority="high", last=True),
        ArrivalRule(name="four", compress="copy"),
    )

    def test_the_first_that_says_something_decides_and_routes_add_up(self) -> None:
        found = arrival.decide(Settings(rules=self.RULES), facts(), T)
        assert found.as_json() == {
            "route": {"value": ["X", "Y"], "by": "rule one, two"},
            "keep_until_s": {"value": T + DAY, "by": "rule one"},
            "delete_after_s": {"value": T + 9 * DAY, "by": "rule two"},
            "priority": {"value": "high", "by": "rule three"},
        }
        told = arrival.explain(self.RULES, facts(), T)
        assert [one.decides for one in told] == [
            ("route", "keep_days"),
            ("route", "delete_after_days"),
            ("priority",),
            (),
        ]
        assert [one.asked for one in told] == [True, True, True, False]

    @given(st.permutations(range(4)), st.sampled_from(["CT", "SR", "MR"]))
    def test_explained_as_decided(self, order: list[int], modality: str) -> None:
        rules = tuple(self.RULES[one] for one in order)
        known = facts(series=[{"Modality": modality}])
        found = arrival.decide(Settings(rules=rules), known, T).effects
        names = {"keep_until_s": "keep_days", "delete_after_s": "delete_after_days"}
        by = {names.get(name, name): one.by for name, one in found.items()}
        told = arrival.explain(rules, known, T)
        for one in told:
            for action in one.decides:
                assert one.rule in by[action]
        assert {action for one in told for action in one.decides} == set(by)

    def test_rules_go_before_sources(self) -> None:
        source = SourceSettings(name="s", ae_titles=("A1",), retention_days=2, compression="copy")
        found = arrival.decide(Settings(sources=(source,)), facts(), T).as_json()
        assert found["delete_after_s"] == {"value": T + 2 * DAY, "by": "source s"}
        both = Settings(sources=(source,), rules=self.RULES[1:2])
        assert arrival.decide(both, facts(), T).effects["delete_after_s"].by == "rule two"

    def test_compression(self) -> None:
        lossy = CompressionRule(name="old", action="lossy", ratio=10, modalities=("CR",))
        first = arrival.compression_for((lossy,), "old")[0]
        assert (first.action, first.ratio, first.modalities) == ("lossy", 10, ())
        assert arrival.compression_for((lossy,), "copy")[0].action == "copy"
        assert arrival.compression_for((lossy,), "") == (lossy,)
        assert arrival.compression_for((lossy,), "gone") == (lossy,)


ORIGIN = st.sampled_from(
    [("A1", "10.1.0.1"), ("A2", "10.1.9.9"), ("A1", "10.2.0.1"), ("A1", ""), ("B", "10.1.0.1")]
)


class TestSources:
    @given(st.lists(ORIGIN, max_size=6))
    def test_archiving_is_off_only_where_every_sender_has_it_off(
        self, origins: list[tuple[str, str]]
    ) -> None:
        off = all(name.startswith("A") and peer.startswith("10.1.") for name, peer in origins)
        assert arrival.archiving_of(origins, (OFF, ON)) is not (off and bool(origins))

    @given(st.lists(ORIGIN, max_size=6), st.lists(ORIGIN, max_size=6))
    def test_a_sender_more_never_switches_it_off(
        self, some: list[tuple[str, str]], more: list[tuple[str, str]]
    ) -> None:
        if some and arrival.archiving_of(some, (OFF, ON)):
            assert arrival.archiving_of(some + more, (OFF, ON))

    def test_unknown_senders_never_match(self) -> None:
        everybody = SourceSettings(
            name="all", addresses=("0.0.0.0/0", "::/0"), ae_titles=("*",), archiving=False
        )
        assert source_of((everybody,), *ANY_ORIGIN) is None
        assert arrival.archiving_of([ANY_ORIGIN], (everybody,))
        assert arrival.archiving_of([("A1", "10.1.0.1"), ANY_ORIGIN], (everybody,))
        assert not arrival.archiving_of([("A1", "10.1.0.1")], (everybody,))
        assert arrival.archiving_of([], (everybody,))

    @given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=60))
    def test_senders_are_bounded_and_none_is_forgotten_silently(
        self, every: list[tuple[str, str]]
    ) -> None:
        found: list[list[str]] = []
        for one in every:
            found = arrival.joined(found, [one])
        assert len(found) <= arrival.MOST_ORIGINS + 1
        if list(ANY_ORIGIN) not in found:
            assert {(one[0], one[1]) for one in found} == set(every)
        assert arrival.joined(found, []) == found


def refused(**values: Any) -> str:
    with pytest.raises(ConfigError) as told:
        parse(Settings, {"tiers": TIERS, **values}, "settings")
    return str(told.value)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("rule", "why"),
        [
            ({"when": {"Modlity": "CT"}}, "did you mean 'Modality'"),
            ({"when": {"KVP": "100"}}, "the index does not keep KVP"),
            ({"when": {"(0099,0001)": "x"}}, "no tag"),
            ({"when": {"Modality": "XT"}}, "no value of Modality"),
            ({"when": {"status": "aproved"}}, "did you mean 'approved'"),
            ({"when": {"SeriesNumber": "9..1"}}, "never matches"),
            ({"when": {"SeriesNumber": "nan"}}, "not a number"),
            ({"when": {"StudyDate": "yesterday"}}, "not a date"),
            ({"when": {"patient_age": "18"}}, "not an age"),
            ({"when": {"address": "10.0.0/8"}}, "not an address"),
            ({"when": {"Modality": []}}, "an empty list"),
            ({"when": {"Modality": ""}}, "empty text"),
            ({"when": {"Modality": True}}, "neither text nor a number"),
            ({"when": {"Modality": "CT", "00080060": "MR"}}, "twice"),
            ({"when": {"Modality": "CT"}, "unless": {"Modality": ["CT", "MR"]}}, "takes away all"),
            ({"keep_days": 9, "delete_after_days": 3}, "longer than it exists"),
            ({"tier": "imag1"}, "did you mean 'image1'"),
            ({"compress": "cpy"}, "did you mean 'copy'"),
            ({"whn": {}}, "did you mean 'when'"),
        ],
    )
    def test_names_rule_and_key(self, rule: dict[str, Any], why: str) -> None:
        told = refused(rules=[{"name": "mine", "priority": "low", **rule}])
        assert why in told
        assert "mine" in told or "rules.0" in told

    def test_rules_that_do_nothing_or_are_never_asked(self) -> None:
        assert "does nothing" in refused(rules=[{"name": "r", "when": {"Modality": "CT"}}])
        rules = [{"name": "all", "last": True}, {"name": "late", "priority": "low"}]
        assert "'late' is never asked" in refused(rules=rules)
        assert "two rules" in refused(rules=[{"name": "r", "priority": "low"}] * 2)

    def test_sources(self) -> None:
        alone = {"name": "s", "ae_titles": ["X"], "archiving": False}
        assert "an AE title alone proves nothing" in refused(sources=[alone])
        subjects = {"name": "s", "ae_titles": ["X"], "tls_subjects": ["CN=x"]}
        assert "no TLS listener" in refused(sources=[subjects])
        assert "else it is everybody" in refused(sources=[{"name": "s"}])
        assert "not an address" in refused(sources=[{"name": "s", "addresses": ["x"]}])
        tier = {"name": "s", "ae_titles": ["X"], "target_tier": "image2"}
        assert "'image2'" in refused(sources=[tier])

    def test_what_was_taken_once_is_read_as_it_stands(self) -> None:
        stored = {"rules": [{"name": "r", "when": {"Gone": "x", "Modality": "XT"}}]}
        found = parse(Settings, stored, "index", {"stored": True})
        assert list(arrival.failures(found.rules[0], facts(), T)) == ["there is no key Gone"]
        again = parse(Settings, Settings(rules=TestDecisions.RULES).model_dump(mode="json"), "x")
        assert again.rules == TestDecisions.RULES


class TestStatuses:
    @given(st.sampled_from(statuses.STATUSES), st.sampled_from(statuses.STATUSES))
    def test_only_ever_raised(self, before: str, wanted: str) -> None:
        found = statuses.raised(before, wanted)
        assert statuses.STATUSES.index(found) >= statuses.STATUSES.index(before)

    @pytest.mark.parametrize("changes", [{}, {"exported": 1}, {"status": "old"}, {"state": "new"}])
    def test_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(InvalidQuery):
            statuses.checked(changes)
