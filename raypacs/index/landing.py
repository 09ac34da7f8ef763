"""Where the new objects of a study land: an edge's view of the image tiers' room (FEATURES C4).

Figures of the ledger are a few seconds old at most; which tier holds a study is asked once a study
and process. Both are only preferences: a tier that takes nothing is passed over when it is tried.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from raypacs.config import TierSettings
from raypacs.errors import MasterUnavailable
from raypacs.index.ledger import LedgerRow
from raypacs.policy.placement import TierRoom, ranked

log = logging.getLogger(__name__)

FRESH_S = 2.0
MOST_STUDIES = 10_000


class Asked(Protocol):
    """What is asked of the read side."""

    def ledger(self) -> dict[str, LedgerRow]:
        """Every tier's account."""

    def held(self, study_uid: str) -> dict[str, int]:
        """Bytes of a study by tier."""


class Landing:
    """Ranks the image tiers for a study; thread-safe."""

    def __init__(
        self,
        tiers: Sequence[TierSettings],
        reader: Asked,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``clock`` gives seconds that only grow."""
        self._tiers = [tier for tier in tiers if tier.role == "image"]
        orders = {tier.order for tier in self._tiers if tier.takes_new}
        self._equals = len(orders) < sum(tier.takes_new for tier in self._tiers)
        self._reader, self._clock = reader, clock
        self._lock = threading.Lock()
        self._rooms: list[TierRoom] = []
        self._seen_s = -FRESH_S
        self._first: OrderedDict[str, str] = OrderedDict()  # study to the tier it landed on

    def __call__(self, study_uid: str) -> tuple[str, ...]:
        """Return the names of the tiers in the order in which they are to be tried."""
        try:
            rooms = self._room()
            held = self._held(study_uid)
        except MasterUnavailable as exc:  # the index does not answer: by order alone
            log.warning("tiers are not ranked by their room: %s", exc)
            rooms, held = [_room_of(tier, None) for tier in self._tiers], ()
        names = ranked(rooms, role="image", held_by=held)
        if study_uid and names and not held and self._equals:
            self._remember(study_uid, names[0])
        return names

    def _room(self) -> list[TierRoom]:
        now = self._clock()
        if now - self._seen_s >= FRESH_S:
            accounts = self._reader.ledger()
            self._rooms = [_room_of(tier, accounts.get(tier.name)) for tier in self._tiers]
            self._seen_s = now
        return self._rooms

    def _held(self, study_uid: str) -> tuple[str, ...]:
        """Return the tier that the study's objects go to; asked only where tiers are equal."""
        if not study_uid or not self._equals:
            return ()
        with self._lock:
            if study_uid in self._first:
                self._first.move_to_end(study_uid)
                return (self._first[study_uid],)
        held = self._reader.held(study_uid)
        ours = [tier.name for tier in self._tiers if held.get(tier.name)]
        if not ours:
            return ()
        most = max(ours, key=lambda name: held[name])
        self._remember(study_uid, most)
        return (most,)

    def _remember(self, study_uid: str, tier: str) -> None:
        with self._lock:
            self._first[study_uid] = tier
            while len(self._first) > MOST_STUDIES:
                self._first.popitem(last=False)


def _room_of(tier: TierSettings, row: LedgerRow | None) -> TierRoom:
    return TierRoom(
        tier.name,
        tier.role,
        tier.order,
        row.available_bytes + row.granted_bytes if row else 1,
        read_only=tier.read_only,
        reachable=row.reachable if row else True,
        draining=tier.draining,
    )
