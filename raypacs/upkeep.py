"""What the master does on tiers: epoch markers, sweeping dead attempts, deleting by intent.

Sweeps touch web tiers only, and only objects whose path carries a dead attempt's token; paths are
never reused, so even a master that was replaced meanwhile cannot hit a live object.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import (
    AlreadyExists,
    ConfigError,
    NotFound,
    StaleEpoch,
    TierFull,
    TierUnavailable,
)
from raypacs.index.ledger import TierSeen
from raypacs.storage.tier import Tier

log = logging.getLogger(__name__)


class TierSet:
    """The tiers as one master reaches them."""

    def __init__(self, opener: Callable[[TierSettings], Tier]) -> None:
        self._opener = opener
        self._tiers: dict[str, Tier | None] = {}  # None: unreachable at the last look
        self._unchecked: set[str] = set()  # names opened since the last mark()
        self._marked: set[str] = set()  # URLs that carry our marker

    def open(self, wanted: Iterable[TierSettings]) -> None:
        """Open tiers that are new, changed or were unreachable; forget those not wanted."""
        opened: dict[str, Tier | None] = {}
        for settings in wanted:
            tier = self._tiers.get(settings.name)
            if tier is None or tier.settings != settings:
                self._unchecked.add(settings.name)
                try:
                    tier = self._opener(settings)
                except (TierUnavailable, ConfigError) as exc:
                    log.warning("tier unreachable: %s", exc, extra={"tier": settings.name})
                    tier = None
            opened[settings.name] = tier
        self._tiers = opened

    def reachable(self, role: str = "") -> list[Tier]:
        """Return the open tiers (of a role)."""
        return [t for t in self._tiers.values() if t is not None and role in ("", t.role)]

    def newest_marker(self) -> int:
        """Return the highest epoch that left its marker on any reachable tier, 0 without any."""
        newest = 0
        for tier in self.reachable():
            try:
                newest = max(newest, _newest_marker(tier))
            except TierUnavailable as exc:
                self._lose(tier, exc)
        return newest

    def mark(self, epoch: int) -> None:
        """Leave the epoch's marker on reachable tiers that do not have it from us yet.

        Raises:
            StaleEpoch: a tier was used by this or a later epoch (of another, restored index).
        """
        for tier in self.reachable():
            if tier.name not in self._unchecked:
                continue
            try:
                newest = _newest_marker(tier)
                if newest > epoch or (newest == epoch and tier.settings.url not in self._marked):
                    raise _used(tier, newest, epoch)
                if newest < epoch:
                    _leave_marker(tier, epoch)
            except TierUnavailable as exc:
                self._lose(tier, exc)
            else:
                self._marked.add(tier.settings.url)
                self._unchecked.discard(tier.name)

    def seen(self, used_bytes: Mapping[str, int]) -> list[TierSeen]:
        """See every tier: its capacity as set, or what the ledger has used plus what is free."""
        found = []
        for name, tier in self._tiers.items():
            free_bytes = None if tier is None else _free_bytes(tier)
            if tier is None or free_bytes is None:
                found.append(TierSeen(name, 0, reachable=False))
            else:
                capacity_bytes = tier.settings.capacity_bytes
                capacity_bytes = capacity_bytes or used_bytes.get(name, 0) + free_bytes
                found.append(TierSeen(name, capacity_bytes, reachable=True))
        return found

    def _lose(self, tier: Tier, exc: TierUnavailable) -> None:
        log.warning("tier unreachable: %s", exc, extra={"tier": tier.name})
        self._tiers[tier.name] = None


def _newest_marker(tier: Tier) -> int:
    return max((layout.epoch_of(info.path) for info in tier.walk(layout.EPOCH_MARKERS)), default=0)


def _leave_marker(tier: Tier, epoch: int) -> None:
    if tier.settings.read_only:
        return
    try:
        tier.put_durable(layout.epoch_marker(epoch), json.dumps({"epoch": epoch}).encode())
    except AlreadyExists as exc:
        raise _used(tier, epoch, epoch) from exc
    except TierFull as exc:
        # A full tier must not keep the cluster from working; the older marker stays there.
        log.warning("no epoch marker: %s", exc, extra={"tier": tier.name})
        return
    older = [info.path for info in tier.walk(layout.EPOCH_MARKERS)]
    delete(tier, [path for path in older if layout.epoch_of(path) < epoch])


def _used(tier: Tier, marker: int, epoch: int) -> StaleEpoch:
    return StaleEpoch(
        f"tier {tier.name} was used by epoch {marker}; this master is of epoch {epoch}",
        epoch=epoch,
        claimed=marker,
    )


def _free_bytes(tier: Tier) -> int | None:
    try:
        return tier.free_bytes()
    except TierUnavailable as exc:
        log.warning("tier unreachable: %s", exc, extra={"tier": tier.name})
        return None


def sweep_attempt(tier: Tier, token: str, study_uid: str) -> int:
    """Delete a dead attempt's parts, packs and header sidecars; return how many objects."""
    parts = [info.path for info in tier.walk(layout.attempt_prefix(token))]
    packs = [
        info.path
        for info in tier.walk(layout.study_prefix(study_uid))
        if info.path.rpartition("/")[2].startswith(f"{token}.")
    ]
    count = delete(tier, parts + packs)
    if parts:
        tier.prune(layout.attempt_prefix(token))
    if packs:
        tier.prune(layout.study_prefix(study_uid))
    return count


def sweep_parts(tier: Tier, live_tokens: Callable[[], set[str]]) -> int:
    """Delete parts of attempts that do not run; return how many objects.

    The walk comes first: an attempt seen there that does not run now has ended.
    """
    parts = [info.path for info in tier.walk(layout.ATTEMPTS)]
    if not parts:
        return 0
    live = live_tokens()
    dead = [path for path in parts if path.removeprefix(layout.ATTEMPTS).split("/")[0] not in live]
    count = delete(tier, dead)
    tier.prune(layout.ATTEMPTS)
    return count


def delete(tier: Tier, paths: Iterable[str]) -> int:
    """Delete objects; return how many were there."""
    count = 0
    for path in paths:
        try:
            tier.delete(path)
            count += 1
        except NotFound:
            continue
    return count
