"""The master's events about restores, prefetching and migration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raypacs.index.queue import Wish
from raypacs.master.sealing import SealDuties
from raypacs.policy.prefetching import Announced
from raypacs.policy.queue import Priority, priority_of
from raypacs.records import Lease

LOOK_EVERY_S = 2.0
GROWN_PER_TICK = 10
ARRIVED_PER_TICK = 10
# What waits for room asks again sooner: so long a tier counts as full where nothing does.
FULL_FOR_S = 600.0


class PlaceEvents(SealDuties):
    """Where studies lie."""

    def _place_due(self, now: float) -> None:
        """Restore studies that grew while they were away; prefetch priors of those that arrived."""
        if now < self._due.place_s:
            return
        self._due.place_s = now + LOOK_EVERY_S
        made = 0
        for study_uid in self._reader.grown_away(GROWN_PER_TICK):
            told = self._bring_back(study_uid, Wish(Priority.HIGH, rule="it grew"), touch=False)
            made += told["item_id"] > 0
        if self._reader.settings()[1].prefetch:
            arrived = self._writer.prefetch_arrived(now, limit=ARRIVED_PER_TICK)
            if arrived >= ARRIVED_PER_TICK:
                self._due.place_s = now
            made += arrived
        if made:
            self._polls.changed()

    def plan_objects(self, lease: Lease, places: Iterable[tuple[str, str]]) -> None:
        """Note (tier, path) of objects before an attempt writes them. Raises StaleLease."""
        self._writer.plan_objects(lease, places, self._clock())

    def reserve(self, lease: Lease, tier: str, size_bytes: int) -> int:
        """Take room for an attempt; return the bytes granted. Raises StaleLease.

        A tier that had less counts as full for a while.
        """
        now = self._clock()
        granted = self._writer.reserve(lease, tier, size_bytes, now)
        if granted < size_bytes:
            self._due.full_s[tier] = now + FULL_FOR_S
        else:
            self._due.full_s.pop(tier, None)
        return granted

    def order_restore(
        self,
        study_uid: str,
        priority: str = "stat",
        who: str = "",
        *,
        seen_away: bool = False,
        touch: bool = True,
    ) -> dict[str, Any]:
        """Bring a study back from a library; answers ``item_id``, ``state`` and ``error``.

        One item stands for all who ask. ``seen_away``: its bytes were looked for and not found.
        ``touch``: that it is asked for counts as an access. ``item_id`` 0: nothing is to be done
        (``state`` online), or can be (nowhere).

        Raises:
            NotFound: no such study. InvalidQuery: no such priority.
        """
        wish = Wish(priority_of(priority), who=who, rule="" if who else "a reader asks for it")
        told = self._bring_back(study_uid, wish, seen_away=seen_away, touch=touch)
        self._polls.changed()
        return told

    def _bring_back(
        self, study_uid: str, wish: Wish, *, seen_away: bool = False, touch: bool = True
    ) -> dict[str, Any]:
        payload = {} if touch else {"touch": False}
        wish = Wish(wish.priority, payload=payload, who=wish.who, rule=wish.rule)
        return self._writer.order_restore(study_uid, wish, self._clock(), seen_away=seen_away)

    def order_prefetch(
        self, study_uid: str, priority: str = "medium", who: str = ""
    ) -> dict[str, Any]:
        """Bring a study into the caches before somebody asks; answers as :meth:`order_restore`.

        Raises:
            NotFound: no such study. InvalidQuery: no such priority.
        """
        wish = Wish(priority_of(priority), who=who)
        told = self._writer.order_prefetch(study_uid, wish, self._clock())
        self._polls.changed()
        return told

    def announce(
        self, patient_id: str, modality: str = "", body_part: str = "", who: str = ""
    ) -> list[dict[str, Any]]:
        """Bring priors of a patient into the caches, for a study that is to come.

        Answers study_uid, rule, item_id and state of each prior that the rules choose.
        """
        now = self._clock()
        announced = Announced(patient_id, modality, body_part, now)
        found = self._writer.prefetch_for(announced, now, who=who)
        self._polls.changed()
        return found
