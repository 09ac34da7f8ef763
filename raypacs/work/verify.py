"""VERIFY: stored bytes against checksums (FEATURES E6). Nothing is written, no access is noted.

Instances as received are compared with the size and SHA-256 the index keeps, manifests of sealed
series with the SHA-256 they carry; packs and their header sidecars with their CRC-32s. What differs
is looked up once more before it is told, as it may have been replaced or deleted meanwhile.

Containers of libraries are read whole: each byte of them, and each instance's data set as received
(``storage.container``). What is damaged or not there is told, and counts as no archived copy.
Instances that left the image tiers are looked for in the containers alone.

What was adopted has no SHA-256 until somebody read it: the first VERIFY does, and tells it.

Damaged originals and manifests need an operator: FAILED. A damaged pack can be made again: WARNING.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from raypacs.config import TierSettings
from raypacs.errors import ManifestCorrupt, NotFound, ObjectChanged, PackCorrupt
from raypacs.records import (
    CheckedContainer,
    ContainerRef,
    InstanceRecord,
    Lease,
    PackRef,
    WorkResult,
)
from raypacs.storage import manifest
from raypacs.storage.checksums import dataset_sha256, pieces
from raypacs.storage.pack import Pack
from raypacs.storage.tier import Tier
from raypacs.work.archive_series import check_containers
from raypacs.work.run import Site, TaskFailure, Tasks
from raypacs.work.source import find_tier

# Read by one task: short enough that urgent work gets the core soon, and a cancel is quick.
_TASK_BYTES = 128 * 1024 * 1024
_NAMED = 20  # in the error of the work item; the rest is counted


@dataclass(frozen=True, slots=True)
class Difference:
    """An object whose bytes are not what was stored, and how so.

    ``replaceable``: it can be made again from what else is stored.
    """

    tier: str
    path: str
    why: str
    replaceable: bool = False

    def __str__(self) -> str:
        return f"{self.path} on {self.tier}: {self.why}"


class VerifyRun:
    """One leased VERIFY of a study."""

    def __init__(self, lease: Lease, site: Site) -> None:
        self._study_uid, self._site = lease.study_uid, site

    def run(self, tasks: Tasks) -> WorkResult:
        """Check everything that is stored of the study."""
        tiers = self._site.settings.tiers
        for place in self._site.manifests(self._study_uid):
            tasks.submit(place, verify_manifest, *place, tiers)
        records = self._records()
        for number, share in enumerate(_shares(one for one in records if one.sha256)):
            tasks.submit(number, verify_instances, share, tiers)
        for number, share in enumerate(_shares(one for one in records if not one.sha256)):
            tasks.submit(("new", number), digest_instances, share, tiers)
        for ref in self._packs():
            tasks.submit(ref.pack_path, verify_pack, ref, tiers)
        for container in self._containers():
            site_id = self._site.site_id()
            tasks.submit(container.path, check_containers, (container,), tiers, site_id)
        found: list[Difference] = []
        checked: list[CheckedContainer] = []
        failure: TaskFailure | None = None
        for _, value in tasks.finished():
            if isinstance(value, TaskFailure):
                failure = failure or value
            elif isinstance(value, Digested):
                found += self._learn(value)
            else:
                found += [one for one in value if isinstance(one, Difference)]
                checked += [one for one in value if isinstance(one, CheckedContainer)]
        found += [Difference(one.tier, one.path, one.why) for one in checked if one.why]
        told = _result(self._still_stored(found))
        if failure is not None and not told.error:
            told = failure.as_result()
        return replace(told, checked=tuple(checked))

    def clean_up(self, *, reported: bool) -> None:
        """Nothing was written."""

    def _learn(self, digested: Digested) -> list[Difference]:
        """Tell checksums that were not known: the next VERIFY compares with them."""
        if self._site.archives is not None and digested.checksums:
            self._site.archives.checksums(list(digested.checksums))
        return list(digested.differences)

    def _records(self) -> list[InstanceRecord]:
        """Return the instances whose bytes should be on a tier, not only in containers."""
        try:
            records = [stored.record for stored in self._site.instances(self._study_uid)]
        except (ManifestCorrupt, NotFound):
            return []  # a manifest is damaged or gone: nobody knows what else there is to check
        away = self._away()
        return [one for one in records if one.tier and one.series_uid not in away]

    def _away(self) -> set[str]:
        """Return series whose instances left the image tiers, or are about to."""
        if self._site.moves is None:
            return set()
        places = self._site.moves.places(self._study_uid)
        return {series_uid for series_uid, _, path, _ in places.manifests if path in places.gone}

    def _containers(self) -> list[ContainerRef]:
        return self._site.moves.containers(self._study_uid) if self._site.moves else []

    def _packs(self) -> list[PackRef]:
        return [ref for refs in self._site.packs(self._study_uid).values() for ref in refs]

    def _still_stored(self, found: list[Difference]) -> list[Difference]:
        """Leave out what the index does not name any more."""
        if not found:
            return found
        places = {(one.tier, one.path) for one in self._records()}
        places |= set(self._site.manifests(self._study_uid))
        places |= {(one.tier, one.path) for one in self._containers()}
        for ref in self._packs():
            places |= {(ref.tier, ref.pack_path), (ref.tier, ref.header_path)}
        return [one for one in found if (one.tier, one.path) in places]


def verify_instances(
    records: Sequence[InstanceRecord], tiers: tuple[TierSettings, ...]
) -> list[Difference]:
    """Read instances as received; return those that differ from size or SHA-256.

    Raises:
        TierUnavailable: a tier cannot be read.
    """
    found = []
    for record in records:
        why = _instance_differs(find_tier(tiers, record.tier), record)
        if why:
            found.append(Difference(record.tier, record.path, why))
    return found


@dataclass(frozen=True, slots=True)
class Digested:
    """Instances that had no SHA-256: theirs now, and those that are not what was adopted."""

    checksums: tuple[tuple[InstanceRecord, str], ...]
    differences: tuple[Difference, ...]


def digest_instances(
    records: Sequence[InstanceRecord], tiers: tuple[TierSettings, ...]
) -> Digested:
    """Read instances whose checksum is not known, as they were adopted.

    Raises:
        TierUnavailable: a tier cannot be read.
    """
    known: list[tuple[InstanceRecord, str]] = []
    found: list[Difference] = []
    for record in records:
        try:
            known.append((record, dataset_sha256(find_tier(tiers, record.tier), record)))
        except ObjectChanged:
            found.append(Difference(record.tier, record.path, "changed since it was adopted"))
        except NotFound:
            found.append(Difference(record.tier, record.path, "not there"))
    return Digested(tuple(known), tuple(found))


def verify_manifest(tier: str, path: str, tiers: tuple[TierSettings, ...]) -> list[Difference]:
    """Read the manifest of a sealed series; return it if it differs from its SHA-256.

    Raises:
        TierUnavailable: the tier cannot be read.
    """
    try:
        manifest.decode(find_tier(tiers, tier).read(path))
    except (NotFound, ManifestCorrupt) as exc:
        return [Difference(tier, path, str(exc))]
    return []


def verify_pack(ref: PackRef, tiers: tuple[TierSettings, ...]) -> list[Difference]:
    """Read a pack and its header sidecar; return what differs from its checksums.

    Raises:
        TierUnavailable: a tier cannot be read.
    """
    tier = find_tier(tiers, ref.tier)
    try:
        pack = Pack(tier, ref)
        pack.check_frames()
    except (NotFound, PackCorrupt) as exc:
        return [Difference(ref.tier, ref.pack_path, str(exc), replaceable=True)]
    try:
        pack.check_headers()
    except (NotFound, PackCorrupt) as exc:
        return [Difference(ref.tier, ref.header_path, str(exc), replaceable=True)]
    return []


def _instance_differs(tier: Tier, record: InstanceRecord) -> str:
    """Return how an instance differs from what was stored; '' where it does not."""
    try:
        size = tier.size(record.path)
        if size != record.size_bytes:
            return f"{size} bytes instead of {record.size_bytes}"
        digest = hashlib.sha256()
        for piece in pieces(tier, record.path, record.dataset_offset_bytes, size):
            digest.update(piece)
    except NotFound:
        return "not there"
    return "" if digest.hexdigest() == record.sha256 else "SHA-256 differs"


def _shares(records: Iterable[InstanceRecord]) -> Iterator[list[InstanceRecord]]:
    """Divide records into shares of at most ``_TASK_BYTES``, or one larger object."""
    share: list[InstanceRecord] = []
    room = _TASK_BYTES
    for record in records:
        if share and record.size_bytes > room:
            yield share
            share, room = [], _TASK_BYTES
        share.append(record)
        room -= record.size_bytes
    if share:
        yield share


def _result(found: Sequence[Difference]) -> WorkResult:
    if not found:
        return WorkResult()
    ordered = sorted(found, key=lambda one: one.replaceable)
    text = f"{len(found)} objects differ: " + "; ".join(map(str, ordered[:_NAMED]))
    if len(found) > _NAMED:
        text += f"; and {len(found) - _NAMED} more"
    if not ordered[0].replaceable:
        return WorkResult(error=text, retryable=False)
    return WorkResult(warning=text)
