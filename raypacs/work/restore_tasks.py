"""The tasks of a RESTORE: a series is looked through, instances are copied, a manifest written.

Each is safe to repeat: what an earlier try of it left at its paths is written anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import (
    ContainerCorrupt,
    ManifestCorrupt,
    NotFound,
    TierFull,
    TierUnavailable,
)
from raypacs.records import CheckedContainer, ContainerRef, InstanceRecord, MovedSeries
from raypacs.storage import manifest
from raypacs.storage.adopted import is_unchanged
from raypacs.storage.container import Container
from raypacs.storage.site import Mounted
from raypacs.storage.tier import Tier
from raypacs.work import restore_lost
from raypacs.work.recompress import as_received, record_of
from raypacs.work.source import find_tier

_log = logging.getLogger(__name__)
_PLACE = ("tier", "path", "size_bytes", "dataset_offset_bytes", "pixel_offset_bytes")

TierBytes = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class RestoreContext:
    """What every task of an attempt knows. ``containers``: the best first."""

    study_uid: str
    token: str
    site_id: str
    tiers: tuple[TierSettings, ...]
    containers: tuple[ContainerRef, ...]
    generation: int = -1


@dataclass(frozen=True, slots=True)
class Looked:
    """A sealed series: its manifest, and which instances do not lie where it says.

    ``there``: (tier, objects, bytes) of the others; ``left`` those of ``missing`` where none is
    kept. ``is_lost``: the manifest cannot be read, a container told the rows; ``kept`` are those of
    the others then, with the places where they were found.
    """

    series_uid: str
    manifest_tier: str
    manifest_path: str
    manifest_bytes: int
    missing: tuple[InstanceRecord, ...]
    there: TierBytes
    left: TierBytes
    is_lost: bool = False
    kept: tuple[InstanceRecord, ...] = ()

    @property
    def instance_count(self) -> int:
        """How many instances the series has."""
        return len(self.missing) + sum(count for _, count, _ in self.there)

    def unchanged(self, study_uid: str) -> MovedSeries:
        """Return the series with the manifest that it has."""
        return MovedSeries(
            *(study_uid, self.series_uid, self.manifest_tier, self.manifest_path),
            *(self.manifest_bytes, self.manifest_path, self.there),
        )


@dataclass(frozen=True, slots=True)
class Copied:
    """What a task brought to a tier: records with their new places.

    ``lost``: (SOP Instance UID, why) of what no container has; ``left``: what found no room.
    """

    series_uid: str
    tier: str
    written: tuple[InstanceRecord, ...]
    damaged: tuple[CheckedContainer, ...]
    lost: tuple[tuple[str, str], ...]
    left: tuple[InstanceRecord, ...]


# Looking


def look_through(
    place: tuple[str, str, str, int], held: frozenset[str], context: RestoreContext
) -> Looked:
    """Return which instances of a series are missing. ``held``: tiers that may still have some.

    A tier that is away is no reason to bring anything back: what lies there comes with it.

    Raises:
        TierUnavailable: its manifest cannot be reached.
        ManifestCorrupt: it cannot be read, and no container tells the same.
    """
    series_uid, tier, path, size_bytes = place
    try:
        rows = manifest.decode(find_tier(context.tiers, tier).read(path)).rows()
    except (NotFound, ManifestCorrupt) as exc:
        return _without_manifest(place, held, context, exc)
    records = [replace(record_of(row), attributes={}) for row in rows]
    lying = {
        name: _Lying(context, name, series_uid) for name in {one.tier for one in records} & held
    }
    missing = [one for one in records if one.tier not in lying or not lying[one.tier].has(one)]
    away = {one.sop_instance_uid for one in missing}
    there = _sums(one for one in records if one.sop_instance_uid not in away)
    kept = {name for name, _, _ in there}
    left = tuple(one for one in _sums(missing) if one[0] and one[0] not in kept)
    return Looked(series_uid, tier, path, size_bytes, tuple(missing), there, left)


def _without_manifest(
    place: tuple[str, str, str, int],
    held: frozenset[str],
    context: RestoreContext,
    why: Exception,
) -> Looked:
    series_uid, tier, path, _ = place
    is_there = _mounted(context.site_id)
    lost = f"manifest {path} on {tier} cannot be read ({why})"
    restore_lost.mounted(context.tiers, [tier], is_there)
    told = restore_lost.told_by(_refs(context, series_uid), context.generation, context.tiers, lost)
    tiers = restore_lost.mounted(context.tiers, held, is_there)
    lying = restore_lost.Lying(tiers, context.study_uid, series_uid)
    kept, missing = [], []
    for member in told.members.values():
        found = lying.place_of(member)
        if found is None:
            missing.append(replace(record_of(member.row), attributes={}))
        else:
            kept.append(found)
    return Looked(*place, tuple(missing), _sums(kept), (), is_lost=True, kept=tuple(kept))


def _refs(context: RestoreContext, series_uid: str) -> list[ContainerRef]:
    return [ref for ref in context.containers if ref.series_uid == series_uid]


class _Lying:
    """What lies of a series on a tier, by one listing where that is possible."""

    def __init__(self, context: RestoreContext, name: str, series_uid: str) -> None:
        self._sizes: dict[str, int] | None = None
        self._tier: Tier | None = None
        try:
            self._tier = find_tier(context.tiers, name)
            if not self._tier.settings.adopted:
                folder = f"{layout.study_prefix(context.study_uid)}{series_uid}/"
                self._sizes = {info.path: info.size_bytes for info in self._tier.walk(folder)}
        except TierUnavailable:
            self._tier = None

    def has(self, record: InstanceRecord) -> bool:
        """Whether an instance lies there, or may, as nobody can look."""
        if self._tier is None:
            return True
        if self._sizes is not None:
            return self._sizes.get(record.path) == record.size_bytes
        try:
            return self._tier.exists(record.path) and is_unchanged(self._tier, record)
        except TierUnavailable:
            return True


def _sums(records: Iterator[InstanceRecord] | Sequence[InstanceRecord]) -> TierBytes:
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in records:
        objects[one.tier] += 1
        sizes[one.tier] += one.size_bytes
    return tuple((tier, count, sizes[tier]) for tier, count in sorted(objects.items()))


# Copying


class _Unsound(Exception):
    """A container does not give an instance: it is damaged, or cannot be reached just now."""

    def __init__(self, why: str, *, is_away: bool = False) -> None:
        super().__init__(why)
        self.is_away = is_away


@dataclass
class _Library:
    """The containers of a series, opened once each, and what is known of them by now."""

    refs: list[ContainerRef]
    tiers: tuple[TierSettings, ...]
    damaged: dict[tuple[str, str], CheckedContainer] = field(default_factory=dict)
    _open: dict[tuple[str, str], Container] = field(default_factory=dict)

    def in_order(self) -> list[ContainerRef]:
        """Return the containers to try: damaged ones last, whose other instances may be sound."""
        return sorted(self.refs, key=lambda ref: (ref.tier, ref.path) in self.damaged)

    def pieces(self, ref: ContainerRef, record: InstanceRecord) -> Iterator[bytes]:
        """Yield an instance as it was received; checked after the last piece. Raises _Unsound."""
        key = (ref.tier, ref.path)
        try:
            if key not in self._open:
                self._open[key] = Container(find_tier(self.tiers, ref.tier), ref.path)
            container = self._open[key]
            member = container.members.get(record.sop_instance_uid)
            if member is None or (record.sha256 and member.sha256 != record.sha256):
                raise _Unsound("it does not have the instance")
            digest, at = hashlib.sha256(), 0
            start = int(member.row["dataset_offset_bytes"])
            for piece in as_received(container, record.sop_instance_uid):
                digest.update(piece[max(0, start - at) :])
                at += len(piece)
                yield piece
            if digest.hexdigest() != member.sha256:
                raise ContainerCorrupt(f"{member.name} is not what was received")
        except (NotFound, ContainerCorrupt) as exc:
            why = "it is not there" if isinstance(exc, NotFound) else str(exc)
            self.damaged[key] = CheckedContainer(ref.tier, ref.path, why)
            raise _Unsound(why) from exc
        except TierUnavailable as exc:
            raise _Unsound(str(exc), is_away=True) from exc

    def placed(
        self, ref: ContainerRef, record: InstanceRecord, tier: str, path: str, size: int
    ) -> InstanceRecord:
        """Return a record with its new place; where its data set begins is as in the container."""
        row = self._open[ref.tier, ref.path].members[record.sop_instance_uid].row
        return replace(
            record,
            tier=tier,
            path=path,
            size_bytes=size,
            dataset_offset_bytes=int(row["dataset_offset_bytes"]),
            pixel_offset_bytes=int(row["pixel_offset_bytes"]),
        )


def copy_share(
    series_uid: str, records: tuple[InstanceRecord, ...], tier_name: str, context: RestoreContext
) -> Copied:
    """Copy instances of a series from the libraries to a tier, each compared with its SHA-256.

    What the tier does not take, as it is full or away, is ``left``.

    Raises:
        TierUnavailable: every library that may have an instance is away.
    """
    refs = _refs(context, series_uid)
    library = _Library(refs, context.tiers)
    written: list[InstanceRecord] = []
    lost: list[tuple[str, str]] = []
    left: list[InstanceRecord] = []
    for number, record in enumerate(records):
        try:
            found = _copy_one(library, record, tier_name, context)
        except _Unsound as exc:
            raise TierUnavailable(f"{record.sop_instance_uid}: {exc}") from exc
        except (TierFull, TierUnavailable) as exc:
            _log.warning("not restored to: %s", exc, extra={"tier": tier_name})
            left = list(records[number:])
            break
        if isinstance(found, str):
            lost.append((record.sop_instance_uid, found))
        else:
            written.append(found)
    known = {(ref.tier, ref.path) for ref in refs if ref.damaged}
    damaged = tuple(one for place, one in library.damaged.items() if place not in known)
    return Copied(series_uid, tier_name, tuple(written), damaged, tuple(lost), tuple(left))


def _copy_one(
    library: _Library, record: InstanceRecord, tier_name: str, context: RestoreContext
) -> InstanceRecord | str:
    """Copy one instance; return it, or why no container gives it.

    Raises:
        TierFull, TierUnavailable: the tier does not take it.
        _Unsound: libraries that may have it are away.
    """
    tier = find_tier(context.tiers, tier_name)
    if not _mounted(context.site_id)(tier):
        raise TierUnavailable(f"tier {tier_name} is not mounted", tier=tier_name)
    path = layout.instance(
        context.study_uid, record.series_uid, record.sop_instance_uid, context.token
    )
    why, is_away = "no library has it", False
    for ref in library.in_order():
        try:
            size = _put(tier, path, library.pieces(ref, record))
        except _Unsound as exc:
            _log.warning("not restored from", extra={"tier": ref.tier, "path": ref.path})
            why, is_away = f"{ref.path} on {ref.tier}: {exc}", is_away or exc.is_away
            continue
        return library.placed(ref, record, tier.name, path, size)
    if is_away:
        raise _Unsound(why, is_away=True)
    return why


def _put(tier: Tier, path: str, pieces: Iterator[bytes]) -> int:
    """Write an object, which is there only once its last piece was given; return its size."""
    if tier.exists(path):  # of a task that was cut off after it wrote
        tier.delete(path)
    with tier.create(path) as writer:
        for piece in pieces:
            writer.write(piece)
        return writer.commit()


@lru_cache(maxsize=2)
def _mounted(site_id: str) -> Mounted:
    return Mounted(site_id)


# Switching


def write_manifest(
    looked: Looked, changed: Mapping[str, InstanceRecord], tier_name: str, context: RestoreContext
) -> MovedSeries:
    """Write the manifest of a series with the new places of instances, and read it back.

    Raises:
        NotFound, ManifestCorrupt: the manifest it is based on is gone, or this one came out wrong.
        TierFull, TierUnavailable: it cannot be written.
    """
    base, attributes = _base(looked, context)
    away = {one.sop_instance_uid for one in looked.missing} - changed.keys()
    places = {one.sop_instance_uid: one for one in looked.kept} | dict(changed)
    rows = [
        {**row, "tier": ""} if row["sop_instance_uid"] in away else _moved(row, places)
        for row in base
    ]
    data = manifest.encode(context.study_uid, looked.series_uid, rows, attributes)
    tier = find_tier(context.tiers, tier_name)
    path = layout.manifest(context.study_uid, looked.series_uid, context.token)
    _put(tier, path, iter([data]))
    if manifest.decode(tier.read(path)).rows() != rows:
        raise ManifestCorrupt(f"{path} on {tier_name} differs from what was written")
    sums: dict[str, tuple[int, int]] = {name: (n, size) for name, n, size in looked.there}
    for name, count, size in _sums(list(changed.values())):
        before = sums.get(name, (0, 0))
        sums[name] = before[0] + count, before[1] + size
    return MovedSeries(
        study_uid=context.study_uid,
        series_uid=looked.series_uid,
        manifest_tier=tier_name,
        manifest_path=path,
        manifest_bytes=len(data),
        based_on=looked.manifest_path,
        tier_bytes=tuple((name, *both) for name, both in sorted(sums.items())),
        objects=tuple((one.tier, one.path, one.size_bytes) for one in changed.values()),
        left=looked.left,
        is_lost=looked.is_lost,
    )


def _base(looked: Looked, context: RestoreContext) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return rows and attributes of a series, from where it was looked through."""
    if looked.is_lost:
        refs = _refs(context, looked.series_uid)
        lost = f"manifest {looked.manifest_path} on {looked.manifest_tier} cannot be read"
        found = restore_lost.told_by(refs, context.generation, context.tiers, lost)
        return [member.row for member in found.members.values()], found.attributes
    tier = find_tier(context.tiers, looked.manifest_tier)
    told = manifest.decode(tier.read(looked.manifest_path))
    return told.rows(), told.attributes


def _moved(row: dict[str, Any], changed: Mapping[str, InstanceRecord]) -> dict[str, Any]:
    record = changed.get(row["sop_instance_uid"])
    if record is None:
        return row
    return {**row, **{name: getattr(record, name) for name in _PLACE}}
