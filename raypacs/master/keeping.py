"""The master's duties on tiers: looking at them, sweeping dead attempts."""

from __future__ import annotations

import logging

from raypacs.errors import StaleEpoch, TierUnavailable
from raypacs.index.ledger import TierSeen
from raypacs.master.base import MasterBase
from raypacs.storage.tier import Tier
from raypacs.upkeep import sweep_attempt, sweep_parts

log = logging.getLogger(__name__)

# Longer than a gateway trusts a location it looked up, so no reader loses bytes under its hands.
DELETE_GRACE_S = 5.0
TIERS_EVERY_S = 10.0
PARTS_EVERY_S = 60.0
# How soon the tiers' markers tell of a change: an index restored from a backup is known by that,
# even if the same master wrote on after it was made. A marker takes two flushes to each tier.
MARKS_EVERY_S = 2.0


class TierDuties(MasterBase):
    """Tiers: seen and swept."""

    _sequence = 0

    def _look_at_tiers(self, now: float) -> None:
        """Open what can be opened, leave the markers, and tell the index what there is."""
        self._due.tiers_s = now + TIERS_EVERY_S
        self._tiers.open(self._reader.settings()[1].tiers, self._reader.site())
        if not self._sequence:
            self._sequence = self._writer.sequence(now)
        # First: a tier that a later master uses must not be touched in any way.
        self._tiers.mark(self.epoch, self._sequence, self._still_ours)
        self._tiers.adopt(
            self._reader.site(),
            lambda url, name: self._writer.adopt_tier(url, name, now),
            self._still_ours,
        )
        used = {name: row.used_bytes for name, row in self._writer.ledger(now).items()}
        self._writer.tiers_seen(self._tiers.seen(used), now)

    def _mark_changes(self, now: float) -> None:
        """Tell the tiers how far the index is, if anything changed since they were told."""
        if now < self._due.marks_s:
            return
        self._due.marks_s = now + MARKS_EVERY_S
        if self._reader.sequence() > self._sequence:
            self._sequence = self._writer.sequence(now)
            self._tiers.mark(self.epoch, self._sequence, self._still_ours)

    def _still_ours(self) -> None:
        """Raise StaleEpoch if another master took over: asked before each object that is deleted.

        Raises:
            MasterUnavailable: the index does not answer, so nobody knows.
        """
        claimed = self._reader.epoch()
        if claimed != self.epoch:
            raise StaleEpoch(
                f"epoch {claimed} was claimed; this master is of epoch {self.epoch}",
                epoch=self.epoch,
                claimed=claimed,
            )

    def _is_there(self, tier: Tier) -> bool:
        """Whether what the tier does not hold is really gone, and not just not mounted."""
        return self._tiers.still_there(tier, self._reader.site().site_id)

    def _see_libraries(self, now: float) -> None:
        """Note which libraries are away at this moment, as what they have is about to be relied on.

        The ledger tells what was seen when the tiers were last looked at.
        """
        there = {tier.name for tier in self._tiers.reachable("library") if self._is_there(tier)}
        roles = {tier.name: tier.role for tier in self._reader.settings()[1].tiers}
        lost = [
            TierSeen(name, 0, reachable=False)
            for name, row in self._reader.ledger().items()
            if row.reachable and roles.get(name) == "library" and name not in there
        ]
        if lost:
            self._writer.tiers_seen(lost, now)

    def _may_delete(self) -> bool:
        """Whether anything may be deleted: not while index and tiers must be compared first."""
        return not self._reader.reconcile()

    def _sweep_attempts(self, now: float) -> int:
        """Sweep dead attempts on web tiers; twice, as a node that was cut off may still write."""
        count = 0
        due = self._writer.sweepable(now)
        if not due or not self._may_delete():
            return 0
        for token, study_uid, sweeps in due:
            try:
                for tier in self._tiers.reachable("web"):
                    count += sweep_attempt(
                        tier, token, study_uid, self._still_ours, self._reader.packs
                    )
            except TierUnavailable as exc:
                log.warning("sweep put off: %s", exc)
                continue
            again_s = now + 2 * self._reader.settings()[1].lease_s
            self._writer.swept(token, now, again_s=None if sweeps else again_s)
        return count

    def _sweep_parts(self, now: float) -> int:
        """Sweep parts that no running attempt owns: at start and every minute."""
        if now < self._due.parts_s or not self._may_delete():
            return 0
        self._due.parts_s = now + PARTS_EVERY_S
        count = 0
        for tier in self._tiers.reachable("web"):
            try:
                count += sweep_parts(tier, lambda: self._writer.live_tokens(now), self._still_ours)
            except TierUnavailable as exc:
                log.warning("sweep put off: %s", exc)
        return count
