"""A real master with an injected clock, and the dispatchers that poll it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raypacs import __version__
from raypacs.master import Master
from raypacs.records import Assignment, Lease, Poll, WorkResult
from tests.factories import instance_record, node_info

T = 1_700_000_000.0
KINDS = ("PREPARE", "VERIFY")


class MasterQueue:
    """A master on SQLite, its clock, its nodes and studies."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self.now = T
        self.folder = folder
        self.url = url or f"sqlite:///{folder / 'index.sqlite'}"
        self.master = self.start()

    def start(self) -> Master:
        """Another master takes over."""
        return Master(self.url, self.folder, clock=lambda: self.now, chance=lambda: 1.0)

    def node(self, name: str, boot: str = "b1", **changes: Any) -> None:
        """A node's heartbeat."""
        info = replace(node_info(name, boot=boot), version=__version__, kinds=KINDS)
        self.master.node_seen(replace(info, **changes))

    def study(self, uid: str) -> None:
        """A study arrives and is given up, so that nothing is due for it."""
        self.master.register([instance_record(study=uid, size_bytes=1000)])
        self.master.hint([uid])
        self.master.tick()
        self.master.cancel_items_matching({"study_uid": uid})

    def verify(self, uid: str, **wish: Any) -> int:
        """Ask for VERIFY of a new study."""
        if not self.master._reader.instances(uid):
            self.study(uid)
        return self.master.enqueue_item("VERIFY", uid, **wish)

    def poll(
        self, name: str, running: Sequence[Lease] = (), *, boot: str = "b1", free: int = 5
    ) -> Assignment:
        """A dispatcher's poll."""
        held = tuple((lease.item_id, lease.token) for lease in running)
        return self.master.poll(Poll(name, boot, KINDS, held, free))

    def taken(self, name: str, **options: Any) -> Lease:
        """Return the one lease that a node gets."""
        (lease,) = self.poll(name, **options).leases
        return lease

    def taken_when_due(self, name: str) -> Lease:
        """Return what a node gets once something comes due."""
        while not (leases := self.poll(name).leases):
            self.passes(1, name)
        return leases[0]

    def fails(self, lease: Lease) -> None:
        """Its attempt fails for good."""
        self.master.report(lease, WorkResult(error="no pixels", retryable=False))

    def passes(self, seconds: int, *names: str) -> None:
        """Time passes; these nodes send heartbeats."""
        for _ in range(seconds):
            self.now += 1
            for name in names:
                self.node(name)
            self.master.tick()

    def item(self, item_id: int) -> dict[str, Any]:
        """Return a row of the task list."""
        return self.master._reader.task(item_id)

    def kind(self, name: str = "VERIFY") -> dict[str, Any]:
        """Return how a kind of work stands."""
        found: dict[str, Any] = self.master._reader.queue_state(self.now)["kinds"][name]
        return found
