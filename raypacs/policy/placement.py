"""Which tier a new object goes to: the lowest order with room; of equals the one with most space.

(FEATURES C4: new studies land on tier 1, most free space of equals.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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
    draining: bool = False

    @property
    def takes_new(self) -> bool:
        """Whether new objects may be written there."""
        return self.reachable and not self.read_only and not self.draining


def choose(tiers: Iterable[TierRoom], *, role: str, need_bytes: int) -> str | None:
    """Return the name of the tier for ``need_bytes`` of new data, None where none has room."""
    fitting = [
        tier
        for tier in tiers
        if tier.role == role and tier.takes_new and tier.available_bytes >= need_bytes
    ]
    if not fitting:
        return None
    return min(fitting, key=_first).name


def ranked(
    tiers: Iterable[TierRoom], *, role: str, held_by: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the tiers of a role in the order in which a study's new objects try them.

    Those that take nothing new are left out. By order, then what holds the study already
    (``held_by``), so that it stays together; then the most free space. A tier that is away or
    full comes last of all, but is tried: what is known of it may be old.
    """
    fitting = [
        tier for tier in tiers if tier.role == role and not (tier.read_only or tier.draining)
    ]
    fitting.sort(
        key=lambda tier: (
            not tier.reachable or tier.available_bytes <= 0,
            tier.order,
            tier.name not in held_by,
            -tier.available_bytes,
            tier.name,
        )
    )
    return tuple(tier.name for tier in fitting)


def _first(tier: TierRoom) -> tuple[int, int, str]:
    return tier.order, -tier.available_bytes, tier.name
