"""Numbers of objects and bytes as a study's story tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def objects_of(detail: Mapping[str, Any]) -> str:
    """Return how many objects an event is about."""
    count = detail.get("objects", "?")
    return f"{count} object" if count == 1 else f"{count} objects"


def bytes_of(size: Any) -> str:
    """Return a size for people, in decimal units as disks are sold."""
    value = float(size or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
