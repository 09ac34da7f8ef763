"""Can a tier be used from here: reached, ours, written, read, deleted; how fast, how much room."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import ConfigError, NotFound, RaypacsError, TierUnavailable
from raypacs.storage.late import limited
from raypacs.storage.site import site_of
from raypacs.storage.tier import Tier, open_tier

PROBE_BYTES = 4 * 1024 * 1024
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class TierCheck:
    """What a look at a tier showed; ``problems`` empty: it can be used.

    ``marker``: ours, none, or another site's. Speeds are of one object of 4 MiB, in bytes a second;
    0 where it was not tried. Bytes are -1 where they are not known.
    """

    tier: str
    url: str
    reachable: bool = False
    marker: str = ""
    written: bool = False
    read_back: bool = False
    deleted: bool = False
    write_bytes_per_s: float = 0.0
    read_bytes_per_s: float = 0.0
    free_bytes: int = -1
    capacity_bytes: int = -1
    problems: tuple[str, ...] = ()


def check_tier(
    settings: TierSettings,
    site_id: str,
    *,
    patience_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
) -> TierCheck:
    """Look at a tier from this process. Only an object of its own is written, read and deleted.

    Nothing is written to a read-only tier, nor where another site's marker lies.
    """
    found: dict[str, object] = {}
    problems: list[str] = []

    def look() -> None:
        tier = open_tier(settings)
        marker = site_of(tier)
        found["reachable"] = True
        found["marker"] = _told(marker, site_id)
        found["free_bytes"], found["capacity_bytes"] = tier.free_bytes(), tier.capacity_bytes()
        if marker and marker != site_id:
            problems.append(f"it belongs to site {marker}, this one is {site_id}")
        elif not settings.read_only:
            _probe(tier, found, problems, clock)

    try:
        limited(look, f"tier {settings.name}", patience_s)
    except (TierUnavailable, ConfigError, NotFound) as exc:
        problems.append(str(exc))
    return TierCheck(
        tier=settings.name,
        url=settings.shown_url,
        problems=tuple(problems),
        **found,  # type: ignore[arg-type]
    )


def _told(marker: str, site_id: str) -> str:
    if not marker:
        return "none"
    return "ours" if marker == site_id else f"site {marker}"


def _probe(
    tier: Tier, found: dict[str, object], problems: list[str], clock: Callable[[], float]
) -> None:
    path = layout.probe(layout.new_token())
    data = os.urandom(PROBE_BYTES)
    try:
        began = clock()
        tier.put_durable(path, data)
        found["written"] = True
        found["write_bytes_per_s"] = _rate(clock() - began)
        began = clock()
        back = tier.read(path)
        found["read_bytes_per_s"] = _rate(clock() - began)
        found["read_back"] = back == data
        if back != data:
            problems.append("an object reads back otherwise than it was written")
    except RaypacsError as exc:
        problems.append(str(exc))
    try:
        tier.delete(path)
        found["deleted"] = not tier.exists(path)
        tier.prune(layout.PROBES)
    except NotFound:
        pass  # it was never written: told above
    except RaypacsError as exc:
        problems.append(f"an object cannot be deleted: {exc}")


def _rate(seconds: float) -> float:
    return round(PROBE_BYTES / max(seconds, 1e-6), 1)
