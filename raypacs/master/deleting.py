"""The master's duty to delete by intent: whole objects, and what manifests list.

Batches of objects whose intents were begun are given away (``batches``), and confirmed in a later
tick: receiving never waits for a terabyte to go, nor for a slow tier. Deleting again what is gone
is no error, so a crash between any two steps does no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from raypacs.errors import ManifestCorrupt, NotFound, TierUnavailable
from raypacs.index.deletion import DeleteIntent, ListedIntent
from raypacs.master.batches import Batch, Batches, Part
from raypacs.master.keeping import TierDuties
from raypacs.storage import manifest
from raypacs.storage.tier import Tier
from raypacs.upkeep import delete

log = logging.getLogger(__name__)

DELETE_FOR_S = 0.1
"""So long a tick may read lists, and delete itself where there are no threads."""
OBJECTS_AT_ONCE = 200
"""So many are in a batch at most: before each it is asked who is master."""
LISTS_AT_ONCE = 10
AGAIN_AFTER_S = 600.0
"""When a manifest is looked at again that could not be read."""


class DeleteDuties(TierDuties):
    """Deleting by intent."""

    _turn = 0
    _lists_until_s = 0.0
    _has_read_lists = False

    def delete_with(self, deletes: Batches) -> None:
        """Let ``deletes`` run what is to be deleted from now on; else ticks do so themselves."""
        self._deletes = deletes

    def _delete_due(self, now: float) -> int:
        """Let the bytes of intents go whose grace period is over, and confirm what is gone.

        Returns:
            How many intents were done.
        """
        count = self._confirm(self._deletes.ended(), now)
        self._deletes.begin(DELETE_FOR_S)
        self._lists_until_s = time.monotonic() + DELETE_FOR_S
        self._has_read_lists = False
        tiers = self._tiers.reachable()
        for number in range(len(tiers)):
            tier = tiers[(number + self._turn) % len(tiers)]
            lists_first = bool(self._turn // len(tiers) % 2)
            try:
                while self._deletes.takes(tier.name):
                    batch = self._next_batch(tier, now, lists_first=lists_first)
                    if batch is None:
                        break
                    self._deletes.give(batch)
                    count += self._confirm(self._deletes.ended(), now)
                    if batch.problem:
                        break
            except TierUnavailable as exc:
                log.warning("deletion put off: %s", exc, extra={"tier": tier.name})
        self._turn += 1  # another tier is the first next time
        return count

    def _may_delete_on(self, tier: Tier) -> bool:
        return self._may_delete() and self._is_there(tier)

    def _next_batch(self, tier: Tier, now: float, *, lists_first: bool) -> Batch | None:
        """Begin the next intents of a tier, and return what is to be deleted for them."""
        listed = self._reader.listed_due(tier.name, now, LISTS_AT_ONCE)
        most = max(1, OBJECTS_AT_ONCE // 2) if listed else OBJECTS_AT_ONCE
        plain = self._writer.deletes_due(now, tier=tier.name, limit=most)
        if not (plain or listed) or not self._may_delete_on(tier):
            return None
        self._still_ours()
        whole = self._plain_parts(plain, now)
        lists = self._listed_parts(tier, listed, OBJECTS_AT_ONCE - len(whole), now)
        parts = [*lists, *whole] if lists_first else [*whole, *lists]
        return Batch(tier, parts, _delete_one, _prune, self._still_ours) if parts else None

    def _confirm(self, batches: Iterable[Batch], now: float) -> int:
        """Confirm what is gone; return how many intents are done."""
        done: list[int] = []
        for batch in batches:
            if batch.problem:
                log.warning("deletion put off: %s", batch.problem, extra={"tier": batch.tier.name})
            # Nothing is found in a folder whose disk is not mounted any more.
            if batch.missing and not self._is_there(batch.tier):
                continue
            left = batch.gone
            for part in batch.parts:
                gone = part.paths[:left]
                left -= len(gone)
                if part.is_whole and len(gone) == len(part.paths):
                    done.append(part.intent_id)
                    self._due.listed_at.pop(part.intent_id, None)
                elif gone:
                    self._due.listed_at[part.intent_id] = gone[-1]
        return self._writer.confirm_deleted(done, now) if done else 0

    def _plain_parts(self, due: Sequence[DeleteIntent], now: float) -> list[Part]:
        if not due:
            return []
        begun = set(self._writer.begin_plain([one.intent_id for one in due], now))
        return [Part(one.intent_id, (one.path,)) for one in due if one.intent_id in begun]

    # What manifests list

    def _listed_parts(
        self, tier: Tier, due: Sequence[ListedIntent], room: int, now: float
    ) -> list[Part]:
        """Return at most ``room`` objects of lists; one list a tick is read however long it takes.

        Lists are begun only when they are read: what is begun cannot be taken back any more.
        """
        parts: list[Part] = []
        begun: dict[str, set[int]] = {}
        for one in due:
            if room <= 0 or (self._has_read_lists and time.monotonic() > self._lists_until_s):
                break
            if not one.begun_s:
                if not begun:
                    self._see_libraries(now)
                if one.study_uid not in begun:
                    begun[one.study_uid] = set(self._writer.begin_listed([one.study_uid], now))
                if one.intent_id not in begun[one.study_uid]:
                    continue  # taken back
            self._has_read_lists = True
            part = self._listed_part(tier, one, room, now)
            if part is not None:
                parts.append(part)
                room -= len(part.paths)
        return parts

    def _listed_part(self, tier: Tier, one: ListedIntent, room: int, now: float) -> Part | None:
        """Return the next of what one intent lists; None: its list cannot be read just now."""
        try:
            paths = self._listed(tier, one)
        except (NotFound, ManifestCorrupt, TierUnavailable) as exc:
            log.error(
                "what a manifest lists stays: %s", exc, extra={"tier": tier.name, "path": one.path}
            )
            self._writer.put_off([one.intent_id], now + AGAIN_AFTER_S, now)
            return None
        # Where it stopped is a path: the list may be another one by now.
        last = self._due.listed_at.get(one.intent_id, "")
        left = [path for path in sorted(paths) if path > last]
        return Part(one.intent_id, tuple(left[:room]), is_whole=len(left) <= room)

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


def _delete_one(tier: Tier, path: str) -> int:
    return delete(tier, [path], _begun)


def _begun() -> None:
    """Nothing is asked: the intents were begun, which no master takes back."""


def _prune(tier: Tier, paths: Iterable[str]) -> None:
    """Take away folders that may be empty now: studies/{Study}/ or conflicts/{Study}/."""
    for folder in {"/".join(path.split("/")[:2]) for path in paths}:
        tier.prune(f"{folder}/")
