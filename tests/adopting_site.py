"""A site in one process that adopts archives: what a dispatcher does for ADOPT and VERIFY."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypacs import edges
from raypacs.records import Lease, Poll, WorkResult
from raypacs.storage.late import LateTiers
from raypacs.work.adopt import AdoptRun
from raypacs.work.run import Archives, Site
from raypacs.work.verify import VerifyRun
from tests.factories import node_info
from tests.inline_tasks import InlineTasks, site
from tests.real_site import RealSite

RUNS = {"ADOPT": AdoptRun, "VERIFY": VerifyRun}


class AdoptingSite(RealSite):
    """A :class:`RealSite` and the runs of adopted archives."""

    def order(self, folder: Path, **options: Any) -> int:
        """Order an adoption; every process hears of the new tier. Returns the item's id."""
        told = self.master.order_adoption(folder.as_uri(), who="ann", **options)
        self.refresh()
        return int(told["item_id"])

    def refresh(self) -> None:
        """Start the edge anew, as it is on new settings."""
        self.settings = self.reader.settings()[1]
        self.intake.close()
        self.reader.close()
        self.reader = edges.open_reader(self.url, LateTiers(self.settings.tiers))
        self.intake = edges.make_intake(
            self.bootstrap,
            self.settings,
            "b",
            self.reader,
            self.call,
            LateTiers(self.settings.tiers),
        )

    def adopt(self, folder: Path, **options: Any) -> dict[str, Any]:
        """Adopt; return the progress that was told last, with the lines of the report."""
        item_id = self.order(folder, **options)
        self.run("ADOPT")
        return self.told(item_id)

    def told(self, item_id: int) -> dict[str, Any]:
        """Return the last progress of an item, its state, and the lines of its report."""
        item = self.reader.task(item_id)
        progress = dict(item["payload"]["progress"])
        report = progress.get("report") or {}
        lines = []
        if report.get("path"):
            data = gzip.decompress(self.tier(report["tier"]).read(report["path"]))
            lines = [json.loads(line) for line in data.splitlines()]
        return progress | {"state": item["state"], "error": item["error"], "lines": lines}

    def run(self, kind: str, tasks: InlineTasks | None = None) -> list[WorkResult]:
        """Do all the work of a kind that there is, and report it."""
        results = []
        for lease in self.leases(kind):
            run = RUNS[kind](lease, self.ports())
            result = run.run(tasks or InlineTasks())
            self.master.report(lease, result)
            run.clean_up(reported=True)
            results.append(result)
        return results

    def leases(self, *kinds: str) -> list[Lease]:
        """Take the work of some kinds."""
        names = tuple(tier.name for tier in self.settings.tiers)
        self.master.node_seen(replace(node_info(), tiers=names))
        asked = Poll(node="n1", boot="b1", kinds=kinds, running=(), free=100)
        return list(self.master.poll(asked).leases)

    def ports(self) -> Site:
        """What a run may ask."""
        reader, master = self.reader, self.master
        return replace(
            site(self.settings.tiers),
            instances=reader.instances,
            unprepared=reader.unprepared,
            packs=reader.packs,
            manifests=lambda uid: [(ref.tier, ref.path) for ref in reader.manifests(uid)],
            archives=Archives(
                places=reader.adopted_places,
                register=lambda records, prepare, deleted: master.register_adopted(
                    records, prepare=prepare, deleted=deleted
                ),
                served=lambda record: reader.served(record.study_uid, record.sop_instance_uid),
                checksums=master.checksums,
                moved=master.relocate_adopted,
                prepare=master.let_prepare,
                progress=master.item_progress,
            ),
        )


def print_of(folder: Path) -> dict[str, tuple[str, float]]:
    """Return the SHA-256 and the time of every file and folder below ``folder``."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime,
        )
        for path in sorted(folder.rglob("*"))
    }
