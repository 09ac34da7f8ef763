"""The master's duty to archive in its window, and events about libraries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from raypacs.config import Settings, TierSettings
from raypacs.errors import InvalidQuery
from raypacs.index.archive_reader import FIRST, ArchiveWalk, Cursor
from raypacs.master.sealing import SealDuties
from raypacs.policy import archiving, window
from raypacs.policy.archiving import ARCHIVE
from raypacs.policy.holding import FREE, KEPT, LIBRARY, PINNED, UNARCHIVED, UNJUDGED
from raypacs.records import ArchivedSeries, Lease

LOOK_EVERY_S = 1.0
CLOSED_LOOK_EVERY_S = 5.0
LIBRARY_LOOK_EVERY_S = 10.0
# A page of the order of archiving takes the index some milliseconds.
STUDIES_PER_LOOK = 64
MOST_ORDERED = 1000
# Looking through everything that is archived is not done as often.
ROUNDS = 10
# Items that wait for a library or a tier hold up others only from so many times archive.items on.
WAITING_TIMES = 25
_UNPROVEN = (UNARCHIVED, PINNED)
_PROVEN = (FREE, KEPT, UNJUDGED)


class ArchiveDuties(SealDuties):
    """Archiving."""

    def _archive_due(self, now: float) -> None:
        """Make ARCHIVE work while the window is open, a bounded number of items at a time."""
        if now < self._due.archive_s:
            return
        settings = self._reader.settings()[1]
        libraries = archiving.libraries_of(settings.tiers, settings.archive.libraries)
        if not libraries:
            self._due.archive_s = now + LIBRARY_LOOK_EVERY_S
            return
        self._due.archive_s = now + LOOK_EVERY_S
        walk: ArchiveWalk = self._due.archive_walk
        opened_by = self._reader.archiving_open(now)
        if not opened_by:
            self._due.archive_s = now + CLOSED_LOOK_EVERY_S
            self._park(settings, now)
            walk.opened_by = ""
            return
        if not walk.opened_by:
            self._due.archive_walk = walk = ArchiveWalk(opened_by=opened_by)
            if self._writer.unpark_archive(now):
                self._polls.changed()
        walk.opened_by = opened_by
        self._fill(walk, settings, libraries, now)

    def _park(self, settings: Settings, now: float) -> None:
        archive = settings.archive
        if self._reader.open_items(ARCHIVE):
            opens_s = window.next_open(
                now, archive.window_start, archive.window_end, archive.time_zone
            )
            self._writer.park_archive(opens_s, now)

    def _fill(
        self,
        walk: ArchiveWalk,
        settings: Settings,
        libraries: Sequence[TierSettings],
        now: float,
    ) -> None:
        most = settings.archive.items
        busy, later = self._reader.archive_items(now)
        free = min(most - busy, most * WAITING_TIMES - later)
        usable = self._usable(libraries, now)
        names = frozenset(library.name for library in usable)
        if names - walk.libraries:  # what went to the others only is due for it now
            walk.unproven_s = walk.rest_s = 0.0
            walk.unproven, walk.rest = FIRST, FIRST
        walk.libraries = names
        if free <= 0 or not usable:
            return
        into = sorted(names) if len(usable) < len(libraries) else []
        image = [tier.name for tier in settings.tiers if tier.role == "image" and not tier.adopted]
        # Several libraries, another one than before, or what left the image tiers since.
        every = image + [tier.name for tier in settings.tiers if tier.role == "library"]
        interval_s = settings.archive.check_interval_s

        def step(tiers: list[str], holds: Sequence[str], after: Cursor) -> Cursor | None:
            page = self._reader.archivable(tiers, holds, after, now, STUDIES_PER_LOOK)
            due = [
                study.study_uid
                for study in page.studies
                if not archiving.why_not(study, settings.archive, usable, now)
            ]
            if due:
                self._writer.archive_by_itself(due[:free], now, into)
                self._polls.changed()
            # The page is looked at once more where not all fit: those that did are left out.
            return after if len(due) > free else page.after

        if now >= walk.unproven_s:
            after = step(image, _UNPROVEN, walk.unproven)
            walk.unproven = after or FIRST
            walk.unproven_s = 0.0 if after else now + interval_s
        elif now >= walk.rest_s:
            after = step(every, (*_PROVEN, LIBRARY), walk.rest)
            walk.rest = after or FIRST
            walk.rest_s = 0.0 if after else now + ROUNDS * interval_s

    def _usable(self, libraries: Sequence[TierSettings], now: float) -> list[TierSettings]:
        """Leave out libraries that are away, or had no room a while ago.

        What waits for one of them asks for room again and again: so it is known when it has some.
        """
        accounts = self._reader.ledger()
        return [
            library
            for library in libraries
            if (row := accounts.get(library.name)) is not None
            and row.reachable
            and self._due.full_s.get(library.name, 0.0) <= now
        ]

    # Events

    def order_archive(
        self, study_uids: Iterable[str], who: str = "", libraries: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Archive studies now, whatever the window, age and status say; at most 1,000 a call.

        Returns:
            ``items`` (their ids) and ``refused`` (study_uid, why). Idempotent.

        Raises:
            InvalidQuery: there is no library, or none of these names.
        """
        settings = self._reader.settings()[1]
        known = {tier.name for tier in archiving.libraries_of(settings.tiers)}
        unknown = [name for name in libraries if name not in known]
        if unknown or not known:
            raise InvalidQuery(
                f"no library that takes new objects: {', '.join(unknown) or 'there is none'}",
                key="libraries",
            )
        uids = list(dict.fromkeys(study_uids))[:MOST_ORDERED]
        told = self._writer.order_archive(uids, list(libraries), who, self._clock())
        self._polls.changed()
        return told

    def order_verify(self, study_uids: Iterable[str], who: str = "") -> dict[str, Any]:
        """Verify studies, containers and all, at low priority; answers as :meth:`order_archive`."""
        uids = list(dict.fromkeys(study_uids))[:MOST_ORDERED]
        told = self._writer.order_verify(uids, who, self._clock())
        self._polls.changed()
        return told

    def archived(self, lease: Lease, told: Sequence[ArchivedSeries]) -> None:
        """Register series that are proven, while their attempt goes on. Raises StaleLease."""
        self._mind_absence(self._clock())
        self._writer.archived(lease, told, self._clock())

    def seal_study(self, study_uid: str) -> bool:
        """Seal a study at once, unless a PREPARE of it needs its rows; say whether it is sealed."""
        if self._reader.manifests(study_uid):
            return True
        return self._reader.may_be_sealed(study_uid) and self.seal_now(study_uid)
