"""Search beside a reference that knows no index: every study is looked at, in plain Python."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raypacs.index.engine import open_engine
from raypacs.index.listing import terms_of
from raypacs.index.reader import IndexReader
from raypacs.index.schema import studies, study_terms, study_totals
from raypacs.index.writer import IndexWriter
from raypacs.records import WorkResult
from tests.factories import instance_record, prepared_series

T = 1_700_000_000.0
SURNAMES = ("doe", "DOE", "Dorn", "Müller", "mul", "o", "Do_e", "D%e", "山田", "Yamada")
GIVEN = ("jane", "John", "J", "", "太郎", "Anna Maria")
DATES = ("", "20240101", "20240102", "20240131", "20231231", "2024.01.31", "unknown", "2024")
MODALITIES = ("CT", "MR", "SR", "C", "")


@dataclass
class Study:
    """What the reference knows of a study."""

    uid: str
    name: str
    date: str
    patient_id: str
    accession: str
    modalities: set[str] = field(default_factory=set)


def _name(chance: random.Random) -> str:
    groups = chance.choices((1, 2, 3), (6, 1, 1))[0]
    return "=".join(f"{chance.choice(SURNAMES)}^{chance.choice(GIVEN)}" for _ in range(groups))


def _studies(chance: random.Random, count: int) -> list[Study]:
    return [
        Study(
            uid=f"1.2.{number}",
            name="" if number % 17 == 0 else _name(chance),
            date=chance.choice(DATES),
            patient_id=f"P{chance.randrange(9)}",
            accession=f"A{chance.randrange(12)}",
            modalities=set(chance.choices(MODALITIES, k=chance.randint(1, 3))),
        )
        for number in range(count)
    ]


def _register(writer: IndexWriter, some: list[Study]) -> None:
    for study in some:
        told = {
            "PatientName": study.name,
            "StudyDate": study.date,
            "PatientID": study.patient_id,
            "AccessionNumber": study.accession,
        }
        writer.register(
            [
                instance_record(
                    study=study.uid,
                    series=f"{study.uid}.{modality or 'none'}",
                    modality=modality,
                    attributes={key: text for key, text in told.items() if text},
                )
                for modality in sorted(study.modalities)
            ],
            T,
        )


@dataclass
class Filled:
    """An index, and the same studies for the reference."""

    engine: sa.Engine
    writer: IndexWriter
    reader: IndexReader
    studies: list[Study]


@pytest.fixture
def filled(database_url: str) -> Iterator[Filled]:
    engine = open_engine(database_url)
    writer = IndexWriter.claim_epoch(engine, [], T)
    some = _studies(random.Random(3), 120)
    _register(writer, some)
    reader = IndexReader(database_url)
    yield Filled(engine, writer, reader, some)
    reader.close()
    engine.dispose()


# The reference (PS3.4 section C.2.2.2).


def _fold(name: str) -> str:
    return "=".join(group.rstrip("^ ") for group in name.casefold().split("="))


def _wild(pattern: str, text: str) -> bool:
    regex = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    return re.fullmatch(regex, text, re.DOTALL) is not None


def _name_matches(pattern: str, name: str) -> bool:
    folded, pattern = _fold(name), _fold(pattern)
    groups = folded.split("=") if "=" not in pattern else []
    # A wild card may reach over groups, as it always did here.
    spans = {
        "=".join(groups[first:last])
        for first in range(len(groups))
        for last in range(first + 1, len(groups) + 1)
    }
    return any(_wild(pattern, text) for text in {folded, *spans})


def _date_matches(asked: str, date: str) -> bool:
    plain = date.replace(".", "")
    if not re.fullmatch(r"\d{8}", plain):
        return False
    first, dash, last = asked.partition("-")
    return (first or "0") <= plain <= (last or "9" if dash else first)


def _matches(study: Study, params: dict[str, str]) -> bool:
    checks = {
        "PatientName": lambda text: _name_matches(text, study.name),
        "PatientID": lambda text: _wild(text, study.patient_id),
        "AccessionNumber": lambda text: _wild(text, study.accession),
        "StudyDate": lambda text: _date_matches(text, study.date),
        "StudyInstanceUID": lambda text: study.uid in text.split(","),
        "ModalitiesInStudy": lambda text: any(
            _wild(one, modality) for one in text.split(",") for modality in study.modalities - {""}
        ),
    }
    return all(checks[key](text) for key, text in params.items() if text)


def _place(study: Study) -> str:
    plain = study.date.replace(".", "")
    return plain if re.fullmatch(r"\d{8}", plain) else ""


def _reference(some: list[Study], params: dict[str, str]) -> list[str]:
    """Newest study date first, of one day the last to arrive first."""
    found = [study for study in reversed(some) if _matches(study, params)]
    return [study.uid for study in sorted(found, key=_place, reverse=True)]


PATTERNS = st.text(alphabet="doejnahmül^=*?_% 山田", min_size=1, max_size=7).filter(
    # What is nothing but padding, or all of its groups are, is no name.
    lambda text: all(_fold(text).split("="))
)
NAMES = st.one_of(
    PATTERNS,
    st.tuples(st.sampled_from(SURNAMES), st.sampled_from(GIVEN)).map("^".join),
    st.sampled_from(SURNAMES).map(lambda name: name + "*"),
    st.sampled_from(SURNAMES).map(lambda name: f"*{name[1:]}*"),
)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "PatientName": NAMES,
        "PatientID": st.sampled_from(("P1", "P*", "?1", "p1", "*")),
        "AccessionNumber": st.sampled_from(("A1", "A1*", "A?", "")),
        "StudyDate": st.sampled_from(
            ("20240101", "20240101-", "-20240101", "20240102-20240131", "19990101-20000101")
        ),
        "StudyInstanceUID": st.sampled_from(("1.2.5", "1.2.5,1.2.7", "9")),
        "ModalitiesInStudy": st.sampled_from(
            ("CT", "MR", "CT,MR", "SR,XX", "C*", "?R", "M*,CT", "C", "XX", "%")
        ),
    },
)


def test_search_finds_what_the_reference_finds(filled: Filled) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
    @given(params=QUERIES, offset=st.integers(0, 5), limit=st.integers(1, 12))
    def check(params: dict[str, str], offset: int, limit: int) -> None:
        expected = _reference(filled.studies, params)
        found = filled.reader.search_studies(params)
        assert [row["StudyInstanceUID"] for row in found] == expected
        paging = {"offset": str(offset), "limit": str(limit)}
        page = filled.reader.search_studies(params | paging)
        assert [row["StudyInstanceUID"] for row in page] == expected[offset : offset + limit]
        series = filled.reader.search_series(
            {key: text for key, text in params.items() if key != "ModalitiesInStudy"}
        )
        of_series = _reference(
            filled.studies,
            {key: text for key, text in params.items() if key != "ModalitiesInStudy"},
        )
        assert {row["StudyInstanceUID"] for row in series} == set(of_series)

    check()


def test_modalities_of_the_answer_are_those_of_the_series(filled: Filled) -> None:
    found = {row["StudyInstanceUID"]: row for row in filled.reader.search_studies({})}
    for study in filled.studies:
        expected = "\\".join(sorted(study.modalities - {""}))
        assert found[study.uid]["ModalitiesInStudy"] == expected


def _terms(engine: sa.Engine) -> set[tuple[str, int]]:
    with engine.connect() as conn:
        rows = conn.execute(sa.select(study_terms.c.term, study_terms.c.list_no))
        return {(row[0], row[1]) for row in rows}


def _terms_counted(engine: sa.Engine) -> set[tuple[str, int]]:
    columns = (studies.c.patient_name_folded, studies.c.modalities, studies.c.list_no)
    with engine.connect() as conn:
        return {
            (term, place)
            for name, modalities, place in conn.execute(sa.select(*columns))
            for term in terms_of(name, modalities)
        }


_SUMS = ("instance_count", "prepared_count", "size_bytes", "prepared_bytes")


def _totals(engine: sa.Engine) -> tuple[set[tuple], set[tuple]]:
    """Return the totals and what counting them gives, without the states of no study."""
    kept = sa.select(
        study_totals.c.state, study_totals.c.studies, *(study_totals.c[name] for name in _SUMS)
    ).where(study_totals.c.studies > 0)
    counted = sa.select(
        studies.c.state, sa.func.count(), *(sa.func.sum(studies.c[name]) for name in _SUMS)
    ).group_by(studies.c.state)
    with engine.connect() as conn:
        return (
            {tuple(row) for row in conn.execute(kept)},
            {tuple(row) for row in conn.execute(counted)},
        )


def test_terms_and_totals_follow_whatever_happens(filled: Filled) -> None:
    chance = random.Random(5)
    now = T
    for step in range(80):
        now += 20
        known = sorted(
            row["StudyInstanceUID"] for row in filled.reader.search_studies({"limit": "1000"})
        )
        action = chance.randrange(4)
        if action == 0:
            _register(filled.writer, [_grown(chance, chance.choice(known), step)])
        elif action == 1:
            new = _studies(chance, 1)[0]
            new.uid = f"1.9.{step}"
            _register(filled.writer, [new])
        elif action == 2:
            filled.writer.delete_study(chance.choice(known), now)
        else:
            _prepare(filled, now)
        assert _terms(filled.engine) == _terms_counted(filled.engine)
        kept, counted = _totals(filled.engine)
        assert kept == counted


def _grown(chance: random.Random, uid: str, step: int) -> Study:
    """Return more of a study that is there: with a name and date it may not have had."""
    modality = chance.choice(("US", "XA", "CT"))
    return Study(uid, "Later^Told", "20200202", "P1", f"A{step}", {modality})


def _prepare(filled: Filled, now: float) -> None:
    filled.writer.enqueue_due(now)
    for lease in filled.writer.lease("n1", ["PREPARE"], 2, now):
        by_series: dict[str, list] = {}
        for one in filled.reader.unprepared(lease.study_uid):
            by_series.setdefault(one.record.series_uid, []).append(one)
        packs = tuple(prepared_series(stored, lease) for stored in by_series.values())
        filled.writer.report(lease, WorkResult(packs=packs), now)


def test_a_study_that_is_told_its_date_later_moves_in_the_list(database_url: str) -> None:
    engine = open_engine(database_url)
    writer = IndexWriter.claim_epoch(engine, [], T)
    reader = IndexReader(database_url)
    first = Study("1.1", "", "", "P1", "", {"CT"})
    _register(writer, [first, Study("1.2", "Doe", "20230101", "P2", "", {"CT"})])
    assert [row["StudyInstanceUID"] for row in reader.search_studies({})] == ["1.2", "1.1"]
    first.name, first.date = "Roe^Jane", "20240101"
    first.modalities = {"MR"}
    _register(writer, [first])
    assert [row["StudyInstanceUID"] for row in reader.search_studies({})] == ["1.1", "1.2"]
    (found,) = reader.search_studies({"PatientName": "*oe^j*", "ModalitiesInStudy": "MR"})
    assert (found["StudyInstanceUID"], found["ModalitiesInStudy"]) == ("1.1", "CT\\MR")
    reader.close()
    engine.dispose()
