"""One study made to agree: what the index says of it, and what lies on the tiers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields, replace

from raypacs import layout
from raypacs.errors import IndexRefused
from raypacs.index.reader import IndexReader
from raypacs.index.reinventory import Known, Place
from raypacs.index.sealing import ManifestRef, Row
from raypacs.index.writer import IndexWriter
from raypacs.maintenance.inventory import (
    StudyObjects,
    Unplaced,
    adopted_files,
    parse,
    read_manifest,
    read_pack,
)
from raypacs.maintenance.libraries import StudyContainers
from raypacs.records import InstanceRecord, Outcome, PreparedSeries, Registered
from raypacs.storage.recovery import describe_aside
from raypacs.storage.tier import ObjectInfo, Tier

_BATCH = 1000


@dataclass
class Counts:
    """How many of what were found."""

    instances_registered: int = 0
    instances_from_manifests: int = 0
    conflicts: int = 0
    asides: int = 0
    packs_adopted: int = 0
    packs_lost: int = 0
    studies_reopened: int = 0
    instances_lost: int = 0
    studies_lost: int = 0
    containers_found: int = 0
    containers_lost: int = 0
    instances_in_libraries_alone: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


class Study:
    """Compares one study, and makes the index agree where there is a writer."""

    def __init__(
        self,
        reader: IndexReader | None,
        writer: IndexWriter | None,
        tiers: list[Tier],
        study_uid: str,
        pool: Executor | None,
        now: float,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._tiers = {tier.name: tier for tier in tiers}
        self._uid, self._pool, self._now = study_uid, pool, now
        self.unplaced: list[Unplaced] = []
        self.lost: list[Unplaced] = []
        self._counts = Counts()
        self._alone: dict[str, Row] = {}
        """Instances whose pack is there and whose original is not, by SOP Instance UID."""
        self._new_away: set[str] = set()
        self._away: dict[str, Row] = {}
        """Instances that the index knows and that lie in libraries alone."""

    def agree(self, objects: StudyObjects) -> Counts:
        """Compare, and make the index agree; return what was found."""
        self.unplaced += objects.strange
        known = self._known()
        sealed = self._reader.manifests(self._uid) if self._reader else []
        rows, lost_manifests = self._sealed_rows(sealed)
        places = set(known.instances) | {
            (row["tier"], row["path"]) for ours in rows.values() for row in ours
        }
        objects.instances |= adopted_files(self._tiers, places, objects)
        self._libraries = StudyContainers(self._tiers, self._uid, objects.containers)
        self.unplaced += self._libraries.unplaced
        lost_packs = {
            place
            for place, header in known.packs.items()
            if place not in objects.packs or (place[0], header) not in objects.headers
        }
        gone = self._gone(rows, known, objects, places, lost_packs)
        told = known.asides | known.doomed
        new = {
            place: info
            for place, info in objects.instances.items()
            if place not in places and place not in told
        }
        packs = self._found_packs(objects, known, again=bool(lost_manifests))
        self._lose(lost_packs, "a pack, which is made again")
        self._counts.packs_lost += len(lost_packs)
        sealed_places = {(ref.tier, ref.path) for ref in sealed}
        stale = objects.manifests.keys() - sealed_places - told
        changed = bool(new or lost_manifests or lost_packs or stale or gone)
        if changed and sealed:
            self._reopen(sealed, rows)
        records = list(self._records(new, stale, objects))
        records += self._from_libraries(rows, records, gone)
        self._forget(gone, records)
        self._register(records)
        adopted = self._adoptable(objects, packs, self._waiting(lost_packs, records))
        knows = self._reader is not None and self._reader.knows_study(self._uid)
        if self._writer is not None and knows and (changed or adopted):
            self._writer.agree(
                self._uid, self._now, adopted=adopted, lost_packs=lost_packs, doomed=stale
            )
        self._lose_unnamed(lost_manifests, known, records)
        self._leave(known, objects, rows, records)
        self._agree_libraries(sealed, rows)
        self._report_asides(objects, known)
        return self._counts

    def _known(self) -> Known:
        if self._reader is None:
            return Known({}, {}, frozenset(), {}, frozenset())
        return self._reader.known_objects(self._uid)

    def _lose(self, places: set[Place], what: str) -> None:
        for tier, path in sorted(places):
            self.lost.append(Unplaced(tier, path, f"{what}: the index knows it, the tier not"))

    def _gone(
        self,
        rows: dict[str, list[Row]],
        known: Known,
        objects: StudyObjects,
        places: set[Place],
        lost_packs: set[Place],
    ) -> dict[str, Row]:
        """Return the instances whose bytes are nowhere, by SOP Instance UID; all are listed.

        One whose original alone is gone stays, served from its pack, which is the only copy now.
        """
        strange = {(one.tier, one.path) for one in objects.strange}
        missing = places - objects.instances.keys() - strange
        if not missing or self._reader is None:
            return {}
        if not rows:
            rows = self._reader.instance_rows(self._uid)
        held = {tuple(path.split("/")[2:]) for _, path in known.packs.keys() - lost_packs}
        gone = {}
        for row in (row for ours in rows.values() for row in ours):
            place = (row["tier"], row["path"])
            if place not in missing:
                continue
            if self._libraries.holds(row["sop_instance_uid"], row["sha256"]):
                self._away[row["sop_instance_uid"]] = row
                continue
            if row["form"] and (row["series_uid"], f"{row['pack_token']}.pack") in held:
                self._alone[row["sop_instance_uid"]] = row
                self._lose({place}, "an original, whose instance is served from its pack alone")
            else:
                gone[row["sop_instance_uid"]] = row
                self._lose({place}, f"instance {row['sop_instance_uid']}")
        return gone

    def _forget(self, gone: dict[str, Row], records: list[InstanceRecord]) -> None:
        """Forget what is lost; what lies elsewhere is registered anew, or served, from there."""
        for record in records:
            row = self._alone.get(record.sop_instance_uid)
            if row is not None and row["sha256"] == record.sha256 and self._writer is not None:
                self._writer.relocate(record, (row["tier"], row["path"]), self._now)
        found = {record.sop_instance_uid for record in records}
        self._counts.instances_lost += len(gone.keys() - found)
        if gone and self._writer is not None:
            lost = {uid: (row["tier"], row["path"]) for uid, row in gone.items()}
            self._writer.forget_instances(self._uid, lost, self._now)

    def _lose_unnamed(
        self, manifests: list[ManifestRef], known: Known, records: list[InstanceRecord]
    ) -> None:
        """Count what lost manifests named and was not found without them."""
        for ref in manifests:
            found = sum(record.series_uid == ref.series_uid for record in records)
            count = max(0, known.series.get(ref.series_uid, 0) - found)
            if count:
                self._counts.instances_lost += count
                why = f"{count} instances of series {ref.series_uid}, which it named"
                self.lost.append(Unplaced(ref.tier, ref.path, why))

    def _leave(
        self,
        known: Known,
        objects: StudyObjects,
        rows: dict[str, list[Row]],
        records: list[InstanceRecord],
    ) -> None:
        """Let a study leave the index that has no object left on any tier."""
        strange = {(one.tier, one.path) for one in objects.strange}
        places = known.instances.keys() | {
            (row["tier"], row["path"]) for ours in rows.values() for row in ours
        }
        packs = objects.packs.keys() & known.packs.keys()
        knows = self._reader is not None and self._reader.knows_study(self._uid)
        if not knows or objects.instances or packs or places & strange or records or self._away:
            return
        if self._writer is None:
            self._counts.studies_lost += 1
        else:
            count = sum(known.series.values())
            left = self._writer.leave(self._uid, self._now, instances_lost=count)
            self._counts.studies_lost += left

    def _sealed_rows(
        self, sealed: list[ManifestRef]
    ) -> tuple[dict[str, list[Row]], list[ManifestRef]]:
        """Return the instances of the manifests by path ([] for a lost one), and the lost ones."""
        rows: dict[str, list[Row]] = {}
        lost = []
        for ref in sealed:
            if ref.tier in self._tiers:
                found = read_manifest(self._tiers[ref.tier], ref.path)
            else:
                found = Unplaced(ref.tier, ref.path, "the settings do not have its tier")
            if isinstance(found, Unplaced):
                self.lost.append(found)
                lost.append(ref)
                rows[ref.path] = []
            else:
                rows[ref.path] = found.rows()
        return rows, lost

    def _reopen(self, sealed: list[ManifestRef], rows: dict[str, list[Row]]) -> None:
        self._counts.studies_reopened += 1
        if self._writer is not None:
            self._writer.reopen(self._uid, rows, self._now, grace_s=0.0)

    def _records(
        self, new: dict[Place, ObjectInfo], stale: set[Place], objects: StudyObjects
    ) -> Iterator[InstanceRecord]:
        """Yield what is to be registered, the oldest first, as the first one wins."""
        found = list(self._from_manifests(new, stale, objects))
        self._counts.instances_from_manifests += len(found)
        for record in found:
            new.pop((record.tier, record.path))
        settings = [tier.settings for tier in self._tiers.values()]
        for described in parse(settings, new.items(), self._pool):
            if isinstance(described, Unplaced):
                self.unplaced.append(described)
            else:
                found.append(described)
        yield from sorted(found, key=lambda one: (one.received_at_s, one.path))

    def _from_manifests(
        self, new: dict[Place, ObjectInfo], stale: set[Place], objects: StudyObjects
    ) -> Iterator[InstanceRecord]:
        """Yield the instances of manifests the index does not know, where they still lie there."""
        seen: set[Place] = set()
        for tier, path in sorted(stale):
            found = read_manifest(self._tiers[tier], path)
            if isinstance(found, Unplaced):
                self.unplaced.append(found)
                stale.discard((tier, path))
                continue
            for row in found.rows():
                place = (row["tier"], row["path"])
                info = new.get(place)
                if place in seen or info is None or info.size_bytes != row["size_bytes"]:
                    continue
                if info.modified_s > objects.manifests[tier, path].modified_s:
                    continue  # written after the manifest: not what it speaks of
                seen.add(place)
                record = _record(row)
                attributes = {**found.attributes, **record.attributes}
                yield replace(record, attributes=attributes)

    def _register(self, records: list[InstanceRecord]) -> None:
        for start in range(0, len(records), _BATCH):
            batch = records[start : start + _BATCH]
            if self._writer is None:
                self._counts.instances_registered += len(batch)
                continue
            # At the time it was received: sums per hour are those of the site, not of today.
            at_s = min(self._now, max(one.received_at_s for one in batch))
            for record, answer in zip(batch, self._answers(batch, at_s), strict=True):
                if answer is None:
                    continue
                if answer.outcome is Outcome.STORED:
                    self._counts.instances_registered += 1
                elif answer.outcome is Outcome.CONFLICT:
                    self._counts.conflicts += 1
                else:
                    why = f"{answer.outcome}: the same instance is served from elsewhere"
                    self.unplaced.append(Unplaced(record.tier, record.path, why))

    def _answers(self, batch: list[InstanceRecord], at_s: float) -> list[Registered | None]:
        """Register; what the index cannot hold is listed (None), and keeps nothing else out."""
        assert self._writer is not None
        try:
            return list(self._writer.register(batch, at_s))
        except IndexRefused as exc:
            if len(batch) == 1:
                self.unplaced.append(Unplaced(batch[0].tier, batch[0].path, str(exc)))
                return [None]
        return [answer for record in batch for answer in self._answers([record], at_s)]

    def _found_packs(
        self, objects: StudyObjects, known: Known, *, again: bool
    ) -> list[PreparedSeries]:
        """Return the packs that are whole and unknown, or known and to be looked at ``again``.

        The newest comes first.
        """
        found: list[tuple[float, PreparedSeries]] = []
        for (tier, path), info in objects.packs.items():
            if (tier, path) in known.doomed or ((tier, path) in known.packs and not again):
                continue
            header = objects.headers.get((tier, layout.header_sidecar(path)))
            if header is None:
                self.unplaced.append(Unplaced(tier, path, "a pack without its header sidecar"))
                continue
            pack = read_pack(self._tiers[tier], path, (info.size_bytes, header.size_bytes))
            if isinstance(pack, Unplaced):
                self.unplaced.append(pack)
            else:
                found.append((info.modified_s, pack))
        packs = {layout.header_sidecar(path) for _, path in objects.packs}
        for tier, path in objects.headers:
            if path not in packs:
                self.unplaced.append(Unplaced(tier, path, "a header sidecar without its pack"))
        return [pack for _, pack in sorted(found, key=lambda one: one[0], reverse=True)]

    def _adoptable(
        self,
        objects: StudyObjects,
        packs: list[PreparedSeries],
        waiting: dict[str, InstanceRecord],
    ) -> list[PreparedSeries]:
        """Return the packs that hold what is not prepared, the newest first."""
        adopted = []
        for pack in packs:
            held = {one.sop_instance_uid for one in pack.instances}
            why = self._unfit(pack, held, waiting, objects)
            if why:
                self.unplaced.append(Unplaced(pack.tier, pack.pack_path, why))
                continue
            adopted.append(pack)
            for uid in held:
                waiting.pop(uid)
        self._counts.packs_adopted += len(adopted)
        return adopted

    def _waiting(
        self, lost_packs: set[Place], records: list[InstanceRecord]
    ) -> dict[str, InstanceRecord]:
        """Return what is not prepared (any more), by SOP Instance UID."""
        found = {one.sop_instance_uid: one for one in records}
        if self._reader is not None:
            tokens = {layout.token_of(path) for _, path in lost_packs}
            for rows in self._reader.instance_rows(self._uid).values():
                for row in rows:
                    if row["form"] == "" or row["pack_token"] in tokens:
                        found[row["sop_instance_uid"]] = _record(row)
        return found

    def _unfit(
        self,
        pack: PreparedSeries,
        held: set[str],
        waiting: dict[str, InstanceRecord],
        objects: StudyObjects,
    ) -> str:
        """Say why a pack is not adopted, '' where it is."""
        if not held <= waiting.keys():
            return "what it holds is prepared elsewhere, or not stored"
        made_s = objects.packs[pack.tier, pack.pack_path].modified_s
        for uid in held:
            record = waiting[uid]
            info = objects.instances.get((record.tier, record.path))
            if record.series_uid != pack.series_uid:
                return f"instance {uid} is of another series"
            if info is None or info.modified_s > made_s:
                # Its pixels may be those of another object under the same UID.
                return f"it is older than instance {uid}"
        return ""

    def _from_libraries(
        self, rows: dict[str, list[Row]], records: list[InstanceRecord], gone: dict[str, Row]
    ) -> list[InstanceRecord]:
        """Return what lies in libraries alone and the index does not know."""
        there = {row["sop_instance_uid"] for ours in rows.values() for row in ours}
        if self._libraries.found and self._reader is not None:
            for ours in self._reader.instance_rows(self._uid).values():
                there |= {row["sop_instance_uid"] for row in ours}
        there |= {one.sop_instance_uid for one in records}
        found = self._libraries.records(there - gone.keys())
        self._new_away = {one.sop_instance_uid for one in found}
        return found

    def _agree_libraries(self, sealed: list[ManifestRef], rows: dict[str, list[Row]]) -> None:
        told = self._libraries.agree(
            self._reader,
            self._writer,
            self._now,
            away=self._away.values(),
            new_away=self._new_away,
            sealed={ref.series_uid: rows[ref.path] for ref in sealed},
        )
        self._counts.containers_found += told.found
        self._counts.containers_lost += told.lost
        self._counts.instances_in_libraries_alone += told.away

    def _report_asides(self, objects: StudyObjects, known: Known) -> None:
        for (tier, path), info in objects.conflicts.items():
            if (tier, path) in known.asides or (tier, path) in known.doomed:
                continue
            self._counts.asides += 1
            if self._writer is not None:
                self._writer.aside(describe_aside(self._tiers[tier], info), self._now)


def _record(row: Row) -> InstanceRecord:
    return InstanceRecord(**{name: row[name] for name in InstanceRecord.__slots__})
