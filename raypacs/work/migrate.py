"""MIGRATE: a sealed study goes to another image tier, as one; objects kept aside do, too (C4).

    plan and reserve -> copy (tasks), each object read back -> new manifests -> report

Until the report counts, the old manifests are in force and everything is read from where it lay.
The report switches all manifests in one transaction, and the old objects are deleted after a grace
period by intents. An attempt that ends otherwise leaves objects that are deleted by intents as
well, as their paths were noted before they were written. Bytes are never changed: a file on the new
tier equals that on the old one.

Files of adopted archives, and on read-only tiers, stay where they are. Of a study whose instances
lie in libraries alone only the manifests move.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import AlreadyExists, ConfigError, NotFound, ObjectChanged
from raypacs.records import Lease, MovedAside, MovedSeries, WorkResult
from raypacs.storage import manifest
from raypacs.storage.checksums import pieces
from raypacs.storage.manifest import Manifest
from raypacs.storage.tier import Tier
from raypacs.work.run import Moves, Relocation, Site, TaskFailure, Tasks
from raypacs.work.source import find_tier

_TASK_BYTES = 64 * 1024 * 1024
_MANIFEST_BYTES = 1024  # of an instance in a manifest, more than it takes
_SPARE_BYTES = 64 * 1024

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Copy:
    """One object to copy. ``sha256``: of its bytes from ``offset`` on ('': not known)."""

    from_tier: str
    from_path: str
    path: str
    size_bytes: int
    offset: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class _Series:
    """A series on its way: the manifest in force, and where its instances lie afterwards."""

    tier: str
    path: str
    told: Manifest
    rows: tuple[Row, ...]
    copies: tuple[Copy, ...]
    is_gone: bool


class MigrateRun:
    """One leased MIGRATE."""

    def __init__(self, lease: Lease, site: Site) -> None:
        if site.moves is None or site.relocation is None:
            raise ConfigError("this site moves nothing")
        self._lease, self._site = lease, site
        self._moves: Moves = site.moves
        self._relocation: Relocation = site.relocation
        self._tiers = site.settings.tiers
        self._to = str(lease.payload.get("to", ""))

    def run(self, tasks: Tasks) -> WorkResult:
        """Move what the item names."""
        to = next((tier for tier in self._tiers if tier.name == self._to), None)
        if to is None or to.role != "image" or not to.takes_new:
            why = f"tier {self._to or '(none named)'} takes no studies"
            return WorkResult(error=why, retryable=False)
        if "asides" in self._lease.payload:
            return self._move_asides(tasks)
        return self._move_study(tasks)

    def clean_up(self, *, reported: bool) -> None:
        """Nothing: what does not count is deleted by the intents that were planned."""

    # A study

    def _move_study(self, tasks: Tasks) -> WorkResult:
        uid = self._lease.study_uid
        refs = self._site.manifests(uid)
        study = self._moves.study(uid)
        if study is None:
            return WorkResult(error="there is no such study any more", retryable=False)
        if not refs:
            return WorkResult(error="waits: the study is open, it grew", waits=True)
        gone = self._relocation.gone(uid)
        listed = [self._series(tier, path, path in gone) for tier, path in refs]
        copies = [copy for one in listed for copy in one.copies]
        switched = [one for one in listed if self._is_switched(one)]
        if not switched:
            return WorkResult(moved=tuple(self._moved(one, one.path, 0) for one in listed))
        failure = self._take_room(copies, switched) or self._copy(tasks, copies)
        if failure is not None:
            return failure
        written = {one.path: self._write_manifest(one) for one in switched}
        return WorkResult(
            moved=tuple(self._moved(one, *written.get(one.path, (one.path, 0))) for one in listed)
        )

    def _series(self, tier: str, path: str, is_gone: bool) -> _Series:
        told = manifest.decode(find_tier(self._tiers, tier).read(path))
        leaving = {one.name for one in self._tiers if self._may_leave(one)}
        rows, copies = [], []
        for row in told.rows():
            if not is_gone and row["tier"] in leaving:
                uids = (told.study_uid, told.series_uid, row["sop_instance_uid"])
                new = layout.instance(*uids, self._lease.token)
                copies.append(
                    Copy(
                        row["tier"],
                        row["path"],
                        new,
                        int(row["size_bytes"]),
                        int(row["dataset_offset_bytes"]),
                        row["sha256"],
                    )
                )
                row = {**row, "tier": self._to, "path": new}
            rows.append(row)
        return _Series(tier, path, told, tuple(rows), tuple(copies), is_gone)

    def _may_leave(self, tier: TierSettings) -> bool:
        movable = not tier.adopted and (tier.draining or not tier.read_only)
        return tier.role == "image" and movable and tier.name != self._to

    def _is_switched(self, one: _Series) -> bool:
        """Whether a series gets another manifest: its instances move, or it lies elsewhere."""
        return bool(one.copies) or one.tier != self._to

    def _take_room(self, copies: Sequence[Copy], switched: Sequence[_Series]) -> WorkResult | None:
        """Reserve and plan everything that is to be written; return why not."""
        rows = sum(len(one.rows) for one in switched)
        need = sum(copy.size_bytes for copy in copies)
        need += rows * _MANIFEST_BYTES + len(switched) * _SPARE_BYTES
        granted = self._moves.reserve(self._lease, self._to, need)
        if granted < need:
            self._site.refused(self._to)
            why = f"waits: tier {self._to} has no room for {need} bytes"
            return WorkResult(error=why, waits=True)
        places = [(self._to, copy.path) for copy in copies]
        places += [(self._to, self._manifest_path(one)) for one in switched]
        self._moves.plan(self._lease, places)
        return None

    def _copy(self, tasks: Tasks, copies: Sequence[Copy]) -> WorkResult | None:
        """Copy everything, each object read back; return why not, None where all is there."""
        total = sum(copy.size_bytes for copy in copies)
        done = 0
        for number, share in enumerate(_shares(copies)):
            tasks.submit(number, copy_objects, share, self._to, self._tiers)
        for _, value in tasks.finished():
            if isinstance(value, TaskFailure):
                tasks.cancel()
                if value.waits:
                    self._site.refused(self._to)
                return value.as_result()
            done += int(value)
            told = {"bytes_done": done, "bytes": total, "to": self._to}
            self._moves.progress(self._lease, told)
        return None

    def _manifest_path(self, one: _Series) -> str:
        return layout.manifest(one.told.study_uid, one.told.series_uid, self._lease.token)

    def _write_manifest(self, one: _Series) -> tuple[str, int]:
        """Write a series' new manifest and read it back; return its path and its bytes."""
        path = self._manifest_path(one)
        uids = (one.told.study_uid, one.told.series_uid)
        data = manifest.encode(*uids, one.rows, one.told.attributes)
        tier = find_tier(self._tiers, self._to)
        tier.put_durable(path, data)
        if manifest.decode(tier.read(path)).rows() != list(one.rows):
            raise ObjectChanged(f"the manifest at {path} reads back otherwise", path=path)
        return path, len(data)

    def _moved(self, one: _Series, path: str, size_bytes: int) -> MovedSeries:
        switched = path != one.path
        lie: dict[str, tuple[int, int]] = {} if one.is_gone else _by_tier(one.rows)
        lay: dict[str, tuple[int, int]] = {} if one.is_gone else _by_tier(one.told.rows())
        lie.pop("", None)
        return MovedSeries(
            study_uid=one.told.study_uid,
            series_uid=one.told.series_uid,
            manifest_tier=self._to if switched else one.tier,
            manifest_path=path,
            manifest_bytes=size_bytes,
            based_on=one.path,
            tier_bytes=tuple((tier, *counts) for tier, counts in sorted(lie.items())),
            objects=tuple((self._to, copy.path, copy.size_bytes) for copy in one.copies),
            left=tuple((tier, *lay[tier]) for tier in sorted(lay) if tier and tier not in lie),
        )

    # What is kept aside

    def _move_asides(self, tasks: Tasks) -> WorkResult:
        """Move objects kept aside, with the reasons beside them, a batch of them."""
        source = str(self._lease.payload.get("from", ""))
        listed = list(self._lease.payload["asides"])
        moves: dict[str, MovedAside] = {}
        copies: list[Copy] = []
        for one in listed:
            copy, moved = self._aside(source, str(one["path"]), int(one["size_bytes"]))
            if copy is not None:
                copies.append(copy)
                moves[copy.path] = moved
        need = sum(copy.size_bytes for copy in copies) + len(copies) * _SPARE_BYTES
        if copies and self._moves.reserve(self._lease, self._to, need) < need:
            return WorkResult(error=f"waits: tier {self._to} has no room", waits=True)
        places = [(self._to, path) for one in moves.values() for path in (one.path, one.explained)]
        self._moves.plan(self._lease, [place for place in places if place[1]])
        failure = self._copy(tasks, copies)
        if failure is not None:
            return failure
        explained = [self._explain(one) for one in moves.values()]
        self._relocation.move_asides(self._lease, explained)
        return WorkResult()

    def _aside(self, source: str, path: str, size_bytes: int) -> tuple[Copy | None, MovedAside]:
        token = layout.new_token()
        reason = layout.quarantine_reason(path) if path.startswith("quarantine/") else ""
        new = layout.with_token(path, token)
        explained = layout.quarantine_reason(new) if reason else ""
        moved = MovedAside(source, path, self._to, new, explained, reason)
        if not find_tier(self._tiers, source).exists(path):
            return None, moved  # deleted meanwhile, or lost: it stays listed where it was
        return Copy(source, path, new, size_bytes), moved

    def _explain(self, one: MovedAside) -> MovedAside:
        """Copy the reason beside a quarantined object, where there is one."""
        if not one.explained:
            return one
        try:
            data = find_tier(self._tiers, one.from_tier).read(one.from_explained)
            find_tier(self._tiers, self._to).put_durable(one.explained, data)
        except NotFound:
            return MovedAside(one.from_tier, one.from_path, one.tier, one.path)
        return one


def copy_objects(copies: Sequence[Copy], to: str, tiers: tuple[TierSettings, ...]) -> int:
    """Copy objects to a tier, durably, and read each back; return how many bytes.

    Raises:
        ObjectChanged: a source is not what was stored, or a copy reads back otherwise.
        NotFound: a source is gone. TierFull, TierUnavailable.
    """
    target = find_tier(tiers, to)
    for copy in copies:
        source = find_tier(tiers, copy.from_tier)
        whole = _copied(source, target, copy)
        back = hashlib.sha256()
        for piece in pieces(target, copy.path, 0, copy.size_bytes + 1):
            back.update(piece)
        if back.digest() != whole:
            raise ObjectChanged(f"{copy.path} on {to} reads back otherwise", path=copy.path)
    return sum(copy.size_bytes for copy in copies)


def _copied(source: Tier, target: Tier, copy: Copy) -> bytes:
    """Copy one object; return the SHA-256 of the bytes that were read.

    They are compared with what the index keeps before anything can be seen on the target.
    """
    whole, data_set = hashlib.sha256(), hashlib.sha256()
    count = 0
    try:
        with target.create(copy.path) as writer:
            for piece in pieces(source, copy.from_path, 0, copy.size_bytes + 1):
                whole.update(piece)
                data_set.update(memoryview(piece)[max(0, copy.offset - count) :])
                count += len(piece)
                writer.write(piece)
            if count != copy.size_bytes or (copy.sha256 and data_set.hexdigest() != copy.sha256):
                why = f"{copy.from_path} on {copy.from_tier} is not what was stored"
                raise ObjectChanged(why, tier=copy.from_tier, path=copy.from_path)
            writer.commit()
    except AlreadyExists as exc:  # of this attempt's own token: a task that was begun twice
        if count != copy.size_bytes:
            raise ObjectChanged(f"{copy.path} is taken on {target.name}", path=copy.path) from exc
    return whole.digest()


def _by_tier(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return (objects, bytes) by tier."""
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for row in rows:
        objects[row["tier"]] += 1
        sizes[row["tier"]] += int(row["size_bytes"])
    return {tier: (objects[tier], sizes[tier]) for tier in objects}


def _shares(copies: Sequence[Copy]) -> Iterator[tuple[Copy, ...]]:
    """Divide into shares of at most ``_TASK_BYTES``, or one larger object."""
    share: list[Copy] = []
    room = _TASK_BYTES
    for copy in copies:
        if share and copy.size_bytes > room:
            yield tuple(share)
            share, room = [], _TASK_BYTES
        share.append(copy)
        room -= copy.size_bytes
    if share:
        yield tuple(share)
