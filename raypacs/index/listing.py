"""The list of studies, newest study date first, and the terms by which a search walks it.

``studies.list_no`` is the study's place: its study date (0 without one), then the order of
arrival. ``study_terms`` holds, for modalities and the three-letter runs of patient names, the
places of the studies that have them, so that a search finds the first page of what matches in
the order of the list, and stops there, however many studies there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from raypacs.index.engine import in_lists, insert
from raypacs.index.names import grams, grams_of_pattern
from raypacs.index.schema import studies, study_terms

# Places of one day; study dates have eight digits, so the product stays below 2**63.
_PER_DAY = 10**10
_MODALITY, _PATIENT_NAME = "M", "P"
# A term is the rarer the further back its so manieth study lies.
_DEPTH = 64
_WALKED_TERMS = 4


def terms_of(patient_name_folded: str, modalities: str) -> set[str]:
    """Return the terms of a study; ``modalities`` as in ``studies.modalities``."""
    found = {_PATIENT_NAME + gram for gram in grams(patient_name_folded)}
    return found | {_MODALITY + modality for modality in modalities.split("\\") if modality}


def terms_of_name(folded: str) -> set[str]:
    """Return terms that every study has whose patient name matches a folded pattern."""
    return {_PATIENT_NAME + gram for gram in grams_of_pattern(folded)}


def term_of_modality(modality: str) -> str:
    """Return the term of the studies that have a series of ``modality``."""
    return _MODALITY + modality


def date_of(text: str) -> str:
    """Return a study date as it is listed and searched: eight digits, or '' for anything else."""
    return text if len(text) == 8 and text.isascii() and text.isdecimal() else ""


def bounds(first: str, last: str) -> tuple[int, int]:
    """Return the first and last place of the days from ``first`` to ``last`` (eight digits)."""
    return int(first) * _PER_DAY, int(last) * _PER_DAY + _PER_DAY - 1


def places(conn: sa.Connection, dates: Iterable[str]) -> list[int]:
    """Return a free place for a study of each date, in the order given."""
    following: dict[str, int] = {}
    found = []
    for date in dates:
        if date not in following:
            low, high = bounds(date or "0", date or "0")
            newest = conn.execute(
                sa.select(sa.func.max(studies.c.list_no)).where(
                    studies.c.list_no.between(low, high)
                )
            ).scalar()
            # Never place 0: that is the column's default.
            following[date] = (newest or low) + 1
        found.append(following[date])
        following[date] += 1
    return found


def enlist(conn: sa.Connection, study_uids: Iterable[str]) -> None:
    """Add the terms that lead to studies; those there already stay."""
    told = [
        {"term": term, "list_no": place}
        for place, terms in _listed(conn, study_uids)
        for term in sorted(terms)
    ]
    if told:
        conn.execute(insert(conn, study_terms).on_conflict_do_nothing(), told)


def unlist(conn: sa.Connection, study_uids: Iterable[str]) -> None:
    """Take the terms of studies away; call it before their rows change or go."""
    for place, terms in _listed(conn, study_uids):
        conn.execute(
            sa.delete(study_terms).where(
                study_terms.c.term.in_(sorted(terms)), study_terms.c.list_no == place
            )
        )


def _listed(conn: sa.Connection, study_uids: Iterable[str]) -> list[tuple[int, set[str]]]:
    """Return place and terms of studies."""
    columns = (studies.c.list_no, studies.c.patient_name_folded, studies.c.modalities)
    found: list[tuple[int, set[str]]] = []
    for uids in in_lists(study_uids):
        rows = conn.execute(sa.select(*columns).where(studies.c.study_uid.in_(uids)))
        found += [(place, terms_of(name, modalities)) for place, name, modalities in rows]
    return found


def rarest(conn: sa.Connection, terms: Iterable[str]) -> Sequence[str]:
    """Return the terms to walk by, the rarest first; few, as each costs a look a study."""
    wanted = sorted(terms)
    if len(wanted) < 2:
        return wanted
    depths = [
        sa.select(
            sa.literal(term).label("term"),
            sa.select(study_terms.c.list_no)
            .where(study_terms.c.term == term)
            .order_by(study_terms.c.list_no.desc())
            .limit(1)
            .offset(_DEPTH)
            .scalar_subquery()
            .label("depth"),
        )
        for term in wanted
    ]
    # No so manieth study at all is as rare as it gets.
    found = {row.term: row.depth or 0 for row in conn.execute(sa.union_all(*depths))}
    return sorted(wanted, key=lambda term: found[term])[:_WALKED_TERMS]
