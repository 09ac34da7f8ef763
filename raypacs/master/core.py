"""The master: one short method per event; decisions are in ``policy``, memory in ``index``.

No Ray here. There may be two masters at once: the one of the later epoch can write, the other gets
StaleEpoch from whatever it does and must end itself.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raypacs import process
from raypacs.config import Settings, TierSettings, default_tiers
from raypacs.errors import NotFound, StaleEpoch, StudySealed, TierUnavailable
from raypacs.index.engine import migrate, open_engine
from raypacs.index.reader import IndexReader
from raypacs.index.writer import IndexWriter
from raypacs.master.adopting import AdoptEvents
from raypacs.master.autopilot import Autopilot
from raypacs.master.base import Due
from raypacs.master.batches import AtOnce
from raypacs.master.keeping import DELETE_GRACE_S, TierDuties
from raypacs.master.nodes import NodeEvents
from raypacs.master.polls import Polls
from raypacs.master.queueing import QueueEvents
from raypacs.master.roll import Roll
from raypacs.master.sealing import SealDuties
from raypacs.master.statistics import StatisticsDuties
from raypacs.records import AsideRecord, InstanceRecord, Lease, Outcome, Registered
from raypacs.storage.late import PATIENCE_S, Guard
from raypacs.storage.tier import Tier, open_tier
from raypacs.upkeep import TierSet

log = logging.getLogger(__name__)

STATS_EVERY_S = 30.0
# Longer than any caller repeats a call whose answer was lost.
DELETED_LATELY_S = 300.0


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one tick did."""

    enqueued: int = 0
    expired: tuple[Lease, ...] = ()
    swept_objects: int = 0
    deleted_objects: int = 0


class Master(
    StatisticsDuties, QueueEvents, NodeEvents, AdoptEvents, Autopilot, SealDuties, TierDuties
):
    """Claims the next epoch in its constructor and answers events under it.

    Every method but ``status`` and ``settings`` may raise StaleEpoch. Thread-safe, save ``tick``
    and ``close``, which one caller calls. ``clock`` gives seconds since the Unix epoch in UTC.
    """

    def __init__(
        self,
        index_url: str,
        data_dir: Path,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        tier_opener: Callable[[TierSettings], Tier] = open_tier,
        tier_patience_s: float = PATIENCE_S,
        node: str = "",
        bootstrap_hash: str = "",
    ) -> None:
        """Claim. ``node`` is where it runs; nodes of another ``bootstrap_hash`` are refused.

        A tier that does not answer for ``tier_patience_s`` seconds counts as unreachable.
        """
        self._clock = clock
        self._node_name, self._bootstrap_hash = node, bootstrap_hash
        self._wanted = ("", 0.0)
        self._stats_dir = Path(data_dir) / "stats"
        self._engine = open_engine(index_url)
        migrate(self._engine)
        self._reader = IndexReader(index_url)
        version, settings = self._reader.settings()
        if not version:
            settings = Settings(tiers=default_tiers(Path(data_dir)))
        self._tiers = TierSet(Guard(tier_opener, patience_s=tier_patience_s))
        self._tiers.open(settings.tiers, self._reader.site())
        marked, sequence = self._tiers.newest_marker()
        self._writer = IndexWriter.claim_epoch(
            self._engine,
            [marked],
            clock(),
            sequence=sequence,
            claimer=process.identity(node),
            chance=chance,
        )
        self.restarts = self._writer.master_began(clock())
        self._deletes = AtOnce()
        self._due = Due()
        self._polls = Polls()
        known = self._reader.nodes(clock())
        self._roll = Roll(known, clock())
        # Until about then there was a master: what leases lost since is given back.
        self._looked_s = max((node["seen_s"] for node in known), default=clock())
        if not version:
            self.apply_settings(settings, "first start")
        self._look_at_tiers(clock())
        log.info("master up", extra={"epoch": self.epoch})

    # Receiving

    def register(self, records: Sequence[InstanceRecord], holder: str = "") -> list[Registered]:
        """Register durable instances; their bytes leave ``holder``'s grants. Idempotent.

        Where an instance is known but its bytes are gone (a disk was lost), the new ones take
        their place: KNOWN would tell the edge to delete the only copy. Instances of a sealed study
        whose manifests cannot be read just now have no answer: ask again.
        """
        blocked: set[str] = set()
        while True:
            taken = [record for record in records if record.study_uid not in blocked]
            try:
                answers = self._writer.register(taken, self._clock(), holder=holder)
                break
            except StudySealed as exc:
                blocked |= self.reopen(exc)
        return [
            replace(answer, outcome=Outcome.STORED)
            if answer.outcome is Outcome.KNOWN and self._takes_place(record)
            else answer
            for record, answer in zip(taken, answers, strict=True)
        ]

    def _takes_place(self, record: InstanceRecord) -> bool:
        served = self._reader.locate_instance(record.sop_instance_uid)
        if served is None:
            return False
        lost = (served.record.tier, served.record.path)
        if not lost[0]:
            # It lies nowhere but in libraries: what was just stored need not come from there.
            return self._writer.relocate(record, lost, self._clock())
        tier = next((tier for tier in self._tiers.reachable() if tier.name == lost[0]), None)
        try:
            if tier is None or tier.exists(lost[1]) or not self._is_there(tier):
                return False
        except TierUnavailable as exc:  # nobody knows if it is lost
            log.warning("not looked for: %s", exc, extra={"tier": lost[0]})
            return False
        log.error("an instance was lost from its tier", extra={"tier": lost[0], "path": lost[1]})
        return self._writer.relocate(record, lost, self._clock())

    def aside(self, record: AsideRecord, holder: str = "") -> None:
        """Write down a conflict or a quarantined object. Idempotent."""
        self._writer.aside(record, self._clock(), holder=holder)

    def hint(self, study_uids: Iterable[str]) -> None:
        """Let these studies be prepared at the next tick, without waiting for quiet."""
        self._writer.hint_complete(study_uids, self._clock())

    def touched(self, study_uids: Iterable[str]) -> None:
        """Note that these studies were accessed."""
        self._writer.touched(study_uids, self._clock())

    def grant(self, tier: str, holder: str, want_bytes: int, url: str = "") -> int:
        """Promise up to ``want_bytes`` on a tier; 0: it is full, unreachable or not at ``url``."""
        return self._writer.grant(tier, holder, want_bytes, self._clock(), url=url)

    def release_grants(self, holder: str) -> int:
        """Give back what ``holder`` and ``holder/...`` did not use."""
        return self._writer.release_grants(holder, self._clock())

    # Administration

    def delete_study(self, study_uid: str, who: str = "") -> int:
        """Take a study out of every cache; return the number of objects whose bytes go soon.

        Idempotent: a call whose answer was lost is answered the same again.

        Raises:
            NotFound: no such study, and none that was deleted a moment ago.
            TierUnavailable: it is sealed, and its manifests cannot be read just now.
        """
        now = self._clock()
        try:
            intents = self._writer.delete_study(study_uid, now, grace_s=DELETE_GRACE_S, who=who)
        except NotFound:
            deleted = self._reader.deleted_since(study_uid, now - DELETED_LATELY_S)
            if deleted is None:
                raise
            return deleted
        except StudySealed as exc:
            if self.reopen(exc):
                raise TierUnavailable(
                    f"study {study_uid} is sealed, and its manifests cannot be read",
                    study=study_uid,
                ) from exc
            intents = self._writer.delete_study(study_uid, now, grace_s=DELETE_GRACE_S, who=who)
        self._polls.changed()
        return len(intents)

    def settings(self) -> tuple[int, Settings]:
        """Return (version, settings)."""
        return self._reader.settings()

    def apply_settings(self, new: Settings, who: str, expected_version: int | None = None) -> int:
        """Make ``new`` the settings; return their version.

        A tier that cannot be reached just now is taken, and shown as unreachable.

        Raises:
            AlreadyExists: another version than the expected one holds (None: any may).
            ConfigError: they cannot be, or a tier in them can never be opened.
        """
        self._tiers.check(new.tiers, self._reader.settings()[1].tiers)
        version = self._writer.apply_settings(
            new, who, self._clock(), expected_version=expected_version
        )
        self._polls.changed()
        self._look_at_tiers(self._clock())
        return version

    def status(self, now: float | None = None) -> dict[str, Any]:
        """Return the state of the cluster as a plain dict (``index.status``)."""
        return self._reader.status(self._clock() if now is None else now)

    # Time

    def tick(self, now: float | None = None) -> Ticked:
        """Do what time brings; call it about every second."""
        now = self._clock() if now is None else now
        self._mind_absence(now)
        expired = [*self._look_for_nodes(now), *self._writer.expire(now)]
        self._looked_s = now
        enqueued = self._writer.enqueue_due(now)
        if expired or enqueued:
            self._polls.changed()
        if now >= self._due.tiers_s:
            reached = {tier.name for tier in self._tiers.reachable()}
            self._look_at_tiers(now)
            if reached != {tier.name for tier in self._tiers.reachable()}:
                self._polls.changed()
        self._mark_changes(now)
        swept = self._sweep_attempts(now) + self._sweep_parts(now)
        deleted = self._delete_due(now)
        self._seal_due(now)
        self._mind_caches(now)
        self._retire_items(now)
        self._sample(now)
        if now >= self._due.stats_s:
            # One batch a tick: after a rush the rest can wait, events cannot.
            more = self._flush_stats(now)
            self._due.stats_s = now if more else now + STATS_EVERY_S
        self._merge_stats(now)
        return Ticked(enqueued, tuple(expired), swept, deleted)

    def close(self) -> None:
        """Write the statistics that wait and close the connections."""
        self._end_alarms()
        self._deletes.close()
        try:
            now = self._clock()
            self._writer.publish("samples", self._samples(now), now)
            while self._flush_stats(now):
                pass
            self._tiers.mark(self.epoch, self._writer.sequence(now), self._still_ours)
        except StaleEpoch:
            log.info("a later master writes the statistics", extra={"epoch": self.epoch})
        finally:
            self._reader.close()
            self._engine.dispose()
