"""Writes about eviction: steps that free a cache, intents begun or taken back, pins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from raypacs.index import deletion, evict_step, evicting, pins, purging, web_evicting
from raypacs.index.evict_step import Ask, Step
from raypacs.index.evicting import Places
from raypacs.index.writing import Writing

JUDGE_FOR_S = 0.02
"""So long copies are judged at a time; the master does nothing else meanwhile."""


class EvictWrites(Writing):
    """The eviction's part of the writer."""

    def evict_step(self, ask: Ask, now: float) -> Step:
        """Choose from the next page of candidates, and let the chosen leave."""
        with self.transaction(now, durable=True) as txn:
            return evict_step.take(txn, ask)

    def evict_one(
        self, ask: Ask, study_uid: str, rule: str, now: float, *, places: Places | None = None
    ) -> int:
        """Let one study leave a tier; return the bytes. Raises as ``evict_step.one_study``."""
        with self.transaction(now, durable=True) as txn:
            return evict_step.one_study(txn, ask, study_uid, rule, places)

    def begin_listed(self, study_uids: Iterable[str], now: float) -> list[int]:
        """Begin the listed intents of studies that are due, or take them back; return those begun.

        Their proofs are counted again (``evicting.begin``).
        """
        with self.transaction(now, durable=True) as txn:
            return [one for uid in study_uids for one in evicting.begin(txn, uid)]

    def begin_plain(self, intent_ids: Sequence[int], now: float) -> list[int]:
        """Begin intents of whole objects; return those that are still there."""
        with self.transaction(now, durable=True) as txn:
            return deletion.begin(txn, intent_ids)

    def put_off(self, intent_ids: Sequence[int], until_s: float, now: float) -> None:
        """Look at intents again later: what they list cannot be read just now."""
        with self.transaction(now) as txn:
            deletion.put_off(txn, intent_ids, until_s)

    def take_back(self, study_uid: str, why: str, now: float) -> bool:
        """Let a study that left, and of which no byte went yet, be online again."""
        with self.transaction(now, durable=True) as txn:
            return evicting.take_back(txn, study_uid, why)

    def pin(self, study_uid: str, until_s: float, who: str, now: float) -> float:
        """Pin a study, or take its pin away (0); return until when. Raises NotFound."""
        with self.transaction(now, durable=True) as txn:
            pinned_s = pins.pin(txn, study_uid, until_s, who)
            if pinned_s > now:
                evicting.take_back(txn, study_uid, "it was pinned")
            return pinned_s

    def end_pins(self, limit: int, now: float) -> int:
        """Let pins go whose time is over; return how many."""
        with self.transaction(now) as txn:
            return pins.end_pins(txn, limit)

    def judge_some(self, limit: int, now: float, for_s: float = JUDGE_FOR_S) -> int:
        """Judge copies that never were, or all after tiers have other roles; return how many.

        Pages of ``limit``, each a transaction of its own, until there are none or ``for_s`` are
        over.
        """
        judged, until_s = 0, time.monotonic() + for_s
        while True:
            with self.transaction(now) as txn:
                found = pins.judge_some(txn, limit) or pins.judge_again(txn, limit)
            judged += found
            if not found or time.monotonic() >= until_s:
                return judged

    def prepare_again(self, study_uid: str, now: float) -> bool:
        """Let a study whose packs had left become due for PREPARE, once."""
        with self.transaction(now) as txn:
            return web_evicting.prepare_again(txn, study_uid)

    def purge_copy(self, study_uid: str, library: str, who: str, now: float) -> int:
        """Take a study out of a library; return the bytes. Raises as ``purging.purge``."""
        with self.transaction(now, durable=True) as txn:
            return purging.purge(txn, study_uid, library, who)
