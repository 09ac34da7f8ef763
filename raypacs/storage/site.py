"""Which site a tier belongs to: told by a marker that lies on it.

A folder whose disk is not mounted looks like an empty tier. Without the marker nobody writes there,
and nobody takes what is missing for lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from raypacs import layout
from raypacs.errors import AlreadyExists
from raypacs.storage.tier import Tier


def site_of(tier: Tier) -> str:
    """Return the id of the site whose marker the tier carries; '' without a marker.

    More than one (a tier that two sites were given) are joined by a comma, so equal nobody's.

    Raises:
        TierUnavailable: the tier cannot be listed.
    """
    return ",".join(sorted(layout.site_of(info.path) for info in tier.walk(layout.SITE_MARKERS)))


def belongs(tier: Tier, site_id: str) -> bool:
    """Whether a node of the site may use the tier: it carries the site's marker.

    A read-only tier may have none, as nobody could have left one there.

    Raises:
        TierUnavailable: the tier cannot be listed.
    """
    found = site_of(tier)
    return found == site_id or (not found and tier.settings.read_only)


def leave_marker(tier: Tier, site_id: str) -> None:
    """Make the tier this site's.

    Raises:
        TierFull, TierUnavailable: it has no marker now.
    """
    try:
        tier.put_durable(layout.site_marker(site_id), json.dumps({"site": site_id}).encode())
    except AlreadyExists:
        return  # another process was faster


class Mounted:
    """Says before a write if the tier is there, asking the tier itself every few seconds."""

    ASK_EVERY_S = 5.0

    def __init__(self, site_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Look for this site's marker; '' takes every tier as it is."""
        self._site_id = site_id
        self._clock = clock
        self._seen: dict[str, tuple[float, bool]] = {}

    def __call__(self, tier: Tier) -> bool:
        """Whether the tier carries the site's marker.

        Raises:
            TierUnavailable: the tier cannot be listed.
        """
        if not self._site_id:
            return True
        now = self._clock()
        at_s, there = self._seen.get(tier.name, (-self.ASK_EVERY_S, False))
        if now - at_s >= self.ASK_EVERY_S:
            there = belongs(tier, self._site_id)
            self._seen[tier.name] = (now, there)
        return there
