"""An index with nodes and a work queue, for the queue's contract tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings, TierSettings
from raypacs.index.engine import open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.queue import Wish
from raypacs.index.reader import IndexReader
from raypacs.index.schema import item_counts, nodes, work_items
from raypacs.index.writer import IndexWriter
from raypacs.policy.queue import Priority
from raypacs.records import Assignment, Lease, NodeInfo, Poll, WorkResult
from tests.factories import instance_record, node_info, prepared_series

T = 1_700_000_000.0
GB = 1_000_000_000
TIERS = (
    TierSettings(name="image1", role="image", url="memory://image1"),
    TierSettings(name="web1", role="web", url="memory://web1"),
)


@dataclass
class Queue:
    """Both sides of an index, with what tests of the queue do again and again."""

    engine: sa.Engine
    writer: IndexWriter
    reader: IndexReader

    def node(self, name: str, now: float = T, **changes: Any) -> NodeInfo:
        """A node joins; it reaches both tiers, if ``changes`` do not say otherwise."""
        seen = replace(node_info(name), **{"tiers": ("image1", "web1"), **changes})
        self.writer.node_seen(seen, now)
        return seen

    def set_node(self, name: str, **columns: Any) -> None:
        """Write columns of a node's row."""
        with self.engine.begin() as conn:
            conn.execute(sa.update(nodes).where(nodes.c.name == name).values(**columns))

    def study(self, uid: str, now: float = T, *, count: int = 1, source: str = "CT1") -> None:
        """A study arrives; nothing is made of it yet."""
        attributes = {"PatientID": f"P{uid}", "PatientName": "Doe^Jane", "StudyDate": "20240131"}
        records = [
            instance_record(study=uid, source=source, attributes=attributes, size_bytes=1000)
            for _ in range(count)
        ]
        self.writer.register(records, now)

    def quiet(self, uid: str, now: float = T) -> int:
        """A study arrives and is complete: its PREPARE item waits, and nothing else is due."""
        self.study(uid, now)
        self.writer.hint_complete([uid], now)
        self.writer.enqueue_due(now)
        return int(self.reader.queue({"study_uid": uid})[0]["item_id"])

    def item(self, uid: str, kind: str = "PREPARE", now: float = T, **wish: Any) -> int:
        """An item waits for a study, which arrives first if it is new."""
        if not self.reader.instances(uid):
            self.study(uid, now)
        priority = Priority[wish.pop("priority", "medium").upper()]
        return self.writer.enqueue_item(kind, uid, Wish(priority=priority, **wish), now)

    def poll(
        self,
        node: str = "n1",
        free: int = 1,
        now: float = T,
        running: tuple[Lease, ...] = (),
        kinds: tuple[str, ...] = ("PREPARE", "VERIFY", "ARCHIVE"),
    ) -> Assignment:
        """Ask as a dispatcher does."""
        held = tuple((lease.item_id, lease.token) for lease in running)
        return self.writer.poll(Poll(node, "b1", kinds, held, free), now).assignment

    def taken(self, node: str = "n1", now: float = T, **options: Any) -> Lease:
        """Return the one lease that a node gets."""
        (lease,) = self.poll(node, now=now, **options).leases
        return lease

    def prepared(self, lease: Lease) -> WorkResult:
        """Return what a worker would report for everything unprepared."""
        by_series: dict[str, list[Any]] = {}
        for one in self.reader.unprepared(lease.study_uid):
            by_series.setdefault(one.record.series_uid, []).append(one)
        return WorkResult(tuple(prepared_series(one, lease) for one in by_series.values()))

    def row(self, item_id: int) -> dict[str, Any]:
        """Return an item as it is in the index."""
        with self.engine.connect() as conn:
            query = sa.select(work_items).where(work_items.c.item_id == item_id)
            return dict(conn.execute(query).mappings().one())

    def counts_are_right(self) -> bool:
        """Whether the counted items equal a recount."""
        with self.engine.connect() as conn:
            counted = {
                (row.kind, row.state): row[2] for row in conn.execute(sa.select(item_counts))
            }
            rows = conn.execute(sa.select(work_items.c.kind, work_items.c.state))
            recount = Counter((row.kind, row.state) for row in rows)
        return {key: items for key, items in counted.items() if items} == dict(recount)


@contextmanager
def queue_at(url: str) -> Iterator[Queue]:
    """Open a migrated, empty index as a queue with two tiers."""
    engine = open_engine(url)
    writer = IndexWriter.claim_epoch(engine, [], T, chance=lambda: 1.0)
    writer.apply_settings(Settings(tiers=TIERS), "test", T)
    writer.tiers_seen([TierSeen("image1", 10 * GB, True), TierSeen("web1", GB, True)], T)
    reader = IndexReader(url)
    try:
        yield Queue(engine, writer, reader)
    finally:
        reader.close()
        engine.dispose()
