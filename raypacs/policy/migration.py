"""Which studies move between image tiers, and where to (FEATURES C4). Pure.

A study moves as one: to the tier where most of it lies already, if that takes new objects and has
room; else to the first later tier with room. From a tier that is drained it may also go to an
earlier one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from raypacs.policy.placement import TierRoom

IMAGE = "image"


class Why(StrEnum):
    """Why a study moves."""

    AGE = "age"
    LEVEL = "level"
    DRAIN = "drain"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Lying:
    """A study on a tier: how many bytes of it lie there."""

    study_uid: str
    size_bytes: int


def target(
    tiers: Iterable[TierRoom],
    *,
    held: Mapping[str, int],
    leaving: Collection[str],
    need_bytes: int,
    later_than: int | None = None,
) -> str | None:
    """Return the image tier that a study moves to, None where none has room for it.

    ``held``: bytes of it by tier; ``leaving``: tiers it must leave. ``later_than``: only tiers of
    a later order will do (None: any).
    """
    fitting = [
        tier
        for tier in tiers
        if tier.role == IMAGE
        and tier.takes_new
        and tier.name not in leaving
        and (later_than is None or tier.order > later_than)
        and tier.available_bytes >= need_bytes - held.get(tier.name, 0)
    ]
    if not fitting:
        return None
    best = min(
        fitting,
        key=lambda tier: (
            -held.get(tier.name, 0),
            tier.order,
            -tier.available_bytes,
            tier.name,
        ),
    )
    return best.name


def kept_free(available_bytes: int, capacity_bytes: int, keep_free: float) -> int:
    """Return the bytes of a tier that migration may fill."""
    return max(0, available_bytes - int(capacity_bytes * keep_free))


def sources(
    tiers: Iterable[TierRoom], levels: Mapping[str, int], at_rank: int | None
) -> list[TierRoom]:
    """Return the tiers that studies leave by level, the most urgent first.

    ``levels``: rank of each tier's level (0 green); ``at_rank``: from which rank on (None: never).
    Only tiers with a later one that takes new objects.
    """
    if at_rank is None:
        return []
    every = [tier for tier in tiers if tier.role == IMAGE]
    urgent = [
        tier
        for tier in every
        if tier.reachable
        and not tier.read_only
        and not tier.draining
        and levels.get(tier.name, 0) >= at_rank
        and any(other.order > tier.order and other.takes_new for other in every)
    ]
    return sorted(urgent, key=lambda tier: (-levels.get(tier.name, 0), tier.order, tier.name))


def enough(chosen: Iterable[Lying], need_bytes: int, most: int) -> list[Lying]:
    """Return the first of ``chosen`` that free ``need_bytes``, at most ``most`` of them."""
    taken: list[Lying] = []
    for one in chosen:
        if need_bytes <= 0 or len(taken) >= most:
            break
        taken.append(one)
        need_bytes -= one.size_bytes
    return taken
