"""Containers of a study on library tiers: what a rebuild or reconcile makes of them.

Their manifests alone are read, which say what each instance is; the bytes are read by the next
ARCHIVE or VERIFY, and until then nothing relies on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raypacs import layout
from raypacs.errors import (
    AlreadyExists,
    ContainerCorrupt,
    NotFound,
    TierFull,
    TierUnavailable,
)
from raypacs.index.reader import IndexReader
from raypacs.index.reinventory import Place
from raypacs.index.sealing import ManifestRef, Sealing
from raypacs.index.writer import IndexWriter
from raypacs.maintenance.inventory import Unplaced
from raypacs.records import ContainerRef, InstanceRecord
from raypacs.storage import manifest
from raypacs.storage.container import AS_RECEIVED, HTJ2K, Container, Member
from raypacs.storage.tier import ObjectInfo, Tier

_PLANNED_S = 3600.0


@dataclass(frozen=True, slots=True)
class Agreed:
    """How many containers were found and lost, and instances that lie in libraries alone."""

    found: int
    lost: int
    away: int


class StudyContainers:
    """The containers of one study that lie on the library tiers."""

    def __init__(
        self, tiers: Mapping[str, Tier], study_uid: str, objects: Mapping[Place, ObjectInfo]
    ) -> None:
        """Read the manifest of each."""
        self._uid, self._tiers = study_uid, tiers
        self.unplaced: list[Unplaced] = []
        self.found: dict[Place, Container] = {}
        self.members: dict[str, Member] = {}
        """By SOP Instance UID; the newest container's."""
        for place, _ in sorted(objects.items(), key=lambda one: one[1].modified_s):
            try:
                container = Container(tiers[place[0]], place[1])
            except (ContainerCorrupt, NotFound) as exc:
                self.unplaced.append(Unplaced(*place, f"no container that can be read: {exc}"))
                continue
            if container.study_uid != study_uid:
                why = f"it is of study {container.study_uid}"
                self.unplaced.append(Unplaced(*place, why))
                continue
            self.found[place] = container
            self.members |= container.members

    def holds(self, sop_instance_uid: str, sha256: str) -> bool:
        """Whether an instance, as it was received, lies in a container."""
        member = self.members.get(sop_instance_uid)
        return member is not None and (not sha256 or member.sha256 == sha256)

    def records(self, without: Iterable[str]) -> list[InstanceRecord]:
        """Return the instances of all containers but those, each without a place."""
        known = set(without)
        found = []
        for container in self.found.values():
            for uid in container.members:
                if uid in known:
                    continue
                known.add(uid)
                record = _record(self.members[uid].row)
                attributes = {**container.attributes, **record.attributes}
                found.append(replace(record, tier="", path="", attributes=attributes))
        return found

    def refs(
        self, known: Iterable[Place], told: Mapping[str, set[tuple[str, str]]]
    ) -> list[ContainerRef]:
        """Return those that the index does not know.

        ``told``: (SOP Instance UID, SHA-256) of the instances of each series as the index has them;
        a container of others gets ``generation`` 0.
        """
        seen = set(known)
        found = []
        for (tier, path), container in self.found.items():
            if (tier, path) in seen:
                continue
            members = container.members.values()
            held = {(one.sop_instance_uid, one.sha256) for one in members}
            forms = {one.form for one in members}
            ref = ContainerRef(
                study_uid=self._uid,
                series_uid=container.series_uid,
                tier=tier,
                path=path,
                form=HTJ2K if HTJ2K in forms else AS_RECEIVED,
                sha256="",
                size_bytes=container.size_bytes,
                instance_count=len(container.members),
                generation=int(told.get(container.series_uid) == held),
            )
            found.append(ref)
        return found

    def agree(
        self,
        reader: IndexReader | None,
        writer: IndexWriter | None,
        now: float,
        *,
        away: Iterable[Mapping[str, Any]],
        new_away: Iterable[str],
        sealed: Mapping[str, Iterable[Mapping[str, Any]]],
    ) -> Agreed:
        """Register containers; what lies in libraries alone is offline, a whole study sealed.

        ``away``: rows of instances that the index knew and that lie in libraries alone;
        ``new_away``: those it did not know. ``sealed``: rows by series, where they are no rows.
        """
        knows = reader is not None and reader.knows_study(self._uid)
        before = reader.containers(self._uid) if reader is not None and knows else []
        places = {(one.tier, one.path) for one in before}
        lost = [
            (one.tier, one.path)
            for one in before
            if one.tier in self._tiers and (one.tier, one.path) not in self.found
        ]
        missing: dict[str, tuple[int, int]] = {}
        uids = set(new_away)
        for row in away:
            uids.add(row["sop_instance_uid"])
            objects, size = missing.get(row["tier"], (0, 0))
            missing[row["tier"]] = (objects + 1, size + row["size_bytes"])
        missing.pop("", None)
        told = Agreed(
            found=len(self.found.keys() - places),
            lost=sum(not one.damaged for one in before if (one.tier, one.path) in lost),
            away=len(uids),
        )
        if reader is None or writer is None or not knows or not (told.found or lost or uids):
            return told
        rows = reader.instance_rows(self._uid)
        held = {
            series_uid: {(row["sop_instance_uid"], row["sha256"]) for row in ours}
            for series_uid, ours in (rows or sealed).items()
        }
        writer.containers_found(
            self._uid,
            now,
            found=self.refs(places, held),
            lost=lost,
            missing=missing,
            away=sorted(uids),
        )
        if rows and uids and sum(map(len, rows.values())) == len(uids):
            seal_away(reader, writer, self._tiers, self._uid, now)
        return told


def seal_away(
    reader: IndexReader, writer: IndexWriter, tiers: Mapping[str, Tier], study_uid: str, now: float
) -> bool:
    """Seal a study all of whose instances lie in libraries alone; say whether it is sealed.

    So it stays there until somebody asks for it; one with rows would be restored at once.
    """
    images = [tier for tier in tiers.values() if tier.role == "image" and tier.settings.takes_new]
    rows = reader.instance_rows(study_uid)
    if not images or not rows:
        return False
    described = reader.series_attributes(study_uid)
    tier = min(images, key=lambda one: one.settings.order)
    data: dict[str, bytes] = {}
    refs = []
    for series_uid, ours in rows.items():
        path = layout.manifest(study_uid, series_uid, layout.new_token())
        data[path] = manifest.encode(study_uid, series_uid, ours, described.get(series_uid, {}))
        refs.append(ManifestRef(study_uid, series_uid, tier.name, path, len(data[path])))
    writer.plan_manifests(refs, now, due_s=now + _PLANNED_S)
    try:
        for path, content in data.items():
            tier.put_durable(path, content)
    except (TierFull, TierUnavailable, AlreadyExists):
        return False
    sealing = Sealing(study_uid, rows, tuple(refs), forced=True)
    return bool(writer.seal([sealing], now))


def _record(row: Mapping[str, Any]) -> InstanceRecord:
    return InstanceRecord(**{name: row[name] for name in InstanceRecord.__slots__ if name in row})
