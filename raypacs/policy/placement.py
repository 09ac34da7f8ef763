"""Which tier a new object goes to: the lowest order with room; of equals the one with most space.

(FEATURES C4: new studies land on tier 1, most free space of equals.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierRoom:
    """What placement needs to know of a tier."""

    name: str
    role: str
    order: int
    available_bytes: int
    read_only: bool = False
    reachable: bool = True


def choose(tiers: Iterable[TierRoom], *, role: str, need_bytes: int) -> str | None:
    """Return the name of the tier for ``need_bytes`` of new data, None where none has room."""
    fitting = [
        tier
        for tier in tiers
        if tier.role == role
        and tier.reachable
        and not tier.read_only
        and tier.available_bytes >= need_bytes
    ]
    if not fitting:
        return None
    return min(fitting, key=lambda tier: (tier.order, -tier.available_bytes, tier.name)).name
