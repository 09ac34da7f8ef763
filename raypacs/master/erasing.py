"""The master's events and duty of erasing: every copy, every trace, and a proof (FEATURES F12).

deleting (each study leaves the index, its objects by intents) -> checking (every place is looked
for, every folder walked) -> statistics (Parquet without its rows) -> done (the report). A step a
tick; whatever ends the master, the next one goes on.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from raypacs import layout, stats
from raypacs.errors import AlreadyExists, StudySealed, TierFull, TierUnavailable
from raypacs.index.erasing import ABSENT, CHECKING, DELETING, EMPTY, STATISTICS, TAKEN
from raypacs.master.keeping import DELETE_GRACE_S
from raypacs.master.sealing import SealDuties
from raypacs.storage.tier import Tier

log = logging.getLogger(__name__)

BUDGET_S = 0.02
LOOK_EVERY_S = 2.0
AGAIN_AFTER_S = 10.0
STUDIES_AT_ONCE = 3
PLACES_AT_ONCE = 50
FILES_AT_ONCE = 5
TOMBSTONES_EVERY_S = 3600.0
STUDIES_A_PAGE = 2000
NOTES = (
    "gateways keep rendered pictures, frames and headers in memory until others take their place "
    "or the process ends; none of it is written to a disk",
    "backups of the index and of tiers that somebody made are not touched; where one is restored, "
    "the study is erased again at the next start",
    "logs hold UIDs, no patient attributes, and go by their rotation",
    "statistics that a master wrote on another node's disk are not touched: they hold keyed hashes",
    "quarantined objects without a Study Instance UID cannot be told to be of it",
    "there are no hot folders in this version",
)


class EraseEvents(SealDuties):
    """Erasures."""

    def order_erasure(self, what: str, subject: str, who: str = "") -> int:
        """Order that a study (UID) or patient (Patient ID) is erased; return the order's number.

        The same again while it runs is the same order.

        Raises:
            InvalidQuery: neither a study nor a patient.
            NotFound: nothing is known of it.
        """
        number = self._writer.order_erasure(what, subject, self._clock(), who=who)
        self._due.erase_s = 0.0
        return number

    def _erase_due(self, now: float) -> None:
        """Do the next step of the oldest erasure; see to what must not come back."""
        if now < self._due.erase_s or not self._may_delete():
            return
        self._due.erase_s = now + LOOK_EVERY_S
        self._mind_tombstones(now)
        row = self._reader.erasure_open()
        if row is None:
            return
        self._due.erase_s = now
        try:
            waits = _STEPS[row["state"]](self, row, now)
        except (TierUnavailable, TierFull) as exc:
            waits = str(exc)
        if waits:
            self._due.erase_s = now + AGAIN_AFTER_S
        if waits != row["progress"].get("waits", ""):
            open_now = self._reader.erasure(row["erasure_id"])
            if open_now["state"] == row["state"]:
                self._go_on(row, row["state"], now, waits=waits)

    def _go_on(self, row: Mapping[str, Any], state: str, now: float, **progress: Any) -> None:
        self._writer.erasure_goes_on(row["erasure_id"], state, progress, now)

    def _every_tier(self) -> list[Tier]:
        """Return all tiers of raypacs' own. Raises TierUnavailable if one is away."""
        own = [one.name for one in self._reader.settings()[1].tiers if not one.adopted]
        there = {tier.name: tier for tier in self._tiers.reachable()}
        for name in own:
            if name not in there or not self._is_there(there[name]):
                raise TierUnavailable(
                    f"tier {name} cannot be reached, and may hold some", tier=name
                )
        return [there[name] for name in own]

    def _take_studies(self, row: Mapping[str, Any], now: float) -> str:
        """Take studies out of the index, each with its mark on every tier."""
        number = int(row["erasure_id"])
        uids = self._reader.erasure_studies(number, "", STUDIES_AT_ONCE)
        if not uids:
            self._go_on(row, CHECKING, now)
            return ""
        tiers = self._every_tier()
        for uid in uids:
            self._leave_tombstone(tiers, self._reader.erased_key(uid), now)
            try:
                self._writer.erase_study(number, uid, now, grace_s=DELETE_GRACE_S)
            except StudySealed as exc:
                if self.reopen(exc):
                    return "a manifest of a sealed study cannot be read"
                self._writer.erase_study(number, uid, now, grace_s=DELETE_GRACE_S)
        self._polls.changed()
        return ""

    def _leave_tombstone(self, tiers: list[Tier], key: str, at_s: float) -> None:
        """Let every tier that can be written tell that a study was erased.

        Raises:
            TierUnavailable, TierFull: none took it.
        """
        data = json.dumps({"study_key": key, "erased_s": at_s}).encode()
        last: TierUnavailable | TierFull | None = None
        left = 0
        for tier in tiers:
            try:
                tier.put_durable(layout.tombstone(key, at_s), data)
                left += 1
            except AlreadyExists:
                left += 1
            except (TierUnavailable, TierFull) as exc:  # the others tell it
                last = exc
        if not left and last is not None:
            raise last

    def _check_places(self, row: Mapping[str, Any], now: float) -> str:
        """Look for every object that was deleted, then into the studies' folders."""
        number = int(row["erasure_id"])
        why = self._reader.erasure_busy(number)
        if why:
            return why
        tiers = {tier.name: tier for tier in self._every_tier()}
        until_s = time.perf_counter() + BUDGET_S
        places = self._reader.erasure_places(number, PLACES_AT_ONCE)
        absent: list[tuple[str, str, str]] = []
        for uid, name, path in places:
            tier = tiers.get(name)
            if tier is not None and tier.exists(path):
                self._writer.erase_strays(number, uid, [(name, path)], now)
                return "an object was still there, and is deleted again"
            absent.append((uid, name, path))
            if time.perf_counter() > until_s:
                break
        self._writer.erasure_marked(number, absent, ABSENT, now)
        if places:
            return ""
        uids = self._reader.erasure_studies(number, TAKEN, 1)
        if not uids:
            self._go_on(row, STATISTICS, now, rows=self._writer.forget_erased(number, now))
            return ""
        strays = _strays(tiers.values(), uids[0], self._written_before(uids[0], row, tiers))
        if strays:
            self._writer.erase_strays(number, uids[0], strays, now)
            return "objects that the index did not know are deleted"
        self._writer.erasure_marked(number, [(uids[0], "", "")], EMPTY, now)
        return ""

    def _written_before(
        self, study_uid: str, row: Mapping[str, Any], tiers: Mapping[str, Tier]
    ) -> float:
        """Return until when what lies in a study's folders is to go: it may be sent anew by now."""
        arrives = any(
            marker.path.endswith(f".{study_uid}")
            for tier in tiers.values()
            for marker in tier.walk("intake/")
        )
        is_back = arrives or self._reader.knows_study(study_uid)
        return float(row["ordered_s"]) if is_back else math.inf

    def _erase_statistics(self, row: Mapping[str, Any], now: float) -> str:
        """Write statistics anew without the studies' rows, then the report."""
        number, progress = int(row["erasure_id"]), row["progress"]
        told = progress.get("statistics") or {"files": 0, "rows": 0, "after": ""}
        secret = self._writer.site_secret()
        keys = [stats.pseudonym(uid, secret) for uid in self._reader.erasure_uids(number)]
        after, rows, files = stats.erase(
            self._stats_files(), keys, after=told["after"], most_files=FILES_AT_ONCE
        )
        told = {"files": told["files"] + files, "rows": told["rows"] + rows, "after": after}
        if after:
            self._go_on(row, STATISTICS, now, statistics=told)
            return ""
        del told["after"]
        done = {**row, "progress": {**progress, "statistics": told}}
        self._writer.finish_erasure(done, NOTES, now)
        return ""

    # What must not come back

    def _mind_tombstones(self, now: float) -> None:
        """Learn from the tiers what was erased, as this index may be an older one, and the reverse.

        Studies that are back, with objects older than their erasure, are erased again.
        """
        if self._due.back is not None:
            found, after = self._reader.erased_among(self._due.back, STUDIES_A_PAGE)
            for uid, at_s in found.items():
                if self._is_older(uid, at_s):
                    log.warning("an erased study came back, and is erased again")
                    self.order_erasure("study", uid, "it was erased before")
            self._due.back = after or None
        if now < self._due.tombstones_s:
            return
        self._due.tombstones_s = now + TOMBSTONES_EVERY_S
        known = self._reader.erased_keys()
        told: dict[str, float] = {}
        try:
            for tier in self._every_tier():
                here = dict(
                    sorted(layout.erased_at(one.path) for one in tier.walk(layout.TOMBSTONES))
                )
                here.pop("", None)
                told = {**told, **{k: max(at, told.get(k, 0.0)) for k, at in here.items()}}
                for key in known.keys() - here.keys():
                    self._leave_tombstone([tier], key, known[key])
        except (TierUnavailable, TierFull) as exc:
            log.info("marks of erased studies are seen to later: %s", exc)
            self._due.tombstones_s = now + AGAIN_AFTER_S
        new = {key: at_s for key, at_s in told.items() if key not in known}
        if new:
            self._writer.keep_erased(new, now)
            self._due.back = ""

    def _is_older(self, study_uid: str, at_s: float) -> bool:
        """Whether something of a study was written before it was erased."""
        study = self._reader.study(study_uid)
        if study["created_s"] <= at_s:
            return True
        # Adopted files, in an index that was made anew.
        if any(one.record.received_at_s <= at_s for one in self._reader.instances(study_uid)):
            return True
        return bool(_strays(self._every_tier(), study_uid, at_s))


def _strays(tiers: Any, study_uid: str, before_s: float) -> list[tuple[str, str]]:
    """Return (tier, path) of what lies in a study's folders and was written before."""
    prefixes = (layout.study_prefix(study_uid), layout.aside_prefix(study_uid))
    return [
        (tier.name, info.path)
        for tier in tiers
        for prefix in prefixes
        for info in tier.walk(prefix)
        if info.modified_s <= before_s
    ]


_STEPS = {
    DELETING: EraseEvents._take_studies,
    CHECKING: EraseEvents._check_places,
    STATISTICS: EraseEvents._erase_statistics,
}
