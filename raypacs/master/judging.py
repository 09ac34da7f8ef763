"""The master's events about status of studies, and its duty to ask sources and rules."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from raypacs.errors import RaypacsError, StaleEpoch, StudySealed
from raypacs.index.judging import TierOrder
from raypacs.master.keeping import DELETE_GRACE_S
from raypacs.master.tiering import TierEvents

log = logging.getLogger(__name__)

# Events wait while the master judges: so long at a time, then the next tick goes on.
BUDGET_S = 0.02
STUDIES_AT_ONCE = 25
LOOK_EVERY_S = 5.0
# Deleting a sealed study reads its manifests.
DELETES_PER_TICK = 3
DELETE_LOOKS_PER_TICK = 50
DELETE_ROUND_S = 60.0


class JudgeEvents(TierEvents):
    """Status, sources, rules."""

    def set_study(self, study_uid: str, changes: Mapping[str, Any], who: str = "") -> Any:
        """Set status (new, dictated, reported, approved) and flags of a study; return all of them.

        Idempotent.

        Raises:
            InvalidQuery: no such key or value.
            NotFound: no such study.
        """
        return self._writer.set_study(study_uid, changes, self._clock(), who=who)

    def other_sender(self, study_uid: str, source: str, peer: str) -> bool:
        """Note who sent objects of a study that were known already. Idempotent."""
        return self._writer.other_sender(study_uid, source, peer, self._clock())

    def _judge_due(self, now: float) -> None:
        """Ask rules about what arrived and what changed, and delete what they want deleted."""
        until_s = time.perf_counter() + BUDGET_S
        orders = self._writer.judge_due(now, limit=STUDIES_AT_ONCE)
        if now >= self._due.judge_s:
            found, more = self._writer.judge_all(now, limit=STUDIES_AT_ONCE)
            orders += found
            while more and time.perf_counter() < until_s:
                found, more = self._writer.judge_all(now, limit=STUDIES_AT_ONCE)
                orders += found
            self._due.judge_s = now if more else now + LOOK_EVERY_S
        for order in orders:
            self._move_by_rule(order)
        self._delete_by_rule(now)

    def _move_by_rule(self, order: TierOrder) -> None:
        """Order that a study moves where a rule wants it; what cannot be is tried again later."""
        try:
            images = {one.name for one in self._reader.settings()[1].tiers if one.role == "image"}
            if images & set(self._reader.held(order.study_uid)) != {order.tier}:
                self.order_migrate(order.study_uid, order.tier, order.by)
        except StaleEpoch:
            raise
        except RaypacsError as exc:
            log.info("not moved by rule yet: %s", exc, extra={"study": order.study_uid})
            return
        self._writer.tier_ordered(order, self._clock())

    def _delete_by_rule(self, now: float) -> None:
        """Delete a few of the studies whose time has come; those that stay say why, once."""
        if now < self._due.delete_s:
            return
        found = self._reader.deletes_by_rule(now, self._due.deleted, DELETE_LOOKS_PER_TICK)
        if found and not self._may_delete():
            return
        gone = 0
        for place in found:
            if gone == DELETES_PER_TICK:
                return
            self._due.deleted = place
            gone += not self._stays(place[1], now)
        if len(found) < DELETE_LOOKS_PER_TICK:
            self._due.deleted = (0.0, "")
            self._due.delete_s = now + DELETE_ROUND_S
        if gone:
            self._polls.changed()

    def _stays(self, study_uid: str, now: float) -> str:
        """Delete a study by rule; say why it stays ('': it does not)."""
        try:
            return self._writer.delete_by_rule(study_uid, now, grace_s=DELETE_GRACE_S)
        except StudySealed as exc:
            if self.reopen(exc):
                return "its manifests cannot be read just now"
        return self._writer.delete_by_rule(study_uid, now, grace_s=DELETE_GRACE_S)
