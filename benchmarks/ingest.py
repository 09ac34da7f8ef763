"""How fast a node stores what modalities send, beside Orthanc; both durable.

The node's own listener processes (as many as it starts by default) with the real master and index
on SQLite, without Ray, which is not on the way of an object. Both store on the same file system.
An answer means: the file and its folder were flushed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

from benchmarks import orthanc, peers, senders
from benchmarks.figure import Figure, compare
from raypacs.cluster.processes import EdgePool, reserve_port
from raypacs.config import Bootstrap
from raypacs.edges import EdgeSpec
from raypacs.master import Master

NAME = "ingest"
DESCRIPTION = "C-STORE of 0.5 MB instances over 1 and 4 associations beside Orthanc, both durable"

COUNT = 500
MOST_LISTENERS = 4  # as raypacs.cluster.edge


def run(quick: bool, count: int | None) -> list[Figure]:
    """Send ``count`` instances (default 500; quick 100), five times (quick once), in turns."""
    count = count or (100 if quick else COUNT)
    times = 1 if quick else 5
    figures = []
    with orthanc.start_orthanc() as peer, listeners() as port:
        _send(port, 8, 1)  # both are warm before anything counts
        _send(peer.dicom_port, 8, 1)
        for associations in (1, 4):
            ours, theirs = [], []
            for _ in range(times):
                ours.append(_send(port, count, associations))
                theirs.append(_send(peer.dicom_port, count, associations))
            for unit, of in (("instances/s", lambda s: s.per_s), ("ms p99", _p99_ms)):
                rate = unit == "instances/s"
                figures.append(
                    compare(
                        f"ingest {associations} association{'s' * (associations > 1)}",
                        unit,
                        [of(one) for one in ours],
                        beside=peer.label,
                        beside_runs=[of(one) for one in theirs],
                        at_least=1.0 if rate and associations == 4 else None,
                        less_is_better=not rate,
                    )
                )
    return figures


def _p99_ms(sending: senders.Sending) -> float:
    return sending.p99_s * 1000


def _send(port: int, count: int, associations: int) -> senders.Sending:
    # A run number of its own: nobody may have these instances already.
    run_number = str(int.from_bytes(secrets.token_bytes(6)) + 1)
    return senders.send(port, run=run_number, count=count, associations=associations)


@contextlib.contextmanager
def listeners() -> Iterator[int]:
    """Run a node's listener processes over a master in this process; yield their port."""
    with peers.scratch("ingest-") as folder:
        bootstrap = Bootstrap(data_dir=folder, dicom_port=0, node_name="bench")
        master = Master(bootstrap.database_url, folder)
        settings = master.settings()[1]
        holder, port = reserve_port(bootstrap.host, 0)
        handlers = {
            name: getattr(master, name)
            for name in ("register", "aside", "grant", "hint", "release_grants", "touched")
        }
        pool = EdgePool(
            lambda number, boot: EdgeSpec("listener", number, boot, bootstrap, settings, port),
            min(os.cpu_count() or 1, MOST_LISTENERS),
            handlers,
            boot_prefix="bench-listener",
            lost=lambda boot: None,
        )
        try:
            pool.wait_ready()
            yield port
        finally:
            pool.stop()
            holder.close()
            master.close()
