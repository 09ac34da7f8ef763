"""What every part of the master shares: both sides of the index, its tiers, its clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypacs.errors import StudySealed
from raypacs.index.archive_reader import ArchiveWalk
from raypacs.index.reader import IndexReader
from raypacs.index.writer import IndexWriter
from raypacs.master.batches import Batches
from raypacs.master.polls import Polls
from raypacs.master.roll import Roll
from raypacs.storage.filed import Files
from raypacs.upkeep import TierSet

log = logging.getLogger(__name__)

AWAY_S = 5.0
"""So long between two looks is no tick that came late: several are missing."""


@dataclass
class Due:
    """When the slower duties come next (seconds since the epoch)."""

    tiers_s: float = 0.0
    nodes_s: float = 0.0
    marks_s: float = 0.0
    stats_s: float = 0.0
    merge_s: float = 0.0
    parts_s: float = 0.0
    sampled_hour_s: int = 0
    items_s: float = 0.0
    seal_s: float = 0.0
    place_s: float = 0.0
    caches_s: float = 0.0
    seal_again_s: dict[str, float] = field(default_factory=dict)
    """By study, those that are not to be sealed before."""
    sealing: dict[str, Any] = field(default_factory=dict)
    """By study, those whose manifests are being written (``sealing``)."""
    evict_s: float = 0.0
    archive_s: float = 0.0
    archive_walk: ArchiveWalk = field(default_factory=ArchiveWalk)
    full_s: dict[str, float] = field(default_factory=dict)
    """By tier that had no room for what was asked, until when it counts as full."""
    pins_s: float = 0.0
    copy_s: float = 0.0
    walks: dict[str, Any] = field(default_factory=dict)
    """By cache, where its walk through what may leave is (``evicting.Walk``)."""
    copied: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By cache, up to where staging rules that copy were tried."""
    listed_at: dict[int, str] = field(default_factory=dict)
    """By delete intent, the last path that is gone of those that it lists, in their order."""
    prepare_again_s: dict[str, float] = field(default_factory=dict)
    """By study, those whose packs are not to be made again before."""
    prepare_again_after: str = ""
    """Up to which study it was looked for such."""
    erase_s: float = 0.0
    tombstones_s: float = 0.0
    back: str | None = ""
    """Up to which study it was looked for erased ones; None: not under way."""
    judge_s: float = 0.0
    delete_s: float = 0.0
    deleted: tuple[float, str] = (0.0, "")
    """Up to where deletion by rule has looked: when a study was due, and its UID."""
    tiering_s: float = 0.0
    tiering_again_s: dict[str, float] = field(default_factory=dict)
    """By study, those whose move is not ordered before."""
    drained: set[str] = field(default_factory=set)
    """Drained tiers that were found empty."""


class MasterBase:
    """The state of a master; its parts add events and duties.

    ``clock`` gives seconds since the Unix epoch in UTC.
    """

    _clock: Callable[[], float]
    _reader: IndexReader
    _writer: IndexWriter
    _tiers: TierSet
    _deletes: Batches
    _due: Due
    _polls: Polls
    _roll: Roll
    _node_name: str
    _bootstrap_hash: str
    _looked_s: float
    """When the master last saw to leases and nodes."""
    restarts: int
    """How many masters of this site there were before."""
    _wanted: tuple[str, float]
    """The node that is to take the master over, and until when it may."""
    _stats_dir: Path

    def _mind_absence(self, now: float) -> None:
        """Where the master itself was away, take nobody for dead: give leases and nodes that time.

        Its process or host was stopped, the index was locked, a duty took long, nobody was master,
        or the clock was set: by the wall clock all of them look the same, and leases end by it.
        Called before leases are looked at, whether by a tick or by an event.
        """
        since_s = self._looked_s
        if abs(now - since_s) <= AWAY_S:
            return
        log.warning("the master was away", extra={"seconds": round(now - since_s, 3)})
        self._writer.master_was_away(since_s, now)
        self._roll.later(now - since_s, now)
        self._polls.changed()
        self._looked_s = now

    def reopen(self, sealed: StudySealed) -> set[str]:
        """Make rows again of the studies an error names; return those whose manifests are away."""
        raise NotImplementedError

    def order_archive(self, study_uids: Iterable[str], who: str = "") -> Any:
        """Archive studies at once."""
        raise NotImplementedError

    def order_restore(self, study_uid: str, priority: str = "stat", who: str = "") -> Any:
        """Bring a study back from a library."""
        raise NotImplementedError

    def _stats_files(self) -> Files:
        """Return where statistics lie. Raises TierUnavailable."""
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        """The epoch this master claimed."""
        return self._writer.epoch
