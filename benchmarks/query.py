"""Searches at ten thousand and at a million studies: a page takes as long in both.

The mix is fixed: the same kinds of question, asked about studies drawn at random (by a seed) from
the site, for a page of 25. Every question is asked through ``IndexReader.search_studies``, as the
web edge does, by one process that asks nothing else; every single ask counts. What singles out a
study or patient is asked about studies of each site. All else is asked in the same words of both
sites, and in such as fill a page on both: a site that has no more to give would be done sooner.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from benchmarks import sites
from benchmarks.figure import Figure, compare
from raypacs.index.engine import open_engine
from raypacs.index.reader import IndexReader
from raypacs.index.schema import studies
from tests.postgres import postgres_server

NAME = "query"
DESCRIPTION = "search at 10 thousand and 1 million studies: p99 of each question, on both databases"

PAGE = 25
SMALL = 10_000
LARGE = 1_000_000
RATIO = 1.5
_WARM_UP = 30
_DRAWN = 400

Study = dict[str, Any]
Params = dict[str, str]


def _prefix(study: Study) -> str:
    return study["patient_name_folded"][:3] + "*"


def _substring(study: Study) -> str:
    surname = study["patient_name_folded"].partition("^")[0]
    return f"*{surname[-3:]}*"


def _month(study: Study) -> str:
    return f"{study['study_date'][:6]}01-{study['study_date'][:6]}31"


MIX: dict[str, Callable[[Study], Params]] = {
    "patient id": lambda study: {"PatientID": study["patient_id"]},
    "name prefix": lambda study: {"PatientName": _prefix(study)},
    "name substring": lambda study: {"PatientName": _substring(study)},
    "date range": lambda study: {"StudyDate": _month(study)},
    "accession": lambda study: {"AccessionNumber": study["accession_number"]},
    "modality in study": lambda study: {"ModalitiesInStudy": study["modalities"].split("\\")[1]},
    "study UID": lambda study: {"StudyInstanceUID": study["study_uid"]},
}
# Those that few studies answer, however many there are.
_SINGLED_OUT = frozenset({"patient id", "accession", "study UID"})


@dataclass(frozen=True)
class Measured:
    """Seconds of each question, sorted."""

    seconds: list[float]
    results: float

    @property
    def p99_ms(self) -> float:
        """99th percentile in milliseconds."""
        return self.seconds[int(len(self.seconds) * 0.99)] * 1000


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure at 10,000 and ``count`` studies (default 1,000,000; quick 2,000 and 10,000)."""
    small, large = (2_000, 10_000) if quick else (SMALL, count or LARGE)
    times = 100 if quick else 400
    figures: list[Figure] = []
    urls = [sites.sqlite_site(number) for number in (small, large)]
    figures += _compared("SQLite", urls, (small, large), times)
    with postgres_server(sites.folder(), durable=True) as server:
        urls = [sites.postgresql_site(server, number) for number in (small, large)]
        figures += _compared("PostgreSQL", urls, (small, large), times)
    return figures


def _compared(database: str, urls: list[str], counts: tuple[int, int], times: int) -> list[Figure]:
    """Measure both sites by turns, so that what else the machine does hits both."""
    readers = [IndexReader(url) for url in urls]
    drawn = [_draw(url, count) for url, count in zip(urls, counts, strict=True)]
    figures = []
    for question, ask in MIX.items():
        asked = [[ask(one) for one in some] for some in drawn]
        if question not in _SINGLED_OUT:
            asked = [_filling(readers, question, asked[0])] * 2
        small, large = _measure(readers, asked, times)
        figures.append(
            compare(
                f"{database}, {question}: p99 at {counts[1]:,} ({large.results:.0f} results)",
                "ms",
                [large.p99_ms],
                beside=f"{counts[0]:,} studies ({small.results:.0f} results)",
                beside_runs=[small.p99_ms],
                at_least=1 / RATIO,
                less_is_better=True,
            )
        )
    for reader in readers:
        reader.close()
    return figures


def _filling(readers: list[IndexReader], question: str, asked: list[Params]) -> list[Params]:
    """Return those of the questions whose answer fills a page on every site.

    Raises:
        RuntimeError: there is none.
    """
    found = [one for one in asked if all(_ask(reader, one)[1] == PAGE for reader in readers)]
    if not found:
        raise RuntimeError(f"{question}: nothing fills a page of {PAGE} on both sites")
    return found


def _measure(
    readers: list[IndexReader], questions: list[list[Params]], times: int
) -> list[Measured]:
    seconds: list[list[float]] = [[] for _ in readers]
    results = [0 for _ in readers]
    for number in range(_WARM_UP + times):
        for which, reader in enumerate(readers):
            took, found = _ask(reader, questions[which][number % len(questions[which])])
            if number >= _WARM_UP:
                seconds[which].append(took)
                results[which] += found
    return [
        Measured(sorted(some), total / times) for some, total in zip(seconds, results, strict=True)
    ]


def _ask(reader: IndexReader, asked: Params) -> tuple[float, int]:
    """Return the seconds of a question, and the number of results."""
    began = time.perf_counter()
    found = reader.search_studies(asked | {"limit": str(PAGE)})
    return time.perf_counter() - began, len(found)


def _draw(url: str, count: int) -> list[Study]:
    """Return studies of the site, drawn at random, the same every time."""
    chance = random.Random(7)
    uids = [sites.study_uid(chance.randrange(count)) for _ in range(_DRAWN)]
    engine = open_engine(url, read_only=True)
    with engine.connect() as conn:
        rows = conn.execute(sa.select(studies).where(studies.c.study_uid.in_(uids))).mappings()
        found = [dict(row) for row in rows]
    engine.dispose()
    chance.shuffle(found)
    return found
