"""How fast an archive is adopted, beside programs that only read its headers.

The real run and task code on as many processes as there are cores, and the real registration by a
master on SQLite at the same time. Beside it, in turns, on the same files with as many processes:
pydicom reading headers, which describes nothing and keeps nothing; and the least there could be, an
open, one read and a close a file. All from the page cache: this measures work, not a disk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import InvalidDicomError

from benchmarks import peers
from benchmarks.figure import Figure, compare
from raypacs import __version__, edges
from raypacs.config import Bootstrap
from raypacs.master import Master
from raypacs.records import NodeInfo, Poll
from raypacs.storage.late import LateTiers
from raypacs.synthetic import generate_ct_series
from raypacs.work.adopt import AdoptRun
from raypacs.work.run import Archives, Site

NAME = "adopt"
DESCRIPTION = "instances adopted per second beside plain reading of headers, on the same cores"

COUNT = 6000
_SLICES = 100
_CHUNK_FILES = 256
_READ_BYTES = 16 * 1024
_REAL = Path(__file__).parents[2] / "shared" / "data"
_BEFORE_PIXELS = f"pydicom {pydicom.__version__} dcmread(stop_before_pixels=True)"

Paths = Sequence[str]


def run(quick: bool, count: int | None) -> list[Figure]:
    """Adopt ``count`` generated files (default 6,000; quick 1,000), five times (quick twice).

    And the real files beside the project, where they are there.
    """
    count = count or (1000 if quick else COUNT)
    times = 2 if quick else 5
    figures: list[Figure] = []
    with peers.scratch("adopt") as folder, _pool() as pool:
        for series in range(count // _SLICES):
            place = folder / "archive" / f"{series // 10}" / f"{series}"
            generate_ct_series(place, slices=_SLICES, rows=32, columns=32, seed=series + 1)
        figures += _measured("generated CT", folder / "archive", folder, pool, times)
        if _REAL.is_dir():
            figures += _measured("real files", _REAL, folder, pool, times)
    return figures


def _measured(
    what: str, archive: Path, folder: Path, pool: ProcessPoolExecutor, times: int
) -> list[Figure]:
    paths = [str(path) for path in sorted(archive.rglob("*")) if path.is_file()]
    _read_all(pool, _first_bytes, paths)  # everything is in the page cache before it counts
    _adopt(archive, folder / f"warm {what}", pool)
    ours, theirs, least = [], [], []
    for number in range(times):
        ours.append(_adopt(archive, folder / f"{what} {number}", pool))
        theirs.append(_read_all(pool, _headers, paths))
        least.append(_read_all(pool, _first_bytes, paths))
    reading = f"open, read {_READ_BYTES // 1024} KiB, close"
    return [
        compare(
            f"adopt {what}", "files/s", ours,
            beside=_BEFORE_PIXELS, beside_runs=theirs, at_least=0.7,
        ),
        compare(f"adopt {what}", "files/s", ours, beside=reading, beside_runs=least),
    ]  # fmt: skip


def _pool() -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn"))
    list(pool.map(time.sleep, [0.2] * 2 * (os.cpu_count() or 1)))
    return pool


# What it is compared with


def _read_all(pool: ProcessPoolExecutor, read: Callable[[Paths], int], paths: Paths) -> float:
    """Return files per second."""
    chunks = [paths[at : at + _CHUNK_FILES] for at in range(0, len(paths), _CHUNK_FILES)]
    began = time.perf_counter()
    count = sum(pool.map(read, chunks))
    assert count == len(paths)
    return count / (time.perf_counter() - began)


def _headers(paths: Paths) -> int:
    for path in paths:
        try:
            pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, ValueError, EOFError, AttributeError, KeyError, OSError):
            continue  # one of the malformed real ones
    return len(paths)


def _first_bytes(paths: Paths) -> int:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.pread(descriptor, _READ_BYTES, 0)
        finally:
            os.close(descriptor)
    return len(paths)


# The real thing


class _Tasks:
    """Tasks of a run in worker processes, as a node's are."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self._out: dict[Future[Any], Hashable] = {}

    def submit(self, key: Hashable, function: Callable[..., Any], *args: Any) -> None:
        """See ``work.run.Tasks``."""
        self._out[self._pool.submit(function, *args)] = key

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """See ``work.run.Tasks``."""
        while self._out:
            for future in wait(self._out, return_when=FIRST_COMPLETED).done:
                yield self._out.pop(future), future.result()

    def cancel(self) -> list[Any]:
        """See ``work.run.Tasks``."""
        return []


def _adopt(archive: Path, folder: Path, pool: ProcessPoolExecutor) -> float:
    """Adopt into an index of its own; return files per second, from the lease to the report."""
    bootstrap = Bootstrap(data_dir=folder, node_name="n1")
    master = Master(bootstrap.database_url, folder)
    told = master.order_adoption(archive.as_uri())
    settings = master.settings()[1]
    master.node_seen(_node(tuple(tier.name for tier in settings.tiers)))
    reader = edges.open_reader(bootstrap.database_url, LateTiers(settings.tiers))
    asked = Poll(node="n1", boot="b1", kinds=("ADOPT",), running=(), free=1)
    (lease,) = master.poll(asked).leases
    site = Site(
        settings=settings,
        cores=os.cpu_count() or 1,
        instances=reader.instances,
        unprepared=reader.unprepared,
        packs=reader.packs,
        manifests=lambda uid: [],
        available_bytes=dict,
        refused=lambda tier: None,
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
    began = time.perf_counter()
    master.report(lease, AdoptRun(lease, site).run(_Tasks(pool)))
    seconds = time.perf_counter() - began
    seen = int(reader.task(told["item_id"])["payload"]["progress"]["seen"])
    reader.close()
    master.close()
    return seen / seconds


def _node(tiers: tuple[str, ...]) -> NodeInfo:
    return NodeInfo(
        name="n1",
        host="127.0.0.1",
        boot="b1",
        roles=("master", "worker"),
        cores=os.cpu_count() or 1,
        dicom_port=0,
        http_port=0,
        version=__version__,
        bootstrap_hash="",
        pid=os.getpid(),
        tiers=tiers,
        kinds=("ADOPT",),
    )
