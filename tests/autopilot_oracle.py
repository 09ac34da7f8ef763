"""What must be true of a site after every step, found out independently of how raypacs does it.

The oracle keeps the data set of every instance that was acknowledged. It looks at the rows of the
index and at the bytes on the disks itself: with SQL, gzip, json and zipfile.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from collections import Counter
from typing import Any

from raypacs.index import holds
from raypacs.index.engine import Txn
from tests.autopilot_site import AutopilotSite

Place = tuple[str, str]
MAY_GO = "KEPT_OUT"
"""The source with archiving switched off."""
OURS = ("studies/", "conflicts/", "quarantine/", "attempts/")
_MARKERS = ("site/", "sites/", "epochs/", "intake/")


class Oracle:
    """Remembers what was acknowledged, and judges."""

    def __init__(self, site: AutopilotSite) -> None:
        self.site = site
        self.kept: dict[str, tuple[str, bytes]] = {}
        """By SOP Instance UID: study and data set of what was acknowledged."""
        self.excused: set[str] = set()
        """Instances of which the test itself destroyed all that there was."""
        self.going: set[str] = set()
        """Studies that somebody has just ordered to be deleted."""
        self.offline: dict[str, float] = {}
        self.origins: dict[str, set[str]] = {}
        """Who sent instances of each study that there is."""
        self._manifests: dict[Place, list[dict[str, Any]]] = {}
        self._ever: dict[Place, list[dict[str, Any]]] = {}
        self._audited = 0
        for name, disk in site.disks.items():
            disk.deleted = lambda path, name=name: self.bytes_went(name, path)
        self._look()

    # What happened

    def remembered(self) -> dict[str, Any]:
        """Return what another oracle of a copy of the site must know."""
        return {
            "kept": dict(self.kept),
            "origins": {uid: set(names) for uid, names in self.origins.items()},
            "offline": dict(self.offline),
            "_audited": self._audited,
        }

    def acknowledged(self, study: str, sop: str, dataset: bytes, source: str) -> None:
        """Note that a sender was told that an instance is stored."""
        self.kept.setdefault(sop, (study, dataset))
        self.origins.setdefault(study, set()).add(source)

    def study_deleted(self, study: str, still: set[str]) -> None:
        """Note that somebody had a study deleted; ``still`` are instances that come after that."""
        self.going.discard(study)
        if not still:
            self.origins.pop(study, None)
        self.kept = {
            sop: told for sop, told in self.kept.items() if told[0] != study or sop in still
        }

    def harmed(self, tier: str, path: str) -> None:
        """Note that the test itself harmed an object."""
        self._manifests.pop((tier, path), None)
        self._look()
        name = path.rpartition("/")[2]
        for sop, (study, dataset) in self.kept.items():
            if name.startswith(f"{sop}.") and not self.copies_of(sop, study, dataset)[0]:
                self.excused.add(sop)

    def bytes_went(self, tier: str, path: str) -> None:
        """See that an object that raypacs itself deletes is none that is needed."""
        if not path.startswith(OURS):
            return
        self._look()
        self.forgotten()
        name = path.rpartition("/")[2]
        for sop, (study, dataset) in self.kept.items():
            ours = name.startswith(f"{sop}.") or (
                path.startswith(f"studies/{study}/") and not name.endswith(".dcm")
            )
            if ours and sop not in self.excused:
                self._see(sop, study, dataset, f"{path} was deleted from {tier}")

    # What must hold

    def check(self) -> None:
        """Judge the site as it is now."""
        self._look()
        for study in [uid for uid in self.going if uid not in self.studies]:
            # Whether its deletion was cut off before or after it counted.
            self.study_deleted(study, self.site.unregistered())
        self.going.clear()
        self.forgotten()
        self.ledger()
        for sop, (study, dataset) in self.kept.items():
            self._see(sop, study, dataset, "")
        self.evictions()
        self.intents()
        self.copies()

    def _look(self) -> None:
        rows = self.site.rows
        self.studies = {row["study_uid"]: row for row in rows("SELECT * FROM studies")}
        self.instances = {row["sop_instance_uid"]: dict(row) for row in rows(_INSTANCES)}
        self.sealed: dict[str, list[Place]] = {}
        self.gone: set[Place] = set()
        for row in rows("SELECT * FROM series WHERE manifest_path <> ''"):
            place = (row["manifest_tier"], row["manifest_path"])
            self.sealed.setdefault(row["study_uid"], []).append(place)
            if row["gone_path"] == row["manifest_path"]:
                self.gone.add(place)
        self.containers = rows("SELECT * FROM containers")
        self.copied = rows("SELECT * FROM copies")
        self.pending = rows("SELECT * FROM delete_intents")

    def _manifest(self, place: Place) -> list[dict[str, Any]]:
        """Return the rows of a manifest; [] where it cannot be read."""
        disk = self.site.disks[place[0]]
        found = disk.objects.get(place[1])
        if found is None or place[1] in disk.harmed:
            return []
        if place not in self._manifests:
            lines = gzip.decompress(found[0]).splitlines()
            columns = json.loads(lines[0])["columns"]
            told = [dict(zip(columns, json.loads(line), strict=True)) for line in lines[1:-1]]
            self._manifests[place] = self._ever[place] = told
        return self._manifests[place]

    def ledger(self) -> None:
        """The ledger equals a recount of the rows (1)."""
        used = {row["tier"]: row["used_bytes"] for row in self.site.rows("SELECT * FROM ledger")}
        writer = self.site.master._writer
        found = writer.recount(self.site.now)
        assert {name: size for name, size in used.items() if size} == found, (used, found)

    def copies_of(self, sop: str, study: str, dataset: bytes) -> tuple[list[Place], list[Place]]:
        """Return where an instance is whole, and where the index believes it is but it is not."""
        good: list[Place] = []
        latent: list[Place] = []
        series = sop.rpartition(".")[0]
        row = self.instances.get(sop)
        places = [(row["tier"], row["path"])] if row is not None and row["tier"] else []
        for manifest in self.sealed.get(study, ()):
            told = self._manifest(manifest)
            if not told and f"/{series}/" in manifest[1]:
                latent.append(manifest)
            places += [
                (one["tier"], one["path"])
                for one in told
                if one["sop_instance_uid"] == sop and manifest not in self.gone
            ]
        for tier, path in places:
            found = self.site.disks[tier].objects.get(path)
            whole = found is not None and found[0].endswith(dataset)
            (good if whole else latent).append((tier, path))
        for one in self.containers:
            if (one["study_uid"], one["series_uid"]) == (study, series) and not one["damaged"]:
                place = (one["tier"], one["path"])
                held = self._in_container(place, sop, dataset)
                if held is not None:
                    (good if held else latent).append(place)
        return good, latent

    def _in_container(self, place: Place, sop: str, dataset: bytes) -> bool | None:
        """Whether a container holds an instance whole; None: it never did."""
        disk = self.site.disks[place[0]]
        found = disk.objects.get(place[1])
        if found is None or place[1] in disk.harmed:
            return False
        with zipfile.ZipFile(io.BytesIO(found[0])) as container:
            ours = [name for name in container.namelist() if sop in _stem(name)]
            for name in ours:
                return container.read(name).endswith(dataset)
        return None

    def _see(self, sop: str, study: str, dataset: bytes, why: str) -> None:
        """See that an instance is somewhere (2). What the test itself destroyed is excused."""
        good, latent = self.copies_of(sop, study, dataset)
        if good:
            self.excused.discard(sop)
        elif latent:
            self.excused.add(sop)
        elif sop not in self.excused:
            if sop in self.site.unregistered() or self._marked(sop, study, dataset):
                return  # durable, and on its way into the index
            if why:
                why = f" ({why})"
            raise AssertionError(f"instance {sop} is lost{why}: {self.story(study)}")

    def _marked(self, sop: str, study: str, dataset: bytes) -> bool:
        """Whether an instance lies whole where a marker tells recovery to look for it."""
        return any(
            name.rpartition("/")[2].startswith(f"{sop}.") and data.endswith(dataset)
            for disk in self.site.disks.values()
            if any(
                path.startswith("intake/") and path.endswith(f".{study}") for path in disk.objects
            )
            for name, (data, _) in disk.objects.items()
        )

    def forgotten(self) -> None:
        """Nothing unarchived leaves but what its only source says may (4)."""
        for row in self.site.rows("SELECT * FROM audit WHERE audit_id > ?", self._audited):
            self._audited = row["audit_id"]
            uid = row["study_uid"]
            by_rule = row["event"] == "deleted" and json.loads(row["detail"]).get("rule")
            if row["event"] == "evicted without archive":
                assert self.origins.get(uid, set()) <= {MAY_GO}, (self.origins, self.story(uid))
            if by_rule or row["event"] == "evicted without archive":
                self.study_deleted(uid, self.site.unregistered())

    def evictions(self) -> None:
        """What left the caches is proven to be in a library, or need not be (3, 4)."""
        for uid, study in self.studies.items():
            before, now_s = self.offline.get(uid, 0.0), study["offline_s"]
            self.offline[uid] = now_s
            if not now_s or before == now_s:
                continue
            proven = [
                row
                for row in self.copied
                if row["study_uid"] == uid
                and row["archive_proven"]
                and row["generation"] == study["generation"]
                and row["tier"].startswith("lib")
            ]
            assert proven, f"{uid} was evicted unproven: {self.story(uid)}"
            for row in proven:
                there = [one for one in self.containers if _same(one, row)]
                assert there, f"{uid} is proven on {row['tier']} and not there: {self.story(uid)}"

    def intents(self) -> None:
        """No intent names what is in force (7), none relies on what is purged (5)."""
        paths = {(row["tier"], row["path"]) for row in self.instances.values() if row["tier"]}
        paths |= {place for places in self.sealed.values() for place in places}
        paths |= {(row["tier"], row["path"]) for row in self.containers}
        rows = self.site.rows
        for row in rows("SELECT tier, pack_path, header_path FROM packs"):
            paths |= {(row[0], row[1]), (row[0], row[2])}
        paths |= {(row[0], row[1]) for row in rows("SELECT tier, path FROM asides")}
        doomed = {(row["tier"], row["path"]) for row in self.pending if row["what"] == ""}
        assert not paths & doomed, (paths & doomed, self.story(""))
        for row in self.pending:
            uid = row["study_uid"]
            if row["what"] == "listed":
                # What another manifest, or a row, has in force by now is left out when bytes go.
                place = (row["list_tier"], row["path"])
                if place in self.sealed.get(uid, ()):
                    assert place in self.gone, (dict(row), self.story(uid))
            if row["relies_on"] and not row["begun_s"]:
                there = [
                    one
                    for one in self.containers
                    if (one["study_uid"], one["tier"]) == (uid, row["relies_on"])
                ]
                assert there, (dict(row), self.story(uid))

    def copies(self) -> None:
        """Copies, their holds and their sums are what the rows of objects say (8)."""
        counted: Counter[tuple[str, str]] = Counter()
        for row in self.instances.values():
            if row["tier"]:
                counted[row["study_uid"], row["tier"]] += row["size_bytes"]
        for row in self.site.rows("SELECT * FROM packs"):
            size = row["pack_bytes"] + row["header_bytes"]
            counted[row["study_uid"], row["tier"]] += size
        known = set(self.instances)
        unread = set()
        for uid, manifests in self.sealed.items():
            for place in manifests:
                told = self._manifest(place)
                if not told:
                    unread.add(uid)
                for one in told:
                    assert one["sop_instance_uid"] not in known, (one, self.story(uid))
                    if place not in self.gone:
                        counted[uid, one["tier"]] += one["size_bytes"]
        held = {
            (row["study_uid"], row["tier"]): row["size_bytes"]
            for row in self.copied
            if row["size_bytes"]
            and not row["tier"].startswith("lib")
            and row["study_uid"] not in unread
        }
        counted = Counter({key: n for key, n in counted.items() if n and key[0] not in unread})
        assert held == dict(counted), (held, dict(counted), self.story(""))
        sums: Counter[tuple[str, str, str]] = Counter()
        for row in self.copied:
            sums[row["tier"], row["hold"], "copies"] += 1
            sums[row["tier"], row["hold"], "size_bytes"] += row["size_bytes"]
        told_sums = Counter(
            {
                (row["tier"], row["hold"], name): row[name]
                for row in self.site.rows("SELECT * FROM copy_totals")
                for name in ("copies", "size_bytes")
            }
        )
        assert +sums == +told_sums, (sums, told_sums)
        self._holds()

    def _holds(self) -> None:
        """Nothing would be held otherwise than it is written; pins that just ran out apart."""
        now = self.site.now
        ended = {uid for uid, row in self.studies.items() if 0 < row["pinned_until_s"] <= now}
        uids = set(self.studies) - ended
        before = {(row["study_uid"], row["tier"]): row["hold"] for row in self.copied}
        with self.site.master._engine.connect() as conn:
            changed = holds.refresh(Txn(conn, self.site.master.epoch, now), uids)
            conn.rollback()
        assert not changed, (changed, before, self.story(""))

    # At the end

    def _beside(self, place: tuple[str, str]) -> set[tuple[str, str]]:
        """Return the objects of the series that a manifest is of."""
        assert place[1] in self.site.disks[place[0]].harmed, (place, self.story(""))
        folder = place[1].rpartition("/")[0] + "/"
        return {
            (name, path)
            for name, disk in self.site.disks.items()
            for path in disk.objects
            if path.startswith(folder)
        }

    def settled(self) -> None:
        """Nothing is pending, and no tier has an object that the index does not know (6)."""
        self._look()
        known = {(row["tier"], row["path"]) for row in self.instances.values() if row["tier"]}
        for places in self.sealed.values():
            known |= set(places)
            for place in places:
                if place not in self.gone:
                    told = self._manifest(place) or self._ever.get(place)
                    known |= {(one["tier"], one["path"]) for one in told or []}
                    if told is None:  # harmed in the step that wrote it: nobody saw what it lists
                        known |= self._beside(place)
        known |= {(row["tier"], row["path"]) for row in self.containers}
        for row in self.site.rows("SELECT tier, pack_path, header_path FROM packs"):
            known |= {(row[0], row[1]), (row[0], row[2])}
        known |= {(row[0], row[1]) for row in self.site.rows("SELECT tier, path FROM asides")}
        there = {
            (name, path)
            for name, disk in self.site.disks.items()
            for path in disk.objects
            if path.startswith(OURS) and not path.startswith("quarantine/")
        }
        # What only a manifest listed that the test harmed stays for an operator.
        unread = [
            row
            for row in self.pending
            if row["what"] and not self._manifest((row["list_tier"], row["path"]))
        ]
        for row in unread:
            place = (row["list_tier"], row["path"])
            assert place[1] in self.site.disks[place[0]].harmed, (dict(row), self.story(""))
            known |= {(one["tier"], one["path"]) for one in self._ever.get(place, [])}
        for uid, places in self.sealed.items():
            if all(self._manifest(place) for place in places):
                continue
            # It cannot be opened: what came since waits under a marker until somebody mends it.
            marked = f".{uid}"
            for name, disk in self.site.disks.items():
                if any(p.startswith("intake/") and p.endswith(marked) for p in disk.objects):
                    known |= {(name, p) for p in disk.objects if p.startswith(f"studies/{uid}/")}
        orphans = there - known
        assert not orphans, (orphans, self.story(""))
        missing = {
            (tier, path)
            for tier, path in known - there
            if path not in self.site.disks[tier].objects
            and path not in self.site.disks[tier].harmed
        }
        assert not missing, (missing, self.story(""))
        pending = [dict(row) for row in self.pending if row not in unread]
        held = {(row["list_tier"], row["path"]) for row in unread}
        pending = [row for row in pending if (row["tier"], row["path"]) not in held]
        assert not pending, (pending, self.story(""))

    def story(self, study: str) -> str:
        """What the index says of a study, for whoever must find out why."""
        rows = self.site.rows
        lines = [
            f"{row['at_s'] - 1_700_000_000:9.1f} {row['event']} {row['study_uid']} {row['detail']}"
            for row in rows("SELECT * FROM audit ORDER BY audit_id")
            if study in ("", row["study_uid"])
        ][-60:]
        for table in ("copies", "containers", "series", "delete_intents", "work_items"):
            lines += [
                f"{table}: { {key: it for key, it in dict(row).items() if key not in _QUIET} }"
                for row in rows(f"SELECT * FROM {table}")
                if study in ("", row["study_uid"])
            ]
        return "\n" + "\n".join(lines)


_INSTANCES = "SELECT sop_instance_uid, study_uid, tier, path, size_bytes, sha256 FROM instances"
_QUIET = {"attributes", "payload", "facet_id", "patient_id", "note", "created_s"}


def _same(container: Any, copy: Any) -> bool:
    return bool(
        (container["study_uid"], container["tier"]) == (copy["study_uid"], copy["tier"])
        and not container["damaged"]
    )


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".dcm")


def sha256(data: bytes) -> str:
    """The checksum as the index keeps it."""
    return hashlib.sha256(data).hexdigest()
