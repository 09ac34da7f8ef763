"""Which tiers this node reaches, asked in threads: a file server that hangs must not hold it up."""

from __future__ import annotations

import logging
import threading
import time

from raypacs.config import TierSettings
from raypacs.errors import RaypacsError
from raypacs.index.reader import IndexReader
from raypacs.storage.site import belongs
from raypacs.storage.tier import open_tier

_log = logging.getLogger("raypacs.cluster.reach")
EVERY_S = 10.0
FRESH_S = 30.0
FIRST_S = 5.0


class Reach:
    """Looks at each tier of the settings every few seconds; a look that hangs is left behind."""

    def __init__(self, reader: IndexReader) -> None:
        self._reader = reader
        self._seen_s: dict[str, float] = {}
        self._looks: dict[str, threading.Thread] = {}
        self._next_s = 0.0
        self._first_until_s: float | None = None

    def first(self) -> None:
        """Look for the first time: wait until every tier answered, or a few seconds are over."""
        self.tiers()
        deadline = time.monotonic() + FIRST_S
        for look in list(self._looks.values()):
            look.join(max(0.0, deadline - time.monotonic()))

    def tiers(self) -> tuple[str, ...] | None:
        """Return the names of the tiers that carried this site's marker lately; begin new looks.

        None while the first look is not over: nobody knows yet.
        """
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + EVERY_S
            try:
                self._look()
            except RaypacsError as exc:
                _log.warning("tiers not looked at", extra={"why": str(exc)})
        if not self._looked():
            return None
        return tuple(sorted(name for name, at_s in self._seen_s.items() if now - at_s < FRESH_S))

    def _looked(self) -> bool:
        """Whether every tier answered once, or had its time to."""
        if self._first_until_s is None:
            return False
        hanging = any(look.is_alive() for look in self._looks.values())
        if not hanging:
            self._first_until_s = 0.0
        return time.monotonic() >= self._first_until_s

    def _look(self) -> None:
        wanted = self._reader.settings()[1].tiers
        site_id = self._reader.site().site_id
        for gone in self._seen_s.keys() - {tier.name for tier in wanted}:
            del self._seen_s[gone]
        for tier in wanted:
            running = self._looks.get(tier.name)
            if running is None or not running.is_alive():
                look = threading.Thread(target=self._ask, args=(tier, site_id), daemon=True)
                self._looks[tier.name] = look
                look.start()
        if self._first_until_s is None:
            self._first_until_s = time.monotonic() + FIRST_S

    def _ask(self, settings: TierSettings, site_id: str) -> None:
        try:
            there = belongs(open_tier(settings), site_id)
        except RaypacsError as exc:
            _log.warning("tier unreachable", extra={"tier": settings.name, "why": str(exc)})
            there = False
        if there:
            self._seen_s[settings.name] = time.monotonic()
        else:
            self._seen_s.pop(settings.name, None)
