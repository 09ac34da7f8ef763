"""Which picture stands for a series or a study."""

from __future__ import annotations

from collections.abc import Iterable

from raypacs.records import StoredInstance
from raypacs.web.places import Place

SIDE = 128
MOST_TRIES = 3
"""Pictures tried for a series, and series tried for a study, when some cannot be shown."""
# What shows a study best comes first; then any other, then what is drawn over images.
_FIRST = ("CT", "MR", "PT", "NM", "XA", "RF", "MG", "DX", "CR", "IO", "PX", "US", "IVUS")
_LAST = ("OT", "RTIMAGE", "RTDOSE", "SEG", "KO", "PR", "SR")


def middle_frame(place: Place) -> int:
    """Return the frame in the middle of an instance."""
    return (place.frames + 1) // 2


def candidates(places: Iterable[Place]) -> list[Place]:
    """Return instances with pixels, the middle one first, then others spread over the series."""
    shown = [place for place in places if place.frames > 0]
    if not shown:
        return []
    where = [len(shown) // 2, len(shown) // 4, 3 * len(shown) // 4]
    return [shown[n] for n in dict.fromkeys(where)][:MOST_TRIES]


def series_in_order(stored: Iterable[StoredInstance]) -> list[str]:
    """Return the UIDs of series with pixels, the one that shows the study best first."""
    frames: dict[str, int] = {}
    modality: dict[str, str] = {}
    for one in stored:
        record = one.record
        if record.frames > 0:
            frames[record.series_uid] = frames.get(record.series_uid, 0) + record.frames
            modality.setdefault(record.series_uid, record.modality)
    return sorted(frames, key=lambda uid: (_rank(modality[uid]), -frames[uid], uid))


def _rank(modality: str) -> int:
    if modality in _FIRST:
        return _FIRST.index(modality)
    return len(_FIRST) + (1 + _LAST.index(modality) if modality in _LAST else 0)
