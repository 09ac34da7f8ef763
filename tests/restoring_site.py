"""A site in one process with libraries: studies are archived, leave the caches, and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np

from raypacs import edges
from raypacs.config import TierSettings
from raypacs.records import ContainerRef, WorkResult
from raypacs.storage.late import LateTiers
from raypacs.web.server import HttpSpec, serve_http
from raypacs.work.archive import ArchiveRun
from raypacs.work.kinds import RUNS
from raypacs.work.run import Libraries, Site
from tests.factories import node_info
from tests.inline_tasks import InlineTasks
from tests.moving_site import MovingSite, tier
from tests.web_world import image_file

STUDY = "1.2.3"
ALL_RUNS = {**RUNS, "ARCHIVE": ArchiveRun}


def tiers_of(folder: Path, **image: Any) -> tuple[TierSettings, ...]:
    """Two image tiers, one web tier, two libraries."""
    return (
        tier(folder, "image1", **image),
        tier(folder, "image2", order=2),
        tier(folder, "web1", "web"),
        tier(folder, "lib1", "library"),
        tier(folder, "lib2", "library", order=2),
    )


def files(study: str = STUDY, *, series: int = 2, count: int = 3, **named: Any) -> list[bytes]:
    """Small grey images of several series."""
    return [
        image_file(
            np.arange(64, dtype=np.uint16).reshape(8, 8) + number,
            number,
            study=study,
            series=f"{study}.{one}",
            bits_stored=12,
            **named,
        )
        for one in range(1, series + 1)
        for number in range(1, count + 1)
    ]


class RestoringSite(MovingSite):
    """A :class:`MovingSite` with libraries."""

    def ports(self) -> Site:
        """What a run may ask."""
        ports = super().ports()
        assert ports.moves is not None
        room = {name: row.available_bytes for name, row in self.reader.ledger().items()}
        return replace(
            ports,
            settings=self.reader.settings()[1],
            available_bytes=lambda: room,
            site_id=lambda: self.reader.site().site_id,
            moves=replace(ports.moves, places=self.reader.places),
            libraries=Libraries(
                seal=self.master.seal_now,
                may_go_on=lambda lease: True,
                archived=lambda lease, told: None,
                running=lambda kind: 1,
            ),
        )

    def seen(self) -> None:
        """Let the node be seen, which does every kind of work."""
        names = tuple(one.name for one in self.settings.tiers)
        self.master.node_seen(replace(node_info(), tiers=names, kinds=tuple(ALL_RUNS)))

    def work_off(
        self,
        kind: str = "RESTORE",
        *,
        tasks: InlineTasks | None = None,
        before_report: Callable[[], object] = lambda: None,
    ) -> list[WorkResult]:
        """Do all the work of a kind that there is, and report it."""
        results = []
        for lease in self.leases(kind):
            run = ALL_RUNS[kind](lease, self.ports())
            result = run.run(tasks or InlineTasks())
            before_report()
            self.master.report(lease, result)
            run.clean_up(reported=True)
            results.append(result)
        return results

    def quiet(self, *, prepared: bool) -> None:
        """Let everything become quiet; it is prepared, or left as it is."""
        if prepared:
            self.prepare()
            return
        self.now += 600
        self.master.tick()
        self.master.cancel_items_matching({"kind": "PREPARE"})

    def archive(self, *studies: str) -> list[WorkResult]:
        """Archive studies into every library."""
        self.seen()
        for uid in studies or (STUDY,):
            self.master.enqueue_item("ARCHIVE", uid)
        return self.work_off("ARCHIVE")

    def evict(self, *studies: str, gone: bool = True) -> None:
        """Let studies leave the image tiers; ``gone``: their bytes, too."""
        for uid in studies or (STUDY,):
            self.master.evict_study(uid, "test")
        if gone:
            self.let_go()
            self.let_go()

    def away(self, *studies: str, prepared: bool = False, **named: Any) -> None:
        """Receive, archive and evict studies."""
        for uid in studies or (STUDY,):
            self.store(*files(uid, **named))
        self.quiet(prepared=prepared)
        for result in self.archive(*studies):
            assert not result.error, result
        self.evict(*studies)

    def restore(self, *studies: str, **order: Any) -> list[WorkResult]:
        """Order restores and do them."""
        for uid in studies or (STUDY,):
            self.master.order_restore(uid, **order)
        return self.work_off("RESTORE")

    def received(self, study: str = STUDY) -> dict[str, tuple[str, bytes]]:
        """Return tier and bytes of every instance as received, read from where it should lie."""
        return {
            one.record.sop_instance_uid: (
                one.record.tier,
                self.tier(one.record.tier).read(one.record.path),
            )
            for one in self.reader.instances(study)
        }

    def items(self, kind: str = "RESTORE", study: str = "") -> list[dict[str, Any]]:
        """Return the work items of a kind."""
        return [
            one
            for one in self.reader.tasks({"kind": kind}, limit=100, offset=0, before_id=0)["items"]
            if study in ("", one["study_uid"])
        ]

    @contextmanager
    def working(self, tasks: Callable[[], InlineTasks] = InlineTasks) -> Iterator[list[Any]]:
        """Do every RESTORE as soon as it is ordered, before the order is answered."""
        done: list[Any] = []
        order = self.master.order_restore

        def ordered(*args: Any, **named: Any) -> Any:
            told = order(*args, **named)
            done.extend(self.work_off("RESTORE", tasks=tasks()))
            return told

        self.master.order_restore = ordered  # type: ignore[method-assign]
        try:
            yield done
        finally:
            self.master.order_restore = order  # type: ignore[method-assign]

    @contextmanager
    def serving(self) -> Iterator[httpx.Client]:
        """Serve DICOMweb and REST; what is touched is told."""

        def call(event: str, *args: Any, timeout_s: float = 0.0, **named: Any) -> Any:
            return self.call(event, *args, **named)

        def cast(event: str, *args: Any) -> None:
            self.call(event, *args)

        edge = SimpleNamespace(
            reader=self.reader,
            call=call,
            tiers=LateTiers(self.settings.tiers),
            intake=self.intake,
            hint=self.master.hint,
            link=SimpleNamespace(cast=cast, call=call),
            spec=edges.EdgeSpec("gateway", 0, "b", self.bootstrap, self.settings, 0),
        )
        server = serve_http(HttpSpec(host="127.0.0.1", port=0), edges.services(edge))
        try:
            url = f"http://127.0.0.1:{server.port}"
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                yield client
        finally:
            server.shutdown()


def container_of(site: RestoringSite, library: str, series: str = f"{STUDY}.1") -> ContainerRef:
    """The container of a series in a library."""
    (found,) = [
        one
        for one in site.reader.containers(STUDY)
        if one.tier == library and one.series_uid == series
    ]
    return found


def damage(site: RestoringSite, ref: ContainerRef, at: int = 200) -> None:
    """Flip a byte of a container, behind everybody's back."""
    path = site.tier(ref.tier).local_path(ref.path)
    assert path is not None
    Path(path).chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
