"""Why a copy of a study may not be evicted: what the index writes beside each copy.

The order of eviction then needs no look at studies that may not go. Whoever evicts asks once more,
in the transaction that writes the delete intents.
"""

from __future__ import annotations

from dataclasses import dataclass

FREE = ""
PINNED = "pinned"
UNARCHIVED = "unarchived"
ADOPTED = "adopted"
LIBRARY = "library"
UNJUDGED = "unjudged"
KEPT = "kept"
"""What a series share keeps of a study that left (B12): it goes when the share is full."""

HOLDS = (FREE, PINNED, UNARCHIVED, ADOPTED, LIBRARY, UNJUDGED, KEPT)


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of a study. ``proven``: library copies of its current generation."""

    proven: int
    archiving: bool
    committed: bool
    pinned_until_s: float


def hold(study: Held, role: str, now: float, *, adopted: bool = False, kept: bool = False) -> str:
    """Return why a copy on a tier of ``role`` is held, '' where it may go."""
    if role == "library":
        return LIBRARY
    if adopted:
        return ADOPTED
    if study.pinned_until_s > now:
        return PINNED
    if role == "web" or study.proven or may_lose(study):
        return KEPT if kept else FREE
    return UNARCHIVED


def may_lose(study: Held) -> bool:
    """Whether the study may be evicted without any library copy (FEATURES B6)."""
    return not study.archiving and not study.committed
