"""The master's duty to seal studies that stay as they are, and to reopen those that grow."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from raypacs import layout
from raypacs.errors import (
    AlreadyExists,
    ManifestCorrupt,
    NotFound,
    StudySealed,
    TierFull,
    TierUnavailable,
)
from raypacs.index.sealing import ManifestRef, Row, Sealing
from raypacs.master.keeping import DELETE_GRACE_S, TierDuties
from raypacs.storage import manifest
from raypacs.storage.tier import Tier
from raypacs.upkeep import put_checked

log = logging.getLogger(__name__)

# A manifest takes two flushes to a disk: so many series keep the master for a moment, no longer.
SERIES_PER_TICK = 10
STUDIES_PER_TICK = 10
LOOK_EVERY_S = 1.0
# What could not be sealed, or was reopened, is left alone for so long.
AGAIN_AFTER_S = 600.0
# How long a manifest's path is kept for a master that dies before it sealed.
PLANNED_FOR_S = 3600.0


@dataclass(slots=True)
class _Planned:
    """A study to seal, and the bytes of its manifests by path: of those that are to be written.

    ``until_s``: it is begun anew from then on, as what was written is deleted some day.
    """

    sealing: Sealing
    data: dict[str, bytes]
    until_s: float = 0.0


class SealDuties(TierDuties):
    """Sealing: instances of quiet studies become manifests, and rows again."""

    def _seal_due(self, now: float) -> int:
        """Seal studies that stayed as they are long enough; return how many were."""
        if self._write_on(now) or now < self._due.seal_s or not self._may_delete():
            return 0
        planned = self._to_seal(now)
        if not planned:
            self._due.seal_s = now + LOOK_EVERY_S
            return 0
        self._begin([one for one in planned if not one.until_s], now)
        written = [one for one in planned if self._written(one) and not one.data]
        sealed = set(self._writer.seal([one.sealing for one in written], now))
        for one in written:
            del self._due.sealing[one.sealing.study_uid]
        for uid in (one.sealing.study_uid for one in planned):
            if uid not in sealed and not self.being_sealed(uid):
                self._leave(uid, now)
        return len(sealed)

    def _write_on(self, now: float) -> bool:
        """Write some more manifests of a study that somebody waits for; whoever asks seals it."""
        under_way: dict[str, _Planned] = self._due.sealing
        for uid in [uid for uid, one in under_way.items() if one.until_s <= now]:
            del under_way[uid]
        asked = (one for one in under_way.values() if one.data and one.sealing.forced)
        one = next(asked, None)
        if one is not None:
            self._written(one)
        return one is not None

    def _begin(self, planned: list[_Planned], now: float) -> None:
        """Note the manifests of studies before they are written, over as many ticks as it takes."""
        refs = [ref for one in planned for ref in one.sealing.manifests]
        self._writer.plan_manifests(refs, now, due_s=now + PLANNED_FOR_S)
        for one in planned:
            one.until_s = now + PLANNED_FOR_S / 2
            self._due.sealing[one.sealing.study_uid] = one

    def _leave(self, study_uid: str, now: float) -> None:
        self._due.seal_again_s[study_uid] = now + AGAIN_AFTER_S

    def _to_seal(self, now: float) -> list[_Planned]:
        again_s = self._due.seal_again_s
        for uid in [uid for uid, at_s in again_s.items() if at_s <= now]:
            del again_s[uid]
        after_s = self._reader.settings()[1].seal_after_s
        found: list[_Planned] = []
        for uid in self._reader.seals_due(now, after_s, limit=STUDIES_PER_TICK, without=again_s):
            if sum(len(one.data) for one in found) >= SERIES_PER_TICK:
                break
            planned = self._due.sealing.get(uid) or self._plan(uid)
            if planned is None:
                self._leave(uid, now)
            else:
                found.append(planned)
        return found

    def seal_now(self, study_uid: str) -> bool:
        """Seal a study at once, prepared or not; say whether it is sealed.

        Not one that still grows, or whose manifests cannot be written just now; nor yet one of
        many series, which :meth:`being_sealed` tells. Whoever calls sees to it that no work of the
        study runs or waits that needs its rows.
        """
        if self._reader.manifests(study_uid):
            self._due.sealing.pop(study_uid, None)
            return True
        now = self._clock()
        planned: _Planned | None = self._due.sealing.get(study_uid)
        if planned is None or planned.until_s <= now:
            planned = self._plan(study_uid, forced=True)
            if planned is None:
                return False
            self._begin([planned], now)
        planned.sealing = replace(planned.sealing, forced=True)
        if not self._written(planned) or planned.data:
            return False
        del self._due.sealing[study_uid]  # where the study changed meanwhile, it is begun anew
        return bool(self._writer.seal([planned.sealing], now))

    def being_sealed(self, study_uid: str) -> bool:
        """Whether manifests of a study are being written: a few a tick."""
        return study_uid in self._due.sealing

    def _plan(self, study_uid: str, *, forced: bool = False) -> _Planned | None:
        rows = self._reader.instance_rows(study_uid)
        described = self._reader.series_attributes(study_uid)
        refs: list[ManifestRef] = []
        data: dict[str, bytes] = {}
        room = {
            name: row.available_bytes + row.granted_bytes
            for name, row in self._reader.ledger().items()
        }
        for series_uid, ours in rows.items():
            told = manifest.encode(study_uid, series_uid, ours, described.get(series_uid, {}))
            tier = self._manifest_tier(ours, room, len(told))
            if tier is None:
                return None
            room[tier.name] = room.get(tier.name, 0) - len(told)
            path = layout.manifest(study_uid, series_uid, layout.new_token())
            data[path] = told
            refs.append(ManifestRef(study_uid, series_uid, tier.name, path, len(data[path])))
        sealing = Sealing(study_uid, rows, tuple(refs), forced=forced)
        return _Planned(sealing, data) if refs else None

    def _manifest_tier(
        self, rows: list[Row], room: Mapping[str, int], need_bytes: int
    ) -> Tier | None:
        """Return the image tier where most of a series lies, or any other that can be written.

        One with room, if there is one: what is full is what studies move away from.
        """
        tiers = {
            tier.name: tier
            for tier in sorted(self._tiers.reachable("image"), key=lambda one: one.settings.order)
            if tier.settings.takes_new
        }
        held: Counter[str] = Counter()
        for row in rows:
            held[row["tier"]] += row["size_bytes"]
        by_size = [tiers[name] for name, _ in held.most_common() if name in tiers]
        every = [*by_size, *tiers.values()]
        return next((one for one in every if room.get(one.name, 0) >= need_bytes), None) or next(
            iter(every), None
        )

    def _written(self, planned: _Planned) -> bool:
        """Write some of a study's manifests and read them back: their rows are deleted in the end.

        False where one cannot be written: then it is begun anew, some time.

        Raises:
            StaleEpoch: another master took over; the one under way is not there.
        """
        left = [ref for ref in planned.sealing.manifests if ref.path in planned.data]
        if all(self._put(planned, ref) for ref in left[:SERIES_PER_TICK]):
            return True
        self._due.sealing.pop(planned.sealing.study_uid, None)
        return False

    def _put(self, planned: _Planned, ref: ManifestRef) -> bool:
        tiers = {tier.name: tier for tier in self._tiers.reachable("image")}
        tier = tiers.get(ref.tier)
        if tier is None or not self._is_there(tier):
            return False
        try:
            put_checked(tier, ref.path, planned.data[ref.path], self._still_ours)
            told = manifest.decode(tier.read(ref.path)).rows()
        except (TierFull, TierUnavailable, AlreadyExists, NotFound, ManifestCorrupt) as exc:
            log.warning("not sealed: %s", exc, extra={"tier": ref.tier, "path": ref.path})
            return False
        if told != planned.sealing.rows[ref.series_uid]:
            log.error("not sealed: the manifest differs", extra={"path": ref.path})
            return False
        del planned.data[ref.path]
        return True

    def reopen(self, sealed: StudySealed) -> set[str]:
        """Make rows again of the studies an error names; return those whose manifests are away."""
        blocked = set()
        for study_uid in list(sealed.fields["study_uids"]):  # type: ignore[call-overload]
            try:
                self._reopen(study_uid)
            except (TierUnavailable, NotFound, ManifestCorrupt) as exc:
                log.error("not reopened: %s", exc, extra={"study": study_uid})
                blocked.add(study_uid)
        return blocked

    def _reopen(self, study_uid: str) -> None:
        tiers = {tier.name: tier for tier in self._tiers.reachable()}
        told = {}
        for ref in self._reader.manifests(study_uid):
            tier = tiers.get(ref.tier)
            if tier is None:
                raise TierUnavailable(f"tier {ref.tier} cannot be reached", tier=ref.tier)
            told[ref.path] = manifest.decode(tier.read(ref.path)).rows()
        now = self._clock()
        self._writer.reopen(study_uid, told, now, grace_s=DELETE_GRACE_S)
        self._leave(study_uid, now)
