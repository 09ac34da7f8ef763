"""A site in one process whose studies move between tiers: what a dispatcher does for MIGRATE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypacs import edges
from raypacs.config import TierSettings
from raypacs.records import Lease, Poll, WorkResult
from raypacs.storage.late import LateTiers
from raypacs.work.kinds import RUNS
from raypacs.work.run import Moves, Relocation, Site
from tests.factories import node_info
from tests.inline_tasks import InlineTasks, site
from tests.real_site import RealSite


def tier(folder: Path, name: str, role: str = "image", **values: Any) -> TierSettings:
    """A tier in a folder of its own."""
    return TierSettings(name=name, role=role, url=(folder / name).as_uri(), **values)  # type: ignore[arg-type]


class MovingSite(RealSite):
    """A :class:`RealSite` with runs, whose settings may change while it is up."""

    def set(self, **values: Any) -> None:
        """Change settings, as `config apply` does; every process hears of it."""
        self.change(self.reader.settings()[1].model_copy(update=values))

    def set_tier(self, name: str, **values: Any) -> None:
        """Change a tier."""
        tiers = self.reader.settings()[1].tiers
        changed = [one.model_copy(update=values) if one.name == name else one for one in tiers]
        self.set(tiers=tuple(changed))

    def change(self, settings: Any) -> None:
        """Apply settings, and start the edge anew, as its supervisor does."""
        self.master.apply_settings(settings, "test")
        self.refresh()

    def refresh(self) -> None:
        """Start the edge anew, on the settings of the moment."""
        self.settings = self.reader.settings()[1]
        assert self.intake.close()
        self.master.release_grants("n1/b")
        self.reader.close()
        tiers = LateTiers(self.settings.tiers)
        self.reader = edges.open_reader(self.url, tiers)
        self.intake = edges.make_intake(
            self.bootstrap, self.settings, "b", self.reader, self.call, tiers
        )

    def leases(self, *kinds: str) -> list[Lease]:
        """Take the work of some kinds."""
        self.seen()
        asked = Poll(node="n1", boot="b1", kinds=kinds, running=(), free=100)
        return list(self.master.poll(asked).leases)

    def seen(self) -> None:
        """Let the node be seen, which reaches every tier and does every kind of work."""
        names = tuple(one.name for one in self.settings.tiers)
        self.master.node_seen(replace(node_info(), tiers=names, kinds=tuple(RUNS)))

    def work_off(
        self,
        kind: str = "MIGRATE",
        *,
        tasks: InlineTasks | None = None,
        before_report: Callable[[], object] = lambda: None,
    ) -> list[WorkResult]:
        """Do all the work of a kind that there is, and report it."""
        results = []
        for lease in self.leases(kind):
            run = RUNS[kind](lease, self.ports())
            result = run.run(tasks or InlineTasks())
            before_report()
            self.master.report(lease, result)
            run.clean_up(reported=True)
            results.append(result)
        return results

    def ports(self) -> Site:
        """What a run may ask."""
        reader, master = self.reader, self.master

        def study(uid: str) -> dict[str, Any] | None:
            return reader.study(uid) if reader.knows_study(uid) else None

        return replace(
            site(self.settings.tiers),
            instances=reader.instances,
            unprepared=reader.unprepared,
            packs=reader.packs,
            manifests=lambda uid: [(ref.tier, ref.path) for ref in reader.manifests(uid)],
            moves=Moves(
                containers=reader.containers,
                study=study,
                plan=master.plan_objects,
                reserve=master.reserve,
                progress=master.item_progress,
            ),
            relocation=Relocation(gone=reader.gone, move_asides=master.move_asides),
        )

    def let_go(self, seconds: float = 120.0) -> None:
        """Let grace periods pass: bytes of intents go."""
        self.now += seconds
        self.master.tick()
        self.now += 1
        self.master.tick()
