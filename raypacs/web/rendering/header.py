"""Values of a parsed header, whatever is wrong with them: a damaged element counts as absent."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset, Sequence
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

# pydicom parses an element when it is first asked for.
_UNREADABLE = (
    *(BytesLengthException, ValueError, TypeError, KeyError, AttributeError),
    *(NotImplementedError, OverflowError, OSError),
)


def value(header: Dataset, key: str | tuple[int, int]) -> Any:
    """Return the value of an element by keyword or tag; None if absent, empty or unreadable."""
    try:
        found = header[key].value if key in header else None
    except _UNREADABLE:
        return None
    return None if found == "" else found


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence, [] if there is none."""
    found = value(header, keyword)
    return list(found) if isinstance(found, Sequence) else []


def integers(found: Any) -> list[int]:
    """Return a numeric value as a list, [] if it is none."""
    if found is None or isinstance(found, bytes):
        return []
    values = found if isinstance(found, list | tuple | MultiValue) else [found]
    try:
        return [int(one) for one in values]
    except (TypeError, ValueError, OverflowError):
        return []


def number(header: Dataset, keyword: str) -> float | None:
    """Return the first value of an element as a number; None if it is none."""
    found = value(header, keyword)
    if isinstance(found, MultiValue | list | tuple):
        found = found[0] if found else None
    try:
        result = float(found) if found is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
    return result if result is not None and abs(result) < float("inf") else None


def functional_group(header: Dataset, frame: int, sequence: str) -> Dataset | None:
    """Return a functional group's item of a frame (from 1), or of all frames (PS3.3 C.7.6.16)."""
    per_frame = value(header, "PerFrameFunctionalGroupsSequence")
    if isinstance(per_frame, Sequence) and len(per_frame) >= frame:
        found = items(per_frame[frame - 1], sequence)
        if found:
            return found[0]
    shared = items(header, "SharedFunctionalGroupsSequence")
    found = items(shared[0], sequence) if shared else []
    return found[0] if found else None


def is_little(header: Dataset) -> bool:
    """Whether words in byte strings of the header are little endian."""
    return header.original_encoding[1] is not False
