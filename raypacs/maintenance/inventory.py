"""What lies on the tiers, study by study: instances, manifests, packs, what was kept aside.

Only lists and reads. An object is what its path says it is, and belongs to whom its bytes name:
where the two differ it is listed as not placed, with the reason, and stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import (
    MalformedInstance,
    ManifestCorrupt,
    NotFound,
    PackCorrupt,
    TierUnavailable,
    UnsupportedPixels,
)
from raypacs.index.reinventory import Place
from raypacs.records import InstanceRecord, PackRef, PreparedInstance, PreparedSeries
from raypacs.storage import manifest
from raypacs.storage.adopted import AdoptedTier
from raypacs.storage.manifest import Manifest
from raypacs.storage.pack import Pack
from raypacs.storage.recovery import describe_stored
from raypacs.storage.tier import ObjectInfo, Tier, open_tier

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Unplaced:
    """An object, or what should be one, and why it has no place in the index."""

    tier: str
    path: str
    why: str


@dataclass
class StudyObjects:
    """The objects of one study on all tiers, by (tier, path)."""

    study_uid: str
    instances: dict[Place, ObjectInfo] = field(default_factory=dict)
    manifests: dict[Place, ObjectInfo] = field(default_factory=dict)
    packs: dict[Place, ObjectInfo] = field(default_factory=dict)
    headers: dict[Place, ObjectInfo] = field(default_factory=dict)
    conflicts: dict[Place, ObjectInfo] = field(default_factory=dict)
    containers: dict[Place, ObjectInfo] = field(default_factory=dict)
    strange: list[Unplaced] = field(default_factory=list)

    def every(self) -> Iterator[Place]:
        """Yield the place of every object that is what it seems."""
        for kind in (self.instances, self.manifests, self.packs, self.headers, self.conflicts):
            yield from kind
        yield from self.containers


def studies_on(tiers: Iterable[Tier]) -> set[str]:
    """Return the Study Instance UIDs that any path on the tiers names.

    Raises:
        TierUnavailable: a tier cannot be listed; nothing is known of it then.
    """
    found = set()
    for tier in tiers:
        for folder in ("studies/", "conflicts/"):
            found |= {info.path.split("/")[1] for info in tier.walk(folder)}
    return found


def objects_of(tiers: Iterable[Tier], study_uid: str) -> StudyObjects:
    """List the objects of a study. Raises TierUnavailable."""
    found = StudyObjects(study_uid)
    for tier in tiers:
        for info in tier.walk(layout.study_prefix(study_uid)):
            _sort(found, tier, info)
        for info in tier.walk(layout.aside_prefix(study_uid)):
            if tier.role == "image":
                found.conflicts[tier.name, info.path] = info
            else:
                found.strange.append(_strange(tier, info))
    return found


def adopted_files(
    tiers: Mapping[str, Tier], places: Iterable[Place], objects: StudyObjects
) -> dict[Place, ObjectInfo]:
    """Return those of a study's files that lie on adopted tiers, which no listing of objects names.

    ``places`` are those that the index knows; the manifests among ``objects`` name others.

    Raises:
        TierUnavailable: an archive does not answer.
    """
    archives = {name: tier for name, tier in tiers.items() if isinstance(tier, AdoptedTier)}
    if not archives:
        return {}
    named = set(places)
    for name, path in objects.manifests:
        found = read_manifest(tiers[name], path)
        if not isinstance(found, Unplaced):
            named |= {(row["tier"], row["path"]) for row in found.rows()}
    there = {}
    for name, path in named:
        if name in archives:
            try:
                there[name, path] = archives[name].stat(path)
            except NotFound:
                continue
    return there


def _sort(found: StudyObjects, tier: Tier, info: ObjectInfo) -> None:
    name = info.path.rpartition("/")[2]
    kinds = {
        ("image", "dcm"): found.instances,
        ("image", "manifest"): found.manifests,
        ("web", "pack"): found.packs,
        ("web", "hdr"): found.headers,
        ("library", "zip"): found.containers,
    }
    kind = kinds.get((tier.role, name.rpartition(".")[2]))
    if kind is None or info.path.count("/") != 3:
        found.strange.append(_strange(tier, info))
    else:
        kind[tier.name, info.path] = info


def _strange(tier: Tier, info: ObjectInfo) -> Unplaced:
    return Unplaced(tier.name, info.path, f"nothing like it belongs on a tier of role {tier.role}")


def read_manifest(tier: Tier, path: str) -> Manifest | Unplaced:
    """Return a manifest, or why it cannot be used."""
    try:
        found = manifest.decode(tier.read(path))
    except (ManifestCorrupt, NotFound) as exc:
        return Unplaced(tier.name, path, str(exc))
    if path.split("/")[1:3] != [found.study_uid, found.series_uid]:
        return Unplaced(tier.name, path, f"it is of series {found.series_uid}")
    return found


def parse(
    tiers: Sequence[TierSettings],
    objects: Iterable[tuple[Place, ObjectInfo]],
    pool: Executor | None,
) -> Iterator[InstanceRecord | Unplaced]:
    """Describe instances as received, from their bytes, in parallel where there is a pool."""
    settings = {tier.name: tier for tier in tiers}
    wanted = [(settings[place[0]], info) for place, info in objects]
    batches = [wanted[at : at + _BATCH] for at in range(0, len(wanted), _BATCH)]
    for described in (map if pool is None else pool.map)(_parse_batch, batches):
        yield from described


def _parse_batch(batch: list[tuple[TierSettings, ObjectInfo]]) -> list[InstanceRecord | Unplaced]:
    opened: dict[str, Tier] = {}
    found = []
    for settings, info in batch:
        if settings.name not in opened:
            opened[settings.name] = open_tier(settings)
        found.append(_parse(opened[settings.name], info))
    return found


def _parse(tier: Tier, info: ObjectInfo) -> InstanceRecord | Unplaced:
    try:
        record = describe_stored(tier, info)
    except (MalformedInstance, NotFound, TierUnavailable) as exc:
        return Unplaced(tier.name, info.path, f"{type(exc).__name__}: {exc}")
    named = [record.study_uid, record.series_uid]
    if info.path.split("/")[1:3] != named:
        return Unplaced(tier.name, info.path, f"its data set names series {'/'.join(named)}")
    return record


def read_pack(tier: Tier, path: str, sizes: tuple[int, int]) -> PreparedSeries | Unplaced:
    """Describe a pack from its index and its header sidecar; ``sizes`` in bytes of both.

    Whole means: both footers and indexes match their checksums, carry the token of the path, and
    the sidecar has every instance of the pack.
    """
    study_uid, series_uid, name = path.split("/")[1:]
    token = name.removesuffix(".pack")
    ref = PackRef(tier.name, path, layout.header_sidecar(path), token)
    try:
        pack = Pack(tier, ref)
        for uid in pack.instances:
            pack.metadata(uid)
        prepared = tuple(_prepared(pack, uid) for uid in pack.instances)
    except (PackCorrupt, NotFound, UnsupportedPixels) as exc:
        return Unplaced(tier.name, path, f"not whole: {exc}")
    if (pack.study_uid, pack.series_uid) != (study_uid, series_uid):
        return Unplaced(tier.name, path, f"it is of series {pack.series_uid}")
    return PreparedSeries(
        study_uid=study_uid,
        series_uid=series_uid,
        token=token,
        tier=tier.name,
        pack_path=path,
        header_path=ref.header_path,
        pack_bytes=sizes[0],
        header_bytes=sizes[1],
        instances=prepared,
        seconds=0.0,
    )


def _prepared(pack: Pack, uid: str) -> PreparedInstance:
    one = pack.instance(uid)
    size = one.object_length
    if one.form != "copied":
        frames = range(1, one.frames + 1)
        size = sum(length for n in frames for _, length in pack.frame_extents(uid, n))
    return PreparedInstance(
        sop_instance_uid=uid,
        form=one.form,
        reason=one.reason,
        frames=one.frames,
        raw_bytes=one.raw_bytes,
        prepared_bytes=size,
        transfer_syntax_uid=one.transfer_syntax_uid,
        lossless_proven=one.lossless_proven,
    )
