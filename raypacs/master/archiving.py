"""The master's duty to archive in its window, and events about libraries."""

from __future__ import annotations

from raypacs.master.sealing import SealDuties


class ArchiveDuties(SealDuties):
    """Archiving."""

    def _archive_due(self, now: float) -> None:
        """Make ARCHIVE work while the window is open."""
