"""A site in one process: real tiers, a real index, a real master, intake and PREPARE; no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from raypacs import edges
from raypacs.config import Bootstrap, Settings, TierSettings, default_tiers
from raypacs.index.sealed_reader import SealedReader
from raypacs.master import Master
from raypacs.records import Lease, Outcome, Poll, WorkResult
from raypacs.storage.intake import Intake
from raypacs.storage.late import LateTiers
from raypacs.storage.tier import Tier, open_tier
from raypacs.web.server import HttpSpec, serve_http
from raypacs.work.prepare import (
    abandon,
    make_context,
    plan_chunks,
    prepare_chunk,
    publish_series,
)
from tests.factories import node_info

T = 1_700_000_000.0


class RealSite:
    """The site; its time stands still until told (seconds since the epoch)."""

    def __init__(
        self, folder: Path, url: str, tiers: tuple[TierSettings, ...] | None = None
    ) -> None:
        self.folder = folder
        self.url = url
        self.now = T
        self.settings = Settings(tiers=tiers or default_tiers(folder), register_interval_s=0.02)
        self.master = self.start()
        self.master.apply_settings(self.settings, "test")
        self.reader: SealedReader = edges.open_reader(url, LateTiers(self.settings.tiers))
        self.bootstrap = Bootstrap(data_dir=folder, node_name="n1", index_url=url)
        self.intake: Intake = edges.make_intake(
            self.bootstrap,
            self.settings,
            "b",
            self.reader,
            self.call,
            LateTiers(self.settings.tiers),
        )

    def start(self) -> Master:
        """Start another master, which takes over."""
        return Master(self.url, self.folder, clock=lambda: self.now, chance=lambda: 1.0)

    def call(self, event: str, *args: Any, **named: Any) -> Any:
        """Raise an event, as an edge does."""
        return getattr(self.master, event)(*args, **named)

    def tier(self, name: str) -> Tier:
        """Open a tier."""
        return open_tier(next(tier for tier in self.settings.tiers if tier.name == name))

    def objects(self) -> dict[tuple[str, str], int]:
        """Return (tier, path) to size of every object of a study or kept aside."""
        return {
            (settings.name, info.path): info.size_bytes
            for settings in self.settings.tiers
            for info in open_tier(settings).walk()
            if info.path.startswith(("studies/", "conflicts/", "quarantine/"))
        }

    def store(self, *files: bytes) -> list[Outcome]:
        """Receive files; return what became of each once they are registered."""
        answers = [self.intake.store_part10(data, source="TEST").outcome for data in files]
        assert self.intake.flush(10)
        return answers

    def lease(self) -> list[Lease]:
        """Take all the work there is."""
        self.master.node_seen(node_info())
        asked = Poll(node="n1", boot="b1", kinds=("PREPARE",), running=(), free=100)
        return list(self.master.poll(asked).leases)

    def prepare(self) -> None:
        """Prepare everything that waits for it."""
        self.now += 600  # every study is quiet
        self.master.tick()
        for lease in self.lease():
            self.master.report(lease, self.work(lease))

    def work(self, lease: Lease) -> WorkResult:
        """Do what a dispatcher does for a PREPARE."""
        context = make_context(self.settings, lease)
        by_series: dict[str, list[Any]] = {}
        for stored in self.reader.unprepared(lease.study_uid):
            by_series.setdefault(stored.record.series_uid, []).append(stored)
        packs = []
        for stored in by_series.values():
            chunks = plan_chunks(stored, self.settings.chunk_bytes)
            packs.append(
                publish_series([prepare_chunk(chunk, context) for chunk in chunks], context)
            )
        abandon(context)
        return WorkResult(packs=tuple(packs))

    def seal(self) -> None:
        """Let time go by until everything that can be sealed is."""
        self.now += self.settings.seal_after_s + 1
        for _ in range(20):
            self.master.tick()
            self.now += 1.1

    def balanced(self) -> bool:
        """Whether the ledger equals the recount of the index."""
        used = {name: row.used_bytes for name, row in self.reader.ledger().items()}
        found = self.master._writer.recount(self.now)
        return {name: size for name, size in used.items() if size} == found

    @contextmanager
    def served(self) -> Iterator[httpx.Client]:
        """Serve DICOMweb and REST; yields a client."""

        def call(event: str, *args: Any, timeout_s: float = 0.0, **named: Any) -> Any:
            return self.call(event, *args, **named)

        edge = SimpleNamespace(
            reader=self.reader,
            call=self.call,
            tiers=LateTiers(self.settings.tiers),
            intake=self.intake,
            hint=self.master.hint,
            link=SimpleNamespace(cast=lambda *_: None, call=call),
            spec=edges.EdgeSpec("gateway", 0, "b", self.bootstrap, self.settings, 0),
        )
        server = serve_http(HttpSpec(host="127.0.0.1", port=0), edges.services(edge))
        try:
            url = f"http://127.0.0.1:{server.port}"
            with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
                yield client
        finally:
            server.shutdown()

    def close(self) -> None:
        """Stop everything."""
        self.intake.close()
        self.reader.close()
        self.master.close()
