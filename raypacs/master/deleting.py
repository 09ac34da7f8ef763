"""The master's duty to delete by intent: whole objects, and what manifests list.

A share of each tick, and on where it stopped: receiving never waits for a terabyte to go. Deleting
again what is gone is no error, so a crash between any two steps does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from raypacs.errors import ManifestCorrupt, NotFound, TierUnavailable
from raypacs.index.deletion import DeleteIntent, ListedIntent
from raypacs.master.keeping import TierDuties
from raypacs.storage import manifest
from raypacs.storage.tier import Tier
from raypacs.upkeep import delete

log = logging.getLogger(__name__)

DELETE_FOR_S = 0.2
"""So long a tick may delete; the objects under way are finished."""
DELETES_PER_TICK = 500
OBJECTS_AT_ONCE = 20
"""So many are deleted even where the time is over: a slow tier must get on as well."""
LISTS_AT_ONCE = 10
AGAIN_AFTER_S = 600.0
"""When a manifest is looked at again that could not be read."""


class DeleteDuties(TierDuties):
    """Deleting by intent."""

    _turn = 0

    def _delete_due(self, now: float) -> int:
        """Delete the bytes of intents whose grace period is over, and confirm.

        Returns:
            How many intents were done.
        """
        tiers = self._tiers.reachable()
        until_s = time.monotonic() + DELETE_FOR_S
        count = 0
        for number in range(len(tiers)):
            tier = tiers[(number + self._turn) % len(tiers)]
            try:
                count += self._delete_plain(tier, now, until_s)
                count += self._delete_listed(tier, now, until_s)
            except TierUnavailable as exc:
                log.warning("deletion put off: %s", exc, extra={"tier": tier.name})
        self._turn += 1  # another tier is the first next time
        return count

    def _may_delete_on(self, tier: Tier) -> bool:
        return self._may_delete() and self._is_there(tier)

    def _delete_plain(self, tier: Tier, now: float, until_s: float) -> int:
        due = self._writer.deletes_due(now, tier=tier.name, limit=DELETES_PER_TICK)
        if not due or not self._may_delete_on(tier):
            return 0
        done = 0
        for start in range(0, len(due), OBJECTS_AT_ONCE):
            if start and time.monotonic() > until_s:
                break
            some = due[start : start + OBJECTS_AT_ONCE]
            begun = set(self._writer.begin_plain([one.intent_id for one in some], now))
            some = [one for one in some if one.intent_id in begun]
            self._delete_some(tier, some)
            done += self._writer.confirm_deleted([one.intent_id for one in some], now)
        return done

    def _delete_some(self, tier: Tier, intents: Sequence[DeleteIntent]) -> None:
        delete(tier, [one.path for one in intents], self._still_ours)
        _prune(tier, (one.path for one in intents))

    # What manifests list

    def _delete_listed(self, tier: Tier, now: float, until_s: float) -> int:
        count = 0
        while due := self._reader.listed_due(tier.name, now, LISTS_AT_ONCE):
            if not self._may_delete_on(tier):
                break
            fresh = dict.fromkeys(one.study_uid for one in due if not one.begun_s)
            if fresh:
                self._see_libraries(now)
            begun = set(self._writer.begin_listed(fresh, now)) if fresh else set()
            for one in due:
                if not one.begun_s and one.intent_id not in begun:
                    continue  # taken back
                count += self._delete_list(tier, one, now, until_s)
                if time.monotonic() > until_s:
                    return count
        return count

    def _delete_list(self, tier: Tier, one: ListedIntent, now: float, until_s: float) -> int:
        """Delete what one intent lists, as far as time goes; return 1 when all of it is gone."""
        try:
            paths = self._listed(tier, one)
        except (NotFound, ManifestCorrupt, TierUnavailable) as exc:
            log.error(
                "what a manifest lists stays: %s", exc, extra={"tier": tier.name, "path": one.path}
            )
            self._writer.put_off([one.intent_id], now + AGAIN_AFTER_S, now)
            return 0
        # Where it stopped is a path: the list may be another one by now.
        last = self._due.listed_at.get(one.intent_id, "")
        left = [path for path in sorted(paths) if path > last]
        while left:
            # Asked once for some: what was begun goes, whoever is master.
            self._still_ours()
            delete(tier, left[:OBJECTS_AT_ONCE], _begun)
            self._due.listed_at[one.intent_id] = left[:OBJECTS_AT_ONCE][-1]
            left = left[OBJECTS_AT_ONCE:]
            if time.monotonic() > until_s:
                break
        if left:
            return 0
        self._due.listed_at.pop(one.intent_id, None)
        _prune(tier, paths)
        return self._writer.confirm_deleted([one.intent_id], now)

    def _listed(self, tier: Tier, one: ListedIntent) -> list[str]:
        """Return the paths on ``tier`` that a manifest lists, but what the index serves there.

        Raises:
            NotFound, ManifestCorrupt, TierUnavailable: one of the manifests cannot be read.
        """
        told = manifest.decode(self._tier_of(one.list_tier).read(one.path))
        listed = [row["path"] for row in told.rows() if row["tier"] == tier.name]
        # Objects are never written again under the same path; what came back has another one. This
        # holds even if somebody should break that rule: what is served is never deleted.
        served = {
            row["path"]
            for row in self._reader.instance_rows(one.study_uid).get(told.series_uid, ())
            if row["tier"] == tier.name
        }
        for ref in self._reader.manifests(one.study_uid, told.series_uid):
            if ref.path == one.path:
                if one.path not in self._reader.gone_manifests(one.study_uid):
                    raise ManifestCorrupt("the manifest is in force, and its instances are there")
                continue
            rows = manifest.decode(self._tier_of(ref.tier).read(ref.path)).rows()
            served |= {row["path"] for row in rows if row["tier"] == tier.name}
        if kept := [path for path in listed if path in served]:
            log.error("served again, so they stay: %d objects", len(kept), extra={"path": one.path})
        return [path for path in listed if path not in served]

    def _tier_of(self, name: str) -> Tier:
        found = next((tier for tier in self._tiers.reachable() if tier.name == name), None)
        if found is None:
            raise TierUnavailable(f"tier {name} cannot be reached", tier=name)
        return found


def _begun() -> None:
    """Nothing is asked: the intents were begun, which no master takes back."""


def _prune(tier: Tier, paths: Iterable[str]) -> None:
    """Take away folders that may be empty now: studies/{Study}/ or conflicts/{Study}/."""
    for folder in {"/".join(path.split("/")[:2]) for path in paths}:
        tier.prune(f"{folder}/")
