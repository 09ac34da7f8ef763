"""What is archived, and where to (FEATURES B5, B6, B8, B13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.config import TierSettings

ARCHIVE = "ARCHIVE"
BY_ITSELF, ORDERED = "window", "order"
"""Why an item was made: by the window, or because somebody ordered it."""


@dataclass(frozen=True, slots=True)
class Archivable:
    """What is known of a study. ``proven``: libraries that have a proven copy of it as it is.

    ``archiving``: its source has it on, or it is under storage commitment (B6).
    ``created_s`` is its own: one that was inherited from another study does not count here (B7).
    ``growing``: it is not quiet yet.
    """

    study_uid: str
    archiving: bool
    created_s: float
    status: str
    his_verified: bool
    growing: bool
    proven: frozenset[str]


def libraries_of(
    tiers: Sequence[TierSettings], chosen: Sequence[str] = ()
) -> tuple[TierSettings, ...]:
    """Return the libraries to archive to: those chosen, or all, that take new objects."""
    found = [tier for tier in tiers if tier.role == "library" and tier.takes_new]
    found = [tier for tier in found if not chosen or tier.name in chosen]
    return tuple(sorted(found, key=lambda tier: (tier.order, tier.name)))


def why_not(
    study: Archivable, settings: ArchiveSettings, libraries: Sequence[TierSettings], now: float
) -> str:
    """Return why a study is not archived by itself now; '' where it is due."""
    if not libraries:
        return "there is no library"
    if not study.archiving:
        return "its source has archiving switched off"
    if all(library.name in study.proven for library in libraries):
        return "it is archived"
    if study.growing:
        return "it is still growing"
    if study.created_s > now - settings.min_age_s:
        return f"it is younger than {settings.min_age_s:g} s"
    if settings.statuses and study.status not in settings.statuses:
        return f"its status is {study.status}"
    if settings.his_verified_only and not study.his_verified:
        return "its demographics are not verified"
    return ""
