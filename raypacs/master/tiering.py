"""The master's duty to move studies between image tiers and to drain tiers; orders about both.

Decisions are in ``policy.migration``; the bytes are moved by work items (MIGRATE). A step a look:
few studies are sealed and ordered, and only as many items are open as may run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raypacs.config import Settings, TierSettings
from raypacs.errors import (
    ConfigError,
    IllegalTransition,
    InvalidQuery,
    NotFound,
    RaypacsError,
    TierFull,
)
from raypacs.index.queue import Wish
from raypacs.index.tiering import Leaver
from raypacs.master.keeping import DELETE_GRACE_S
from raypacs.master.sealing import SealDuties
from raypacs.policy import migration
from raypacs.policy.archiving import ARCHIVE
from raypacs.policy.kinds import MIGRATE
from raypacs.policy.levels import Level
from raypacs.policy.migration import Lying, Why
from raypacs.policy.placement import TierRoom
from raypacs.policy.queue import Priority
from raypacs.records import Lease, MovedAside

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
ORDERS_PER_LOOK = 2  # each seals a study, which writes its manifests
EVICTS_PER_LOOK = 5
ASIDES_PER_ITEM = 100
AGAIN_AFTER_S = 600.0
_DAY_S = 86_400.0
_WINDOW = 100


class TierEvents(SealDuties):
    """Migration and drain."""

    def order_migrate(self, study_uid: str, to_tier: str = "", who: str = "") -> int:
        """Order that a study moves to an image tier ('': the next one with room); return its item.

        It is sealed first: what moves is what its manifests list.

        Raises:
            NotFound: no such study or tier.
            ConfigError: the tier takes no studies, or nothing of the study may be moved.
            TierFull: no image tier has room for it.
            IllegalTransition: other work of the study waits or runs, or it still grows.
        """
        settings = self._reader.settings()[1]
        study = self._reader.study(study_uid)
        if to_tier:
            _check_target(settings, to_tier)
        held = self._reader.held(study_uid)
        images = [tier for tier in settings.tiers if tier.role == "image" and movable(tier)]
        leaving = [tier.name for tier in images if held.get(tier.name)]
        if not study["offline_s"] and not leaving:
            raise ConfigError(
                f"nothing of study {study_uid} lies on an image tier that it could leave: files "
                "of adopted archives and on read-only tiers stay where they are"
            )
        if self._reader.is_busy(study_uid, but=MIGRATE):
            raise IllegalTransition(f"other work of study {study_uid} waits or runs")
        if not to_tier:
            size_bytes = 0 if study["offline_s"] else int(study["size_bytes"])
            to_tier = self._next(settings, held, leaving, size_bytes) or ""
        if not to_tier:
            raise TierFull(f"no later image tier has room for study {study_uid}", study=study_uid)
        if not self.seal_now(study_uid):
            if self.being_sealed(study_uid):
                raise IllegalTransition(f"study {study_uid} is being sealed: try again")
            raise IllegalTransition(
                f"study {study_uid} cannot be sealed just now: it grows, or no image tier takes "
                "its manifests"
            )
        return self._order(study_uid, to_tier, Why.ORDER, Priority.MEDIUM, who)

    def move_asides(self, lease: Lease, moved: Sequence[MovedAside]) -> int:
        """Let objects kept aside lie where an attempt copied them. Raises StaleLease."""
        return self._writer.move_asides(lease, moved, self._clock(), grace_s=DELETE_GRACE_S)

    def repair_ledger(self, who: str = "") -> dict[str, int]:
        """Set the ledger to its recount; return by how many bytes each tier was wrong."""
        return self._writer.repair_ledger(who, self._clock())

    # Duties

    def _tier_due(self, now: float) -> None:
        """Order moves that are due by drain, level or age: a few a look."""
        if now < self._due.tiering_s or not self._may_delete():
            return
        self._due.tiering_s = now + LOOK_EVERY_S
        settings = self._reader.settings()[1]
        drained = [tier for tier in settings.tiers if tier.draining]
        self._due.drained &= {tier.name for tier in drained}
        orders = {tier.order for tier in settings.tiers if tier.role == "image" and movable(tier)}
        rules = settings.migration
        by_rule = len(orders) > 1 and (rules.after_days or rules.at_level != "never")
        self._seal_waiting()
        if not drained and not by_rule:
            return
        try:
            self._look(settings, drained, bool(by_rule), now)
        except InvalidQuery as exc:  # no node does it yet
            log.warning("nothing moves: %s", exc)
            self._due.tiering_s = now + 10 * LOOK_EVERY_S

    def _look(
        self, settings: Settings, drained: Sequence[TierSettings], by_rule: bool, now: float
    ) -> None:
        free = settings.migration.most_running - self._reader.open_items(MIGRATE)
        left = min(free, ORDERS_PER_LOOK)
        for tier in drained:
            left -= self._drain(tier, settings, left, now)
        if by_rule and left > 0:
            left -= self._by_level(settings, left, now)
        if by_rule and left > 0 and settings.migration.after_days:
            self._by_age(settings, now - settings.migration.after_days * _DAY_S, left, now)

    def _seal_waiting(self) -> None:
        """Seal again what was reopened while its move waited."""
        for study_uid in self._reader.waiting_unsealed(MIGRATE, ORDERS_PER_LOOK):
            if not self._reader.is_busy(study_uid, but=MIGRATE):
                self.seal_now(study_uid)

    def _drain(self, tier: TierSettings, settings: Settings, most: int, now: float) -> int:
        """Let what lies on a tier leave it; return how many items were made."""
        count = 0
        if tier.role == "web":
            self._drain_web(tier, now)
        elif most > 0:
            listed = self._leavers(tier, now)
            count = sum(self._move(one, tier, settings, Why.DRAIN, now) for one in listed[:most])
            if not listed and tier.role == "image" and self._reader.asides_on(tier.name, 1):
                count += self._order_asides(tier, settings)
        if tier.name not in self._due.drained and self._reader.is_empty(tier.name):
            self._due.drained.add(tier.name)
            self._writer.audit("tier drained", now, detail={"tier": tier.name})
        return count

    def _leavers(self, tier: TierSettings, now: float) -> list[Leaver]:
        """Return studies that are to leave a drained tier, a few more than are ordered at once."""
        most = ORDERS_PER_LOOK + len(self._due.tiering_again_s)
        found = self._unheld(self._reader.least_recent(tier.name, most), now)
        if not found and tier.role == "image":
            found = self._unheld(self._reader.listed_there(tier.name, most), now)
        return found

    def _drain_web(self, tier: TierSettings, now: float) -> None:
        """Let prepared studies leave a web tier: an access prepares them again, on another."""
        for one in self._leavers(tier, now)[:EVICTS_PER_LOOK]:
            try:
                self.evict_study(one.study_uid, f"drain of {tier.name}", tier=tier.name)
            except RaypacsError as exc:  # it is pinned, or in use: asked again later
                self._due.tiering_again_s[one.study_uid] = now + AGAIN_AFTER_S
                log.warning("not taken out: %s", exc, extra={"study": one.study_uid})

    def evict_study(self, study_uid: str, who: str = "", tier: str = "") -> int:
        """See the part that evicts."""
        raise NotImplementedError

    def purge_copy(self, study_uid: str, library: str, who: str = "") -> int:
        """See the part that evicts."""
        raise NotImplementedError

    def order_archive(
        self, study_uids: Iterable[str], who: str = "", libraries: Sequence[str] = ()
    ) -> dict[str, Any]:
        """See the part that archives."""
        raise NotImplementedError

    def _order_asides(self, tier: TierSettings, settings: Settings) -> int:
        """Order that a batch of what is kept aside leaves a drained tier."""
        listed = self._reader.asides_on(tier.name, ASIDES_PER_ITEM)
        size_bytes = sum(int(one["size_bytes"]) for one in listed)
        to_tier = migration.target(
            self._rooms(settings), held={}, leaving=[tier.name], need_bytes=size_bytes
        )
        if to_tier is None or self._reader.waits("", MIGRATE):
            return 0
        payload = {"from": tier.name, "to": to_tier, "why": str(Why.DRAIN), "asides": listed}
        wish = Wish(Priority.LOW, payload=payload, rule=f"tier {tier.name} is drained")
        self._writer.enqueue_item(MIGRATE, "", wish, self._clock())
        self._polls.changed()
        return 1

    def _by_level(self, settings: Settings, most: int, now: float) -> int:
        """Order moves from tiers whose level asks for it; return how many."""
        at = settings.migration.at_level
        rooms = self._rooms(settings, spare=True)
        levels = self._reader.levels()
        ranks = {name: row.level.rank for name, row in levels.items()}
        count = 0
        for source in migration.sources(rooms, ranks, None if at == "never" else Level(at).rank):
            need_bytes = int(levels[source.name].detail.get("need_bytes_amber") or 0)
            tier = next(one for one in settings.tiers if one.name == source.name)
            found = self._unheld(self._reader.least_recent(tier.name, most + _WINDOW), now)
            chosen = migration.enough(
                (Lying(one.study_uid, one.size_bytes) for one in found),
                need_bytes,
                most - count,
            )
            for one in found[: len(chosen)]:
                count += self._move(one, tier, settings, Why.LEVEL, now, later=True)
        return count

    def _by_age(self, settings: Settings, before_s: float, most: int, now: float) -> None:
        """Order moves of studies that lie on a tier, and have not grown, for long enough."""
        last = max(tier.order for tier in settings.tiers if tier.role == "image" and movable(tier))
        for tier in settings.tiers:
            if tier.role != "image" or not movable(tier) or tier.order >= last or tier.draining:
                continue
            found = self._unheld(self._reader.aged(tier.name, before_s, _WINDOW), now)
            for one in found[: max(0, most)]:
                most -= self._move(one, tier, settings, Why.AGE, now, later=True)

    # What they share

    def _unheld(self, leavers: Iterable[Leaver], now: float) -> list[Leaver]:
        """Leave out studies that were ordered, or could not be, a moment ago."""
        again_s = self._due.tiering_again_s
        for uid in [uid for uid, at_s in again_s.items() if at_s <= now]:
            del again_s[uid]
        return [one for one in leavers if one.study_uid not in again_s]

    def _move(
        self,
        one: Leaver,
        tier: TierSettings,
        settings: Settings,
        why: Why,
        now: float,
        *,
        later: bool = False,
    ) -> int:
        """Seal a study and order its move; 0 where that cannot be done just now."""
        self._due.tiering_again_s[one.study_uid] = now + AGAIN_AFTER_S
        if tier.role == "library":
            return self._leave_library(one, tier)
        held = self._reader.held(one.study_uid)
        to_tier = migration.target(
            self._rooms(settings, spare=later),
            held=held,
            leaving=[tier.name],
            need_bytes=0 if one.offline else one.size_bytes,
            later_than=tier.order if later else None,
        )
        if to_tier is None:
            log.warning("no image tier has room", extra={"study": one.study_uid})
            return 0
        if not self.seal_now(one.study_uid):
            if self.being_sealed(one.study_uid):
                self._due.tiering_again_s[one.study_uid] = now + LOOK_EVERY_S
            return 0
        self._order(one.study_uid, to_tier, why, Priority.LOW, "")
        return 1

    def _leave_library(self, one: Leaver, tier: TierSettings) -> int:
        """Let a study leave a drained library: archived to the others first, purged then."""
        who, now = f"drain of {tier.name}", self._clock()
        try:
            if self._reader.proven_in(one.study_uid) - {tier.name}:
                self.purge_copy(one.study_uid, tier.name, who)
                return 0
            if self._reader.last_failed_s(one.study_uid, ARCHIVE) > now - AGAIN_AFTER_S:
                return 0  # the long pause stays: what is damaged or not there is so a while later
            # From containers, where its instances lie nowhere else.
            told = self.order_archive([one.study_uid], who)
        except RaypacsError as exc:
            log.warning("does not leave the library: %s", exc, extra={"study": one.study_uid})
            return 0
        self._due.tiering_again_s[one.study_uid] = now + LOOK_EVERY_S
        return len(told["items"])

    def _next(
        self, settings: Settings, held: Mapping[str, int], leaving: Sequence[str], need_bytes: int
    ) -> str | None:
        """Return the tier that a study moves to where nobody names one: a later one with room."""
        orders = [tier.order for tier in settings.tiers if tier.name in leaving]
        return migration.target(
            self._rooms(settings),
            held=held,
            leaving=leaving,
            need_bytes=need_bytes,
            later_than=max(orders, default=None) if orders else None,
        )

    def _order(self, study_uid: str, to_tier: str, why: Why, priority: Priority, who: str) -> int:
        payload = {"to": to_tier, "why": str(why)}
        wish = Wish(priority, payload=payload, who=who, rule=f"moves to {to_tier}: {why}")
        item_id = self._writer.enqueue_item(MIGRATE, study_uid, wish, self._clock())
        self._polls.changed()
        return item_id

    def _rooms(self, settings: Settings, *, spare: bool = False) -> list[TierRoom]:
        """Return the tiers with what may be written there; ``spare``: some is left free."""
        accounts = self._reader.ledger()
        part = settings.migration.keep_free if spare else 0.0
        found = []
        for tier in settings.tiers:
            row = accounts.get(tier.name)
            if row is None:
                continue
            available = migration.kept_free(row.available_bytes, row.capacity_bytes, part)
            room = TierRoom(
                *(tier.name, tier.role, tier.order, available),
                read_only=tier.read_only,
                reachable=row.reachable,
                draining=tier.draining,
            )
            found.append(room)
        return found


def movable(tier: TierSettings) -> bool:
    """Whether studies may leave a tier: not one of others, nor one that cannot be written."""
    return not tier.adopted and (tier.draining or not tier.read_only)


def _check_target(settings: Settings, name: str) -> None:
    tier = next((tier for tier in settings.tiers if tier.name == name), None)
    if tier is None:
        raise NotFound(f"no tier {name}", tier=name)
    if tier.role != "image":
        raise ConfigError(f"tier {name} is a {tier.role} tier: studies move between image tiers")
    if not tier.takes_new:
        why = "is drained" if tier.draining else "is read-only"
        raise ConfigError(f"tier {name} {why}: it takes nothing new")
