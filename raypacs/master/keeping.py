"""The master's duties on tiers: looking at them, sweeping dead attempts, deleting by intent."""

from __future__ import annotations

import logging

from raypacs.errors import TierUnavailable
from raypacs.master.base import MasterBase
from raypacs.upkeep import delete, sweep_attempt, sweep_parts

log = logging.getLogger(__name__)

# Longer than a gateway trusts a location it looked up, so no reader loses bytes under its hands.
DELETE_GRACE_S = 5.0
DELETES_PER_TICK = 500
TIERS_EVERY_S = 10.0
PARTS_EVERY_S = 3600.0


class TierDuties(MasterBase):
    """Tiers: seen, swept, freed."""

    def _look_at_tiers(self, now: float) -> None:
        """Open what can be opened, leave the marker, and tell the index what there is."""
        self._due.tiers_s = now + TIERS_EVERY_S
        self._tiers.open(self._reader.settings()[1].tiers)
        self._tiers.mark(self.epoch)
        used = {name: row.used_bytes for name, row in self._writer.ledger(now).items()}
        self._writer.tiers_seen(self._tiers.seen(used), now)

    def _sweep_attempts(self, now: float) -> int:
        """Sweep dead attempts on web tiers; twice, as a node that was cut off may still write."""
        count = 0
        for token, study_uid, sweeps in self._writer.sweepable(now):
            try:
                for tier in self._tiers.reachable("web"):
                    count += sweep_attempt(tier, token, study_uid)
            except TierUnavailable as exc:
                log.warning("sweep put off: %s", exc)
                continue
            again_s = now + 2 * self._reader.settings()[1].lease_s
            self._writer.swept(token, now, again_s=None if sweeps else again_s)
        return count

    def _sweep_parts(self, now: float) -> int:
        """Sweep parts that no running attempt owns: at start and every hour."""
        if now < self._due.parts_s:
            return 0
        self._due.parts_s = now + PARTS_EVERY_S
        count = 0
        for tier in self._tiers.reachable("web"):
            try:
                count += sweep_parts(tier, lambda: self._writer.live_tokens(now))
            except TierUnavailable as exc:
                log.warning("sweep put off: %s", exc)
        return count

    def _delete_due(self, now: float) -> int:
        """Delete the bytes of intents whose grace period is over, and confirm."""
        count = 0
        for tier in self._tiers.reachable():
            due = self._writer.deletes_due(now, tier=tier.name, limit=DELETES_PER_TICK)
            if not due:
                continue
            try:
                delete(tier, [intent.path for intent in due])
                for folder in {"/".join(intent.path.split("/")[:2]) for intent in due}:
                    tier.prune(f"{folder}/")  # studies/{Study}/ or conflicts/{Study}/
            except TierUnavailable as exc:
                log.warning("deletion put off: %s", exc)
                continue
            count += self._writer.confirm_deleted([intent.intent_id for intent in due], now)
        return count
