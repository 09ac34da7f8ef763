"""Range requests (RFC 9110 section 14), pure."""

from __future__ import annotations

import re
from typing import Literal

_ONE = re.compile(r"bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*")


def parse_range(header: str, size: int) -> tuple[int, int] | Literal["unsatisfiable"] | None:
    """Return (start, stop) of the one range asked for.

    None: no range, several, or not understood; the whole is sent then, which the RFC allows.
    'unsatisfiable': 416.
    """
    match = _ONE.fullmatch(header)
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        length = int(last)
        return (max(0, size - length), size) if length and size else "unsatisfiable"
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return "unsatisfiable"
    return start, min(int(last) + 1, size) if last else size
