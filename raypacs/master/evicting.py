"""The master's duty to free caches, and events about pins and eviction."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass

from raypacs.errors import (
    IllegalTransition,
    InvalidQuery,
    ManifestCorrupt,
    NotFound,
    StudySealed,
    TierUnavailable,
)
from raypacs.index.candidates import START, Cursor
from raypacs.index.evict_reader import Need
from raypacs.index.evict_step import Ask
from raypacs.index.evicting import Places
from raypacs.index.pins import FOR_EVER_S
from raypacs.master.deleting import DeleteDuties
from raypacs.master.sealing import SealDuties
from raypacs.policy import archiving
from raypacs.policy.archiving import ARCHIVE
from raypacs.policy.eviction import Choice
from raypacs.policy.holding import KEPT
from raypacs.policy.levels import Level
from raypacs.policy.queue import Priority
from raypacs.policy.staging import copying
from raypacs.storage import manifest

log = logging.getLogger(__name__)

EVICT_FOR_S = 0.03
"""So long a tick may decide; a step under way is finished."""
STUDIES_AT_ONCE = 8
LOOK_EVERY_S = 0.5
# A walk that found all there is begins anew after this time; what could not go may be free then.
REST_S = 60.0
# One that goes on where it stopped passes by what became free behind it, so not for ever.
ANEW_S = 3600.0
JUDGED_AT_ONCE = 100
WANTED_AT_ONCE = 100
PREPARED_AT_ONCE = 2
COPY_EVERY_S = 10.0
ORDERED = "ordered"


@dataclass
class Walk:
    """Where a cache's walk through its candidates is; ``began_s``: since when."""

    level: Level
    began_s: float
    number: int = 0
    """Which pass of rules."""
    after: Cursor = START
    rest_until_s: float = 0.0


class EvictDuties(DeleteDuties, SealDuties):
    """Eviction."""

    def _evict_due(self, now: float) -> None:
        """Free what levels demand, a bounded step at a time."""
        if now < self._due.evict_s:
            return
        self._due.evict_s = now + LOOK_EVERY_S
        self._judge_copies(now)
        self._prepare_again(now)
        self._copy_due(now)
        if not self._may_delete():
            return
        until_s = time.monotonic() + EVICT_FOR_S
        needs = self._reader.needs()
        for gone in self._due.walks.keys() - {need.tier for need in needs}:
            del self._due.walks[gone]
        for need in needs:
            self._free(need, now, until_s)

    def _judge_copies(self, now: float) -> None:
        """End pins whose time is over, and judge copies that are to be: a page a second."""
        if now < self._due.pins_s:
            return
        ended = self._writer.end_pins(JUDGED_AT_ONCE, now)
        judged = self._writer.judge_some(JUDGED_AT_ONCE, now)
        self._due.pins_s = now + (LOOK_EVERY_S if ended + judged else 10.0)

    # Freeing

    def _free(self, need: Need, now: float, until_s: float) -> None:
        """Let studies leave one cache until its need is met, there is none, or time is over."""
        walk = self._walk(need, now)
        if now < walk.rest_until_s:
            return
        self._free_kept(need, now)
        levels = list(need.by_level)
        freed = 0
        while True:
            level = levels[walk.number]
            left = need.by_level[level] - freed
            if left <= 0:
                if walk.number + 1 == len(levels) or need.by_level[levels[-1]] <= freed:
                    if now >= walk.began_s + ANEW_S:
                        del self._due.walks[need.tier]
                    return
                walk.number, walk.after = walk.number + 1, START
                continue
            ask = Ask(need.tier, level, left, walk.after, STUDIES_AT_ONCE, hours=need.hours)
            step = self._writer.evict_step(ask, now)
            freed += step.freed_bytes + self._free_spread(ask, step.spread, now)
            if step.choices:
                log.info(
                    "studies evicted",
                    extra={"tier": need.tier, "level": level, "studies": len(step.choices)},
                )
            if step.after is not None:
                walk.after = step.after
            elif walk.number + 1 < len(levels):
                walk.number, walk.after = walk.number + 1, START
            else:
                walk.rest_until_s = now + REST_S
                return
            if time.monotonic() > until_s:
                return

    def _walk(self, need: Need, now: float) -> Walk:
        """Return a cache's walk: the one under way, or a new one after a rest.

        One under way is never begun anew because of its age: it would not get to its end, nor to
        the rules of red, where it takes longer.
        """
        walk = self._due.walks.get(need.tier)
        if walk is not None and (walk.level, need.level) == (Level.AMBER, Level.RED):
            # Rules of amber come first on red, too: it goes on where it is.
            walk.level = need.level
            if walk.rest_until_s and walk.number + 1 < len(need.by_level):
                walk.number, walk.after, walk.rest_until_s = walk.number + 1, START, 0.0
        if walk is None or walk.level is not need.level or 0 < walk.rest_until_s <= now:
            walk = self._due.walks[need.tier] = Walk(need.level, now)
        return walk

    def _free_kept(self, need: Need, now: float) -> None:
        """Let go what series shares kept, where that is more than the shares by now."""
        excess = self._reader.kept_excess(need.tier) if need.role == "image" else 0
        if excess > 0:
            level = next(iter(need.by_level))
            ask = Ask(need.tier, level, excess, START, STUDIES_AT_ONCE, KEPT, need.hours)
            self._writer.evict_step(ask, now)

    def _free_spread(self, ask: Ask, choices: tuple[Choice, ...], now: float) -> int:
        """Let go studies of which only the manifests tell what lies where."""
        freed = 0
        for choice in choices:
            uid = choice.candidate.study_uid
            try:
                places = self._places(uid)
                freed += self._writer.evict_one(ask, uid, choice.rule, now, places=places)
            except (NotFound, ManifestCorrupt, TierUnavailable, IllegalTransition) as exc:
                log.warning("not evicted: %s", exc, extra={"study": uid})
        return freed

    def _places(self, study_uid: str) -> Places:
        """Read from its manifests what of a study lies on which image tier.

        Raises:
            NotFound, ManifestCorrupt, TierUnavailable: one of them cannot be read.
        """
        settings = self._reader.settings()[1]
        ours = {one.name for one in settings.tiers if one.role == "image" and not one.adopted}
        gone = self._reader.gone_manifests(study_uid)
        found: dict[str, list[tuple[str, int, int]]] = {}
        for ref in self._reader.manifests(study_uid):
            if ref.path in gone:
                continue
            sums: dict[str, list[int]] = {}
            for row in manifest.decode(self._tier_of(ref.tier).read(ref.path)).rows():
                if row["tier"] in ours:
                    one = sums.setdefault(row["tier"], [0, 0])
                    one[0] += 1
                    one[1] += row["size_bytes"]
            found[ref.series_uid] = [(tier, one[0], one[1]) for tier, one in sums.items()]
        return found

    # Copies to libraries by staging rules, and web copies made again

    def _copy_due(self, now: float) -> None:
        """Order archiving of what staging rules copy at the level of its cache (B11)."""
        if now < self._due.copy_s:
            return
        self._due.copy_s = now + COPY_EVERY_S
        settings = self._reader.settings()[1]
        if not copying(settings.staging, Level.RED):
            return
        if not archiving.libraries_of(settings.tiers, settings.archive.libraries):
            return
        # By day the other half may be what is parked until the window opens.
        free = 2 * settings.archive.items - self._reader.open_items(ARCHIVE)
        levels = self._reader.levels()
        for tier in settings.tiers:
            if tier.role != "image" or tier.adopted:
                continue
            level = levels[tier.name].level if tier.name in levels else Level.GREEN
            rules = copying(settings.staging, level)
            if not rules or free <= 0:
                continue
            most = min(free, STUDIES_AT_ONCE)
            after = self._due.copied.get(tier.name, START)
            found, more = self._reader.to_copy(tier.name, rules, after, most, now)
            for name in dict.fromkeys(name for _, name in found):
                uids = [uid for uid, rule in found if rule == name]
                who = f"staging rule {name}"
                self._writer.order_archive(uids, [], who, now, Priority.LOW)
                self._polls.changed()
            free -= len(found)
            self._due.copied[tier.name] = more or START
            if more:
                self._due.copy_s = now + LOOK_EVERY_S

    def _prepare_again(self, now: float) -> None:
        """Prepare what was accessed since its packs left; what is offline comes back first."""
        again_s = self._due.prepare_again_s
        for uid in [uid for uid, at_s in again_s.items() if at_s <= now]:
            del again_s[uid]
        # Round and round: one that cannot come back just now is no hindrance to the others.
        page = self._reader.web_wanted(WANTED_AT_ONCE, self._due.prepare_again_after)
        due = [one for one in page if one[0] not in again_s]
        some = due[:PREPARED_AT_ONCE]
        last = some if len(some) < len(due) else page if len(page) == WANTED_AT_ONCE else []
        self._due.prepare_again_after = last[-1][0] if last else ""
        for uid, offline, sealed in some:
            if offline:
                self.order_restore(uid, "high")
                again_s[uid] = now + REST_S / 4
            elif sealed and self.reopen(StudySealed("it is prepared again", study_uids=[uid])):
                again_s[uid] = now + REST_S
            else:
                self._writer.prepare_again(uid, now)

    # Events

    def pin(self, study_uid: str, until_s: float, who: str = "") -> float:
        """Keep a study from eviction until ``until_s``; return until when it is pinned.

        0 or less without an end: it is pinned for ever. Also one that is about to leave stays.

        Raises:
            NotFound: no such study.
            InvalidQuery: a time that is over.
        """
        now = self._clock()
        until_s = until_s if until_s > 0 else FOR_EVER_S
        if not math.isfinite(until_s) or until_s <= now:
            raise InvalidQuery(f"until: {until_s!r} is over", key="until")
        return self._writer.pin(study_uid, until_s, who, now)

    def unpin(self, study_uid: str, who: str = "") -> None:
        """Take a study's pin away. Idempotent. Raises NotFound."""
        self._writer.pin(study_uid, 0.0, who, self._clock())

    def evict_study(self, study_uid: str, who: str = "", tier: str = "") -> int:
        """Let one study leave the image tiers, or a web tier, whatever the level; return the bytes.

        Without ``tier``: the image tiers if it is there, else the web tier. Never what no library
        has a proven copy of.

        Raises:
            NotFound: no such study, or it is not there.
            IllegalTransition: it may not leave; says why.
        """
        now = self._clock()
        if not self._may_delete():
            raise IllegalTransition("nothing is deleted until the index was reconciled")
        settings = self._reader.settings()[1]
        roles = {one.name: one.role for one in settings.tiers if not one.adopted}
        copies = self._reader.study(study_uid)["copies"]
        held = [one["tier"] for one in copies if roles.get(one["tier"]) in ("image", "web")]
        held.sort(key=lambda name: roles[name] == "web")
        wanted = [name for name in held if tier in ("", name)]
        if not wanted:
            raise NotFound(f"study {study_uid} is in no such cache", study_uid=study_uid)
        ask = Ask(wanted[0], Level.GREEN, 0, who=who or "somebody")
        is_open = roles[wanted[0]] == "image" and not self.seal_now(study_uid)
        if is_open and self.being_sealed(study_uid):
            raise IllegalTransition(f"study {study_uid} is being sealed: try again")
        try:
            return self._writer.evict_one(ask, study_uid, ORDERED, now)
        except IllegalTransition as exc:
            if not exc.fields.get("spread"):
                raise
            places = self._places(study_uid)
            return self._writer.evict_one(ask, study_uid, ORDERED, now, places=places)

    def order_eviction(self, who: str = "") -> None:
        """Look at once at what may leave, instead of after a rest; on green nothing does."""
        self._due.walks.clear()
        self._due.evict_s = 0.0
        self._writer.audit("eviction ordered", self._clock(), who=who)

    def take_back(self, study_uid: str, why: str = "it was asked for") -> bool:
        """Let a study that left, and of which no byte went yet, be online again."""
        return self._writer.take_back(study_uid, why, self._clock())

    def purge_copy(self, study_uid: str, library: str, who: str = "") -> int:
        """Take a study out of a library; return the bytes that go.

        Raises:
            NotFound: it has no copy there.
            IllegalTransition: that copy is the one that is relied on; says why.
        """
        now = self._clock()
        self._see_libraries(now)
        return self._writer.purge_copy(study_uid, library, who, now)
