"""QIDO-RS (PS3.18 section 10.6): rows of the index as DICOM JSON (PS3.18 annex F)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword

from raypacs.web.services import Row, SearchParams

MOST_RESULTS = 10_000
_NOT_FUZZY = (
    "The fuzzymatching parameter is not supported. Only literal matching has been performed."
)
_CUT = "There are additional results that can be requested."
_NUMBERS = frozenset({"IS", "US", "SS", "UL", "SL", "UV", "SV"})
_DECIMALS = frozenset({"DS", "FL", "FD"})
_ONE_VALUE = frozenset({"ST", "LT", "UT", "UR"})
_NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


@lru_cache(maxsize=1024)
def _element(keyword: str) -> tuple[str, str] | None:
    """Return tag (eight hexadecimal digits) and VR of a keyword, None if it is no attribute."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        return None
    return f"{tag:08X}", dictionary_VR(tag)[:2]


def _values(vr: str, value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    if isinstance(value, list | tuple):
        return [item for one in value for item in _values(vr, one)]
    if not isinstance(value, str):
        return [value]
    parts = [value] if vr in _ONE_VALUE else value.split("\\")
    if vr == "PN":
        return [_name(part) for part in parts]
    return [_number(vr, part) if part else None for part in parts]


def _number(vr: str, text: str) -> Any:
    kind: Callable[[str], Any] | None = None
    if vr in _NUMBERS:
        kind = int
    elif vr in _DECIMALS:
        kind = float
    try:
        return kind(text) if kind is not None else text
    except ValueError:
        return text


def _name(text: str) -> dict[str, str] | None:
    groups = zip(_NAME_GROUPS, text.split("="), strict=False)
    return {group: part for group, part in groups if part} or None


def as_json(row: Mapping[str, Any], retrieve_url: str) -> dict[str, Any]:
    """Return the DICOM JSON object of one row; keys that are no DICOM keywords are left out."""
    result: dict[str, Any] = {}
    for keyword, value in row.items():
        element = _element(keyword)
        if element is None:
            continue
        tag, vr = element
        values = _values(vr, value)
        result[tag] = {"vr": vr, "Value": values} if values else {"vr": vr}
    result["00081190"] = {"vr": "UR", "Value": [retrieve_url]}
    return dict(sorted(result.items()))


def retrieve_url(root: str, row: Row) -> str:
    """Return the Retrieve URL (0008,1190) of a row: as deep as its UIDs go."""
    url = f"{root}/studies/{row['StudyInstanceUID']}"
    if row.get("SeriesInstanceUID"):
        url += f"/series/{row['SeriesInstanceUID']}"
        if row.get("SOPInstanceUID"):
            url += f"/instances/{row['SOPInstanceUID']}"
    return url


def with_one_more(params: SearchParams) -> tuple[SearchParams, int]:
    """Return parameters that ask for one result more, and how many are to be given.

    What is no number is left for the search to refuse.
    """
    text = ",".join(params.get("limit", [str(MOST_RESULTS)]))
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        return params, MOST_RESULTS
    wanted = min(int(text), MOST_RESULTS)
    return {**params, "limit": [str(wanted + 1)]}, wanted


def warnings(root: str, params: SearchParams, *, cut: bool) -> dict[str, str]:
    """Return the Warning header of a search, if any (PS3.18 sections 8.3.4.2 and 8.3.4.4)."""
    fuzzy = any(value.lower() == "true" for value in params.get("fuzzymatching", []))
    texts = [text for text, said in ((_NOT_FUZZY, fuzzy), (_CUT, cut)) if said]
    return {"Warning": ", ".join(f'299 {root}: "{text}"' for text in texts)} if texts else {}


def answer(rows: list[Row], root: str) -> bytes:
    """Return the body of a search; ``root`` is the DICOMweb root as the client sees it."""
    found = [as_json(row, retrieve_url(root, row)) for row in rows]
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
