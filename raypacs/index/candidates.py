"""What may leave a cache, in the order of eviction, and all that a decision about it needs.

Copies that are held are not among them: the walk goes by an index over (tier, hold, access time),
so a page costs the same whatever the number of studies, and of those that may not go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import ledger
from raypacs.index.engine import in_lists
from raypacs.index.schema import (
    containers,
    copies,
    copy_totals,
    delete_intents,
    series,
    studies,
    work_items,
)
from raypacs.policy.archiving import ARCHIVE
from raypacs.policy.arrival import archiving_of
from raypacs.policy.eviction import Candidate
from raypacs.policy.holding import FREE
from raypacs.policy.queue import WAITING, State

_VERIFY = "VERIFY"

Cursor = tuple[float, str]
"""(access time, study UID) of the last one seen."""

START: Cursor = (-1.0, "")

UNPROVEN = "no library has a sound, proven copy of it"
AWAY = "the library with its proven copy is away"


@dataclass(frozen=True, slots=True)
class SeriesPlace:
    """A series of a sealed study, and where the manifest in force lies."""

    series_uid: str
    modality: str
    instance_count: int
    size_bytes: int
    manifest_tier: str
    manifest_path: str
    is_gone: bool
    """Its instances left the image tiers."""


@dataclass(slots=True)
class Facts:
    """What the index knows of a study that may leave a cache."""

    study_uid: str
    generation: int
    sealed_s: float
    offline_s: float
    quiet: bool
    pinned: bool
    candidate: dict[str, object]
    images: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Objects and bytes by image tier that raypacs may delete from."""
    webs: dict[str, tuple[int, int]] = field(default_factory=dict)
    adopted: bool = False
    series: list[SeriesPlace] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    """Those that are there, with a proven, undamaged copy of the current generation."""
    away: list[str] = field(default_factory=list)
    """Those with such a copy that cannot be reached: it proves nothing until it is seen again."""
    busy: str = ""

    @property
    def is_spread(self) -> bool:
        """Whether only its manifests tell what lies on which tier."""
        if len(self.images) != 1 or self.adopted:
            return True
        here = [one for one in self.series if not one.is_gone]
        ((objects, size_bytes),) = self.images.values()
        counted = (sum(one.instance_count for one in here), sum(one.size_bytes for one in here))
        return counted != (objects, size_bytes)

    @property
    def unproven(self) -> str:
        """Why no library counts as proof; only where none does."""
        return AWAY if self.away else UNPROVEN

    def as_candidate(self, size_bytes: int, kept: frozenset[str] = frozenset()) -> Candidate:
        """Return what the policy decides on; ``kept``: modalities of series shares."""
        kept_bytes = 0
        if kept and not self.is_spread:
            kept_bytes = sum(
                one.size_bytes for one in self.series if one.modality in kept and not one.is_gone
            )
        return Candidate(
            study_uid=self.study_uid,
            size_bytes=size_bytes,
            proven=tuple(self.libraries),
            kept_bytes=kept_bytes,
            busy=self.busy,
            **self.candidate,  # type: ignore[arg-type]
        )


def page(
    conn: sa.Connection, tier: str, after: Cursor, limit: int, *, hold: str = FREE
) -> list[tuple[str, float, int]]:
    """Return (study UID, access time, bytes) of copies on a tier, least recently accessed first."""
    key = sa.tuple_(copies.c.accessed_s, copies.c.study_uid)
    found = conn.execute(
        sa.select(copies.c.study_uid, copies.c.accessed_s, copies.c.size_bytes)
        .where(copies.c.tier == tier, copies.c.hold == hold, key > after)
        .order_by(copies.c.accessed_s, copies.c.study_uid)
        .limit(limit)
    )
    return [(row[0], float(row[1]), int(row[2])) for row in found]


def held(conn: sa.Connection, tier: str) -> dict[str, tuple[int, int]]:
    """Return (copies, bytes) of a tier by what holds them ('': nothing does)."""
    ours = copy_totals.c.tier == tier
    rows = conn.execute(
        sa.select(copy_totals.c.hold, copy_totals.c.copies, copy_totals.c.size_bytes).where(ours)
    )
    return {row[0]: (int(row[1]), int(row[2])) for row in rows if row[1]}


def facts(
    conn: sa.Connection, study_uids: Iterable[str], settings: Settings, now: float
) -> dict[str, Facts]:
    """Gather what is known of studies; those that are not in the index are left out."""
    found: dict[str, Facts] = {}
    roles = {tier.name: "adopted" if tier.adopted else tier.role for tier in settings.tiers}
    for uids in in_lists(study_uids):
        rows = conn.execute(_studies(uids))
        some = {row.study_uid: _fact(row, settings, now) for row in rows}
        _add_series(conn, uids, some)
        _add_copies(conn, uids, some, roles)
        for uid, name in _busy(conn, uids, some):
            some[uid].busy = some[uid].busy or f"{name} is to be done"
        found |= some
    return found


def _studies(uids: Sequence[str]) -> sa.Select[tuple[object, ...]]:
    names = (
        *("study_uid", "generation", "sealed_s", "offline_s", "prepare_due_s", "pinned_until_s"),
        *("accessed_s", "created_s", "inherited_accessed_s", "inherited_created_s", "status"),
        *("exported", "his_verified", "archiving", "committed", "source", "origins"),
    )
    return sa.select(*(studies.c[name] for name in names)).where(studies.c.study_uid.in_(uids))


def _fact(row: sa.Row[tuple[object, ...]], settings: Settings, now: float) -> Facts:
    study = row._mapping
    candidate = {
        name: study[name]
        for name in ("status", "exported", "his_verified", "archiving", "committed", "source")
    }
    # By the settings of this moment: the column follows them in the background (FEATURES B6).
    off = not study["archiving"] and not archiving_of(study["origins"], settings.sources)
    candidate["archiving"] = not off
    for name in ("accessed_s", "created_s"):
        candidate[name] = max(study[name], study[f"inherited_{name}"])
    quiet = study["prepare_due_s"] is None
    return Facts(
        study_uid=study["study_uid"],
        generation=study["generation"],
        sealed_s=study["sealed_s"],
        offline_s=study["offline_s"],
        quiet=quiet,
        pinned=study["pinned_until_s"] > now,
        candidate=candidate,
        busy="" if quiet else "it is being received",
    )


def _add_series(conn: sa.Connection, uids: Sequence[str], found: Mapping[str, Facts]) -> None:
    rows = conn.execute(
        sa.select(
            series.c.study_uid,
            series.c.series_uid,
            series.c.modality,
            series.c.instance_count,
            series.c.size_bytes,
            series.c.manifest_tier,
            series.c.manifest_path,
            series.c.gone_path,
        ).where(series.c.study_uid.in_(uids))
    )
    for row in rows:
        is_gone = bool(row[7]) and row[7] == row[6]
        found[row[0]].series.append(SeriesPlace(*row[1:7], is_gone))


def _add_copies(
    conn: sa.Connection, uids: Sequence[str], found: Mapping[str, Facts], roles: Mapping[str, str]
) -> None:
    query = sa.select(
        copies.c.study_uid,
        copies.c.tier,
        copies.c.objects,
        copies.c.size_bytes,
        copies.c.generation,
        copies.c.archive_proven,
    )
    proven: list[tuple[str, str]] = []
    for row in conn.execute(query.where(copies.c.study_uid.in_(uids))):
        fact = found.get(row.study_uid)
        role = roles.get(row.tier, "")
        if fact is None:
            continue
        if role in ("image", "web"):
            place = fact.images if role == "image" else fact.webs
            place[row.tier] = (row.objects, row.size_bytes)
        elif role == "adopted":
            fact.adopted = True
        elif role == "library" and row.archive_proven and row.generation == fact.generation:
            proven.append((row.study_uid, row.tier))
    if proven:
        whole = _whole(conn, sorted({uid for uid, _ in proven}))
        there = {name for name, row in ledger.read(conn).items() if row.reachable}
        for uid, tier in sorted(proven):
            # As archiving counts them: a series without instances has no container.
            wanted = {one.series_uid for one in found[uid].series if one.instance_count}
            if wanted and wanted <= whole.get((uid, tier), set()):
                (found[uid].libraries if tier in there else found[uid].away).append(tier)


def _whole(conn: sa.Connection, uids: Sequence[str]) -> dict[tuple[str, str], set[str]]:
    """Return by study and library the series with a container that is sound and stays."""
    doomed = sa.exists().where(
        delete_intents.c.study_uid == containers.c.study_uid,
        delete_intents.c.tier == containers.c.tier,
        delete_intents.c.path == containers.c.path,
    )
    rows = conn.execute(
        sa.select(containers.c.study_uid, containers.c.tier, containers.c.series_uid).where(
            containers.c.study_uid.in_(uids), containers.c.damaged == "", ~doomed
        )
    )
    found: dict[tuple[str, str], set[str]] = {}
    for uid, tier, series_uid in rows:
        found.setdefault((uid, tier), set()).add(series_uid)
    return found


def _busy(
    conn: sa.Connection, uids: Sequence[str], found: Mapping[str, Facts]
) -> list[tuple[str, str]]:
    """Return (study UID, kind) of work that waits or runs: it may need the bytes.

    What only waits and can do without them is none: VERIFY looks at what is there, and ARCHIVE
    reads from a library that has a proof. Both may wait for a library for ever.
    """
    rows = conn.execute(
        sa.select(work_items.c.study_uid, work_items.c.kind, work_items.c.state).where(
            work_items.c.study_uid.in_(uids),
            work_items.c.state.in_([*WAITING, State.IN_PROCESS]),
        )
    )
    return [
        (uid, kind)
        for uid, kind, state in rows
        if state == State.IN_PROCESS
        or not (kind == _VERIFY or (kind == ARCHIVE and found[uid].libraries))
    ]
