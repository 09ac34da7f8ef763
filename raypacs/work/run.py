"""How a kind of work runs: plain code in a thread of its own that hands out tasks. No cluster here.

A run is made for one leased item. It asks the :class:`Site` what there is to do, submits tasks
(module functions with small, picklable arguments), takes their values as they finish, and returns
what is to be reported. Who runs it renews the lease meanwhile, and ends it where that is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from raypacs.config import Settings
from raypacs.policy.arrival import compression_for
from raypacs.records import (
    ArchivedSeries,
    ContainerRef,
    InstanceRecord,
    Lease,
    MovedAside,
    PackRef,
    Registered,
    StoredInstance,
    StudyPlaces,
    WorkResult,
)


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Why a task failed, if another try can help, and if its worker process died every time.

    ``waits``: it met a full or unreachable tier, which says nothing about the study.
    """

    error: str
    retryable: bool
    crashed: bool = False
    waits: bool = False

    def as_result(self) -> WorkResult:
        """Return what to report where nothing else is to be told."""
        return WorkResult(
            error=self.error, retryable=self.retryable, waits=self.waits, died=self.crashed
        )


@dataclass(frozen=True, slots=True)
class Archives:
    """What a run may ask and tell of archives that were adopted; the index decides.

    ``places``: (study UID, path, size in bytes, time) of every instance on a tier, in lists.
    ``register`` takes records, whether they are to be prepared, and whether those of deleted
    studies count, too; a record without an answer is to be told again. ``served`` answers the
    record that is served under a record's UIDs. ``moved`` tells that a file lies elsewhere now:
    its record, and (tier, path) where it was. ``prepare`` lets studies become due. ``progress``
    keeps how far a lease's item is.
    """

    places: Callable[[str], Iterator[list[tuple[str, str, int, float]]]]
    register: Callable[[list[InstanceRecord], bool, bool], list[Registered]]
    served: Callable[[InstanceRecord], InstanceRecord | None]
    checksums: Callable[[list[tuple[InstanceRecord, str]]], object]
    moved: Callable[[InstanceRecord, tuple[str, str]], bool]
    prepare: Callable[[list[str]], object]
    progress: Callable[[Lease, dict[str, Any]], object]


def _nowhere(study_uid: str) -> StudyPlaces:
    del study_uid
    return StudyPlaces()


@dataclass(frozen=True, slots=True)
class Moves:
    """What a run may ask and tell that writes to image and library tiers; the index decides.

    ``containers``: those of a study in all libraries. ``study``: its row (``generation``,
    ``offline_s``, ``size_bytes``, ...), None: there is none. ``plan`` tells (tier, path) of objects
    before they are written. ``reserve`` takes bytes of a tier and answers how many were granted.
    ``progress`` keeps how far a lease's item is. All three raise StaleLease. ``places``: where the
    instances of a study lie.
    """

    containers: Callable[[str], list[ContainerRef]]
    study: Callable[[str], dict[str, Any] | None]
    plan: Callable[[Lease, list[tuple[str, str]]], object]
    reserve: Callable[[Lease, str, int], int]
    progress: Callable[[Lease, dict[str, Any]], object]
    places: Callable[[str], StudyPlaces] = _nowhere


@dataclass(frozen=True, slots=True)
class Libraries:
    """What ARCHIVE and VERIFY ask and tell of libraries; the master decides.

    ``seal`` seals a study, and says whether it is. ``may_go_on``: whether the archive window, or
    whoever ordered it, lets a lease's item archive another series now. ``archived`` tells series as
    they are proven, so that none is archived again if the attempt breaks off; raises StaleLease.
    ``running``: how many items of a kind run in the cluster.
    """

    seal: Callable[[str], bool]
    may_go_on: Callable[[Lease], bool]
    archived: Callable[[Lease, list[ArchivedSeries]], object]
    running: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Relocation:
    """What only MIGRATE asks and tells; the index decides.

    ``gone``: paths of a study's manifests in force whose instances left the image tiers.
    ``move_asides`` tells where objects kept aside were copied to; raises StaleLease.
    """

    gone: Callable[[str], set[str]]
    move_asides: Callable[[Lease, list[MovedAside]], object]


@dataclass(frozen=True, slots=True)
class Site:
    """What a run may ask, as plain callables over the read side of the index.

    ``cores``: how many tasks of this node run at once. ``instances``, ``unprepared``, ``packs`` and
    ``manifests`` (tier and path of each) answer for a Study Instance UID, sealed or not.
    ``available_bytes``: room on each tier that may be written now; ``refused`` tells that a tier
    was full or away, so that it is passed over for a while. ``site_id``: whose marker a tier must
    carry to be written to as an edge does ('': any will do). ``boot``: this life of the node.
    ``archives`` is what adoption and VERIFY of what was adopted need; ``moves`` what ARCHIVE,
    MIGRATE, RESTORE and VERIFY of libraries do; ``libraries`` what only ARCHIVE does, and
    ``relocation`` what only MIGRATE does.
    """

    settings: Settings
    cores: int
    instances: Callable[[str], list[StoredInstance]]
    unprepared: Callable[[str], list[StoredInstance]]
    packs: Callable[[str], dict[str, list[PackRef]]]
    manifests: Callable[[str], list[tuple[str, str]]]
    available_bytes: Callable[[], dict[str, int]]
    refused: Callable[[str], None]
    site_id: Callable[[], str] = str
    boot: str = ""
    archives: Archives | None = None
    moves: Moves | None = None
    relocation: Relocation | None = None
    libraries: Libraries | None = None


class Tasks(Protocol):
    """The tasks of one run: ``submit`` and ``finished`` raise StaleLease once the lease is lost."""

    def submit(self, key: Hashable, function: Callable[..., Any], *args: Any) -> None:
        """Have ``function(*args)`` run on a core of this node; ``key`` comes back with its value.

        One whose worker process died is run again, twice, without anybody being told.
        """

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value or TaskFailure) as tasks finish, until none is left.

        More may be submitted meanwhile.
        """

    def cancel(self) -> list[Any]:
        """End what is left; return the values of those that finished all the same.

        When this returns, none of them runs any more.
        """


class Run(Protocol):
    """One leased item at work."""

    def run(self, tasks: Tasks) -> WorkResult:
        """Do the work; return what to report.

        Raises:
            StaleLease: from ``tasks``; the item is not ours any more.
            RaypacsError, OSError: the attempt broke off, and counts as a try.
        """

    def clean_up(self, *, reported: bool) -> None:
        """Remove what the attempt leaves behind; without ``reported``, all that it wrote.

        Called once no task of it runs. Safe to repeat. Raises TierUnavailable.
        """


MakeRun = Callable[[Lease, Site], Run]


def settings_for(site: Site, study_uid: str) -> Settings:
    """Return the settings with the compression that a rule or source wants for a study."""
    settings = site.settings
    said = any(one.compress for one in settings.rules)
    if site.moves is None or not (said or any(one.compression for one in settings.sources)):
        return settings
    study = site.moves.study(study_uid)
    decided = (study or {}).get("decided") or {}
    wanted = decided.get("compress", {}).get("value", "")
    if not wanted:
        return settings
    compression = compression_for(settings.compression, wanted)
    return settings.model_copy(update={"compression": compression})
