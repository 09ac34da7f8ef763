"""QIDO-RS searches (PS3.18 section 10.6) as parameterised SQL.

Parameters come as sent: DICOM keyword or eight-digit tag to a value or a list of values, with
``limit`` and ``offset``. Matching follows PS3.4 section C.2.2.2: single value, UID list, ``*`` and
``?``, date and time ranges; an empty value matches everything. Person names match in any case and
in any of their component groups. Keys that are not indexed are ignored, as are ``includefield``
and ``fuzzymatching``: every known attribute is returned, and those that every answer has.

Studies come in the order of the list (``listing``): newest study date first, of one day the last
to arrive first. A search walks that list, or the terms that lead along it, only as far as its
page goes, so that it takes as long among a million studies as among ten thousand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from pydicom.datadict import keyword_for_tag

from raypacs.errors import InvalidQuery
from raypacs.index import listing
from raypacs.index.attributes import (
    DATES,
    PERSON_NAMES,
    SERIES_KEYWORDS,
    STUDY_KEYWORDS,
    TIMES,
    fold_name,
    integer,
)
from raypacs.index.rows import Row, instance_row, series_row, study_row
from raypacs.index.schema import instances, series, studies, study_terms

Params = Mapping[str, str | Sequence[str]]

MAX_LIMIT = 10_001
"""One more than the web edge gives, by which it knows that there are more."""
# Values of a list that are each looked for by their term.
_MOST_ALTERNATIVES = 8
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_INSTANCE_JSON = frozenset(("ContentDate", "ContentTime"))

# Few studies have the same one: found by their own index.
_SINGLED_OUT = ("StudyInstanceUID", "PatientID", "AccessionNumber")

_STUDY_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    "StudyInstanceUID": studies.c.study_uid,
    "PatientID": studies.c.patient_id,
    "PatientName": studies.c.patient_name_folded,
    "StudyDate": studies.c.study_date,
    "AccessionNumber": studies.c.accession_number,
    "NumberOfStudyRelatedSeries": studies.c.series_count,
    "NumberOfStudyRelatedInstances": studies.c.instance_count,
}
_SERIES_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    "SeriesInstanceUID": series.c.series_uid,
    "Modality": series.c.modality,
    "SeriesNumber": series.c.series_number,
    "NumberOfSeriesRelatedInstances": series.c.instance_count,
}
_INSTANCE_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    "SOPInstanceUID": instances.c.sop_instance_uid,
    "SOPClassUID": instances.c.sop_class_uid,
    "AvailableTransferSyntaxUID": instances.c.transfer_syntax_uid,
    "InstanceNumber": instances.c.instance_number,
    "Rows": instances.c.rows,
    "Columns": instances.c.columns,
    "NumberOfFrames": instances.c.frames,
    "BitsAllocated": instances.c.bits_allocated,
    "BitsStored": instances.c.bits_stored,
}


_INSTANCE_KEYWORDS = _INSTANCE_COLUMNS.keys() | _INSTANCE_JSON


def search_studies(conn: sa.Connection, params: Params) -> list[Row]:
    """Return matching studies in the order of the list. Raises InvalidQuery."""
    conditions, limit, offset = _parsed(params, "studies")
    walks = _walks(conn, params)
    found: dict[int, sa.RowMapping] = {}
    for terms in walks:
        query = _walked(terms, _places(params)).where(*conditions)
        # The page of each walk may be all of the answer's.
        skipped, page = (offset, limit) if len(walks) == 1 else (0, offset + limit)
        rows = conn.execute(query.limit(page).offset(skipped)).mappings()
        found |= {row["list_no"]: row for row in rows}
    places = sorted(found, reverse=True)
    if len(walks) > 1:
        places = places[offset : offset + limit]
    return [
        {
            **study_row(found[place]),
            "ModalitiesInStudy": found[place]["modalities"].strip("\\"),
        }
        for place in places
    ]


def search_series(conn: sa.Connection, params: Params) -> list[Row]:
    """Return matching series with their study's attributes. Raises InvalidQuery."""
    joined = series.join(studies, studies.c.study_uid == series.c.study_uid)
    query = (
        sa.select(*_labelled(studies, series))
        .select_from(joined)
        .order_by(series.c.study_uid, series.c.series_number, series.c.series_uid)
    )
    conditions, limit, offset = _parsed(params, "series")
    conditions += _leading(conn, params)
    rows = conn.execute(query.where(*conditions).limit(limit).offset(offset)).mappings()
    return [_series_found(_part(row, "studies"), _part(row, "series")) for row in rows]


def search_instances(conn: sa.Connection, params: Params) -> list[Row]:
    """Return matching instances with series' and study's attributes. Raises InvalidQuery."""
    joined = instances.join(
        series,
        sa.and_(
            series.c.study_uid == instances.c.study_uid,
            series.c.series_uid == instances.c.series_uid,
        ),
    ).join(studies, studies.c.study_uid == instances.c.study_uid)
    query = (
        sa.select(*_labelled(studies, series, instances))
        .select_from(joined)
        .order_by(
            instances.c.study_uid,
            instances.c.series_uid,
            instances.c.instance_number,
            instances.c.sop_instance_uid,
        )
    )
    conditions, limit, offset = _parsed(params, "instances")
    conditions += _leading(conn, params)
    rows = conn.execute(query.where(*conditions).limit(limit).offset(offset)).mappings()
    return [
        _instance_found(*(_part(row, table) for table in ("studies", "series", "instances")))
        for row in rows
    ]


def _series_found(study: Row, one: Row) -> Row:
    return {**study_row(study), **series_row(one, study)}


def _instance_found(study: Row, one: Row, instance: Row) -> Row:
    return {**_series_found(study, one), **instance_row(instance, one, study)}


def sealed_series(conn: sa.Connection, params: Params) -> Iterator[tuple[Row, Row]]:
    """Yield (study, series) of every sealed series that the keys above instances match, in order.

    Limit and offset do not count here. Raises InvalidQuery.
    """
    conditions, _, _ = _parsed(params, "series")
    query = (
        sa.select(*_labelled(studies, series))
        .select_from(series.join(studies, studies.c.study_uid == series.c.study_uid))
        .where(series.c.manifest_path != "", *conditions, *_leading(conn, params))
        .order_by(series.c.study_uid, series.c.series_uid)
    )
    for row in conn.execute(query).mappings():
        yield _part(row, "studies"), _part(row, "series")


def instance_keys(params: Params) -> dict[str, str]:
    """Return the keys that only instances have, by keyword; neither limit nor offset."""
    found = {_keyword(name): _text(value) for name, value in params.items()}
    return {key: text for key, text in found.items() if key in _INSTANCE_KEYWORDS}


def page(params: Params) -> tuple[int, int]:
    """Return (limit, offset). Raises InvalidQuery."""
    _, limit, offset = _parsed(params, "instances")
    return limit, offset


def asks(params: Params, *keywords: str) -> bool:
    """Whether one of the keys is asked for."""
    return any(_asked(params, keyword) for keyword in keywords)


def _labelled(*tables: sa.Table) -> list[sa.Label[Any]]:
    """Name joined columns ``table.column``, as several tables have columns of one name."""
    return [column.label(f"{table.name}.{column.name}") for table in tables for column in table.c]


def _part(row: sa.RowMapping, table: str) -> Row:
    prefix = f"{table}."
    return {
        str(key)[len(prefix) :]: value for key, value in row.items() if str(key).startswith(prefix)
    }


def _parsed(params: Params, level: str) -> tuple[list[sa.ColumnElement[bool]], int, int]:
    """Return conditions, limit and offset."""
    limit, offset = MAX_LIMIT, 0
    conditions = []
    for name, value in params.items():
        text = _text(value)
        if name == "limit":
            limit = min(limit, _natural(name, text))
        elif name == "offset":
            offset = _natural(name, text)
        elif text and name not in ("includefield", "fuzzymatching"):
            condition = _condition(_keyword(name), text, level)
            if condition is not None:
                conditions.append(condition)
    return conditions, limit, offset


def _text(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ",".join(value)


def _asked(params: Params, keyword: str) -> str:
    """Return the text of a key, however it is written; '' where it is not asked for."""
    return next((_text(value) for name, value in params.items() if _keyword(name) == keyword), "")


def _walks(conn: sa.Connection, params: Params) -> list[Sequence[str]]:
    """Return the terms to walk by: the list itself (no term), a few terms, or alternatives.

    Keys that single out a few studies by an index of their own need no walk.
    """
    if any(_asked(params, key) and not _wild(_asked(params, key)) for key in _SINGLED_OUT):
        return [()]
    name = _terms_of_name(params)
    modalities = set(_list_of(_asked(params, "ModalitiesInStudy")))
    if _wild("".join(modalities)) or len(modalities) > _MOST_ALTERNATIVES:
        modalities = set()
    alternatives = [{listing.term_of_modality(one)} for one in sorted(modalities)] or [set()]
    return [listing.rarest(conn, name | one) for one in alternatives]


def _terms_of_name(params: Params) -> set[str]:
    """Return the terms of the patient's name that is asked for."""
    name = _asked(params, "PatientName")
    return listing.terms_of_name(fold_name(name)) if name else set()


def _walked(terms: Sequence[str], places: tuple[int, int] | None) -> sa.Select[Any]:
    """Return the studies along the first of ``terms`` that have the others, or along the list."""
    if not terms:
        place = studies.c.list_no
        query = sa.select(studies)
    else:
        first = study_terms.alias("first")
        place = first.c.list_no
        query = sa.select(studies).join_from(first, studies, studies.c.list_no == place)
        query = query.where(first.c.term == terms[0])
        for number, term in enumerate(terms[1:]):
            other = study_terms.alias(f"other_{number}")
            query = query.where(sa.exists().where(other.c.term == term, other.c.list_no == place))
    if places is not None:
        query = query.where(place.between(*places))
    return query.order_by(place.desc())


def _places(params: Params) -> tuple[int, int] | None:
    """Return the part of the list that the study dates asked for lie in; None for all of it."""
    text = _asked(params, "StudyDate")
    if not text:
        return None
    first, last = _range("StudyDate", text)
    return listing.bounds(first or "1", last or "99999999")


def _leading(conn: sa.Connection, params: Params) -> list[sa.ColumnElement[bool]]:
    """Return what leads from a patient's name to series and instances."""
    terms = listing.rarest(conn, _terms_of_name(params))[:1]
    return [
        studies.c.list_no.in_(sa.select(study_terms.c.list_no).where(study_terms.c.term == term))
        for term in terms
    ]


def _natural(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise InvalidQuery(f"{name}={text!r} is not a number of results", key=name)
    return int(text)


def _keyword(name: str) -> str:
    if _TAG.fullmatch(name):
        return keyword_for_tag(int(name, 16)) or name
    return name


def _condition(keyword: str, text: str, level: str) -> sa.ColumnElement[bool] | None:
    """Return the condition of one key, None for a key that is not indexed at this level."""
    if keyword == "ModalitiesInStudy":
        return _has_modality(text)
    column = _column(keyword, level)
    if column is None:
        return None
    if keyword in PERSON_NAMES:
        return _name_matches(column, fold_name(text))
    if keyword in DATES or keyword in TIMES:
        return _within(column, keyword, text)
    if isinstance(column.type, sa.Integer):
        number = integer(text)
        return sa.false() if number is None else column == number
    if keyword == "Modality":
        return _any_like(column, text)
    if keyword.endswith("UID"):
        return column.in_(_list_of(text))
    return _like(column, text)


def _column(keyword: str, level: str) -> sa.ColumnElement[Any] | None:
    """Return the column, or the member of the JSON attributes, that holds a keyword."""
    if keyword in _STUDY_COLUMNS:
        return _STUDY_COLUMNS[keyword]
    if keyword in STUDY_KEYWORDS:
        member = f"{keyword}Folded" if keyword in PERSON_NAMES else keyword
        return studies.c.attributes[member].as_string()
    if level == "studies":
        return None
    if keyword in _SERIES_COLUMNS:
        return _SERIES_COLUMNS[keyword]
    if keyword in SERIES_KEYWORDS:
        return series.c.attributes[keyword].as_string()
    if level == "series":
        return None
    if keyword in _INSTANCE_COLUMNS:
        return _INSTANCE_COLUMNS[keyword]
    return instances.c.attributes[keyword].as_string() if keyword in _INSTANCE_JSON else None


def _has_modality(text: str) -> sa.ColumnElement[bool]:
    named = [value for value in _list_of(text) if not _wild(value)]
    wild = [value for value in _list_of(text) if _wild(value)]
    held = [studies.c.modalities.contains(f"\\{value}\\", autoescape=True) for value in named]
    inner = series.alias("of_study")
    if wild:
        matching = _any_like(inner.c.modality, ",".join(wild))
        held.append(sa.exists().where(inner.c.study_uid == studies.c.study_uid, matching))
    return sa.or_(sa.false(), *held)


def _wild(text: str) -> bool:
    return "*" in text or "?" in text


def _list_of(text: str) -> list[str]:
    return [value for value in re.split(r"[,\\]", text) if value]


def _pattern(text: str) -> str:
    r"""Turn DICOM wild cards into those of LIKE, with ``\`` before literal ones."""
    escaped = re.sub(r"([\\%_])", r"\\\1", text)
    return escaped.replace("*", "%").replace("?", "_")


def _like(column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
    if _wild(text):
        return column.like(_pattern(text), escape="\\")
    return column == text


def _any_like(column: sa.ColumnElement[Any], text: str) -> sa.ColumnElement[bool]:
    """Match any of several values, with wild cards or without."""
    return sa.or_(sa.false(), *(_like(column, value) for value in _list_of(text)))


def _name_matches(column: sa.ColumnElement[Any], folded: str) -> sa.ColumnElement[bool]:
    """Match the whole name or one component group (alphabetic, ideographic, phonetic)."""
    whole = _like(column, folded)
    if "=" in folded:
        return whole
    group = _pattern(folded)
    return sa.or_(
        whole,
        column.like(f"{group}=%", escape="\\"),
        column.like(f"%={group}", escape="\\"),
        column.like(f"%={group}=%", escape="\\"),
    )


def _within(column: sa.ColumnElement[Any], keyword: str, text: str) -> sa.ColumnElement[bool]:
    """Match a date or time, alone or as a range (PS3.4 section C.2.2.2.5).

    A time without minutes or seconds stands for all of that hour or minute.
    """
    first, last = _range(keyword, text)
    conditions = [column != ""]
    if first:
        conditions.append(column >= first)
    if last:
        # '1230' < '123059.5' < '1230' + nines: the shorter text stands for all it begins.
        conditions.append(column <= (last if keyword in DATES else last + "999999"))
    return sa.and_(*conditions)


def _range(keyword: str, text: str) -> tuple[str, str]:
    """Return first and last of a date or time, or of a range; '' for an open end.

    Raises:
        InvalidQuery: neither a value nor a range.
    """
    plain = text.replace(".", "") if keyword in DATES else text.replace(":", "")
    form = r"\d{8}" if keyword in DATES else r"\d{2,6}(?:\.\d{1,6})?"
    found = re.fullmatch(rf"({form})?(-)?({form})?", plain, re.ASCII)
    if found is None or not (found[1] or found[3]) or (found[3] and not found[2]):
        kind = "date" if keyword in DATES else "time"
        raise InvalidQuery(f"{keyword}={text!r} is not a {kind} or a range of them", key=keyword)
    first = found[1] or ""
    return first, (found[3] or "") if found[2] else first
