"""PREPARE without a cluster: worker processes that are warm before anything is measured.

Each worker is a plain process with a pipe; whoever is free gets the next job, as Ray's workers do.
The same workers measure the codecs alone, so all figures have the same processes and division.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from raypacs import dicom, layout
from raypacs.config import TierSettings
from raypacs.records import PreparedSeries, StoredInstance
from raypacs.synthetic import generate_ct_series
from raypacs.work import prepare

Frames = list[NDArray[Any]]
Job = tuple[str, Any]

BENCH_SERIES = Path("data/bench/ct_philips_std_1mm_140")


@dataclass(frozen=True)
class StoredSeries:
    """A series on an image tier, as PREPARE finds it, and where its packs go."""

    instances: list[StoredInstance]
    tiers: tuple[TierSettings, ...]

    @property
    def raw_bytes(self) -> int:
        """Bytes of all decoded frames."""
        records = [stored.record for stored in self.instances]
        return sum(r.rows * r.columns * r.frames * r.bits_allocated // 8 for r in records)

    @property
    def frames(self) -> int:
        """Number of frames."""
        return sum(stored.record.frames for stored in self.instances)

    def context(self) -> prepare.PrepareContext:
        """Return the context of a new attempt."""
        return prepare.PrepareContext(
            study_uid=self.instances[0].record.study_uid,
            token=layout.new_token(),
            tiers=self.tiers,
            web=self.tiers[1],
        )


def bench_files(folder: Path, *, slices: int) -> tuple[list[Path], str]:
    """Return the files of the bench CT series, or of a generated one in ``folder``, and a name."""
    shared = Path(__file__).parent.parent.parent / "shared" / BENCH_SERIES
    if shared.is_dir():
        return sorted(shared.rglob("*.dcm"))[:slices], "bench CT"
    return generate_ct_series(folder / "generated", slices=slices), "generated CT"


def store_series(files: Sequence[Path], folder: Path) -> StoredSeries:
    """Put files onto an image tier in ``folder`` as an ingest does."""
    tiers = (
        TierSettings(name="image1", role="image", url=(folder / "image").as_uri()),
        TierSettings(name="web1", role="web", url=(folder / "web").as_uri()),
    )
    tier = prepare.tier_of(tiers[0])
    instances = []
    for file in files:
        data = file.read_bytes()
        part10 = dicom.split_part10(data)
        record = dicom.describe(
            data,
            transfer_syntax_uid=part10.transfer_syntax_uid,
            dataset_offset=part10.dataset_offset,
            tier="image1",
            path=f"studies/{file.stem}.{layout.new_token()}.dcm",
            size_bytes=len(data),
            sha256="",
            source="BENCH",
            received_at_s=time.time(),
        )
        tier.put_transient(record.path, data)
        instances.append(StoredInstance(record))
    return StoredSeries(instances, tiers)


def pixels_of(series: StoredSeries) -> Frames:
    """Return the single-frame native 16-bit images of a series: rows x columns."""
    tier = prepare.tier_of(series.tiers[0])
    frames = []
    for stored in series.instances:
        record = stored.record
        raw = tier.read(record.path, record.pixel_offset_bytes, record.rows * record.columns * 2)
        frames.append(np.frombuffer(raw, "<u2").reshape(record.rows, record.columns))
    return frames


class Workers:
    """Worker processes; :meth:`run` gives them jobs as they come free."""

    def __init__(self, count: int, frames: Frames) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.send(frames)
        for pipe in self._pipes:
            pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.terminate()

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Run all jobs and return their results in order.

        Raises:
            RuntimeError: a job failed or its worker died; the message says why.
        """
        waiting = deque(enumerate(jobs))
        results: list[Any] = [None] * len(jobs)
        busy: dict[Connection, int] = {}
        free = list(self._pipes)
        while waiting or busy:
            while waiting and free:
                number, job = waiting.popleft()
                pipe = free.pop()
                pipe.send(job)
                busy[pipe] = number
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                try:
                    failed, value = ready.recv()
                except EOFError as exc:
                    raise RuntimeError("a worker died") from exc
                if failed:
                    raise RuntimeError(value)
                results[busy.pop(ready)] = value
                free.append(ready)
        return results

    def each(self, job: Job) -> list[Any]:
        """Run a job once in every worker."""
        for pipe in self._pipes:
            pipe.send(job)
        return [pipe.recv()[1] for pipe in self._pipes]


def prepare_series(
    workers: Workers, series: StoredSeries, *, chunk_bytes: int, count: int
) -> tuple[float, PreparedSeries]:
    """Prepare and publish a series; return (seconds, what was published)."""
    context = series.context()
    workers.each(("forget", None))  # so that no round finds what an earlier one left
    started = time.perf_counter()
    chunks = prepare.plan_chunks(series.instances, chunk_bytes, workers=count)
    parts = workers.run([("prepare", (chunk, context)) for chunk in chunks])
    (published,) = workers.run([("publish", (parts, context))])
    seconds = time.perf_counter() - started
    prepare.abandon(context)
    return seconds, published


def codec_seconds(workers: Workers, kind: str, frames: int, *, run: int) -> float:
    """Return the seconds a codec alone takes for all frames, ``run`` of them a job."""
    jobs = [(kind, (first, min(run, frames - first))) for first in range(0, frames, run)]
    started = time.perf_counter()
    workers.run(jobs)
    return time.perf_counter() - started


def _work(pipe: Connection) -> None:
    """A worker process: answer jobs until the pipe closes."""
    frames: Frames = pipe.recv()
    pipe.send(len(frames))
    while True:
        try:
            kind, argument = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, _do(kind, argument, frames)))
        except (OSError, ValueError, RuntimeError, LookupError) as exc:
            pipe.send((True, f"{kind}: {type(exc).__name__}: {exc}"))


def _peak_bytes() -> int:
    """Return this process's peak resident memory.

    Not from getrusage: its figure survives exec, so it would be that of the parent.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def _do(kind: str, argument: Any, frames: Frames) -> Any:
    if kind == "prepare":
        return prepare.prepare_chunk(*argument)
    if kind == "publish":
        return prepare.publish_series(*argument)
    if kind == "forget":
        return prepare.metadata_of.cache_clear()
    if kind == "peak":
        return _peak_bytes()
    first, count = argument
    for frame in frames[first : first + count]:
        if kind == "htj2k":
            code = imagecodecs.htj2k_encode(frame, tlm=True, tilepart=1, resolutions=5)
            imagecodecs.htj2k_decode(code)
        elif kind in ("jpeg2000", "jpeg2000 encode"):
            code = imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k", reversible=True)
            if kind == "jpeg2000":
                imagecodecs.jpeg2k_decode(code)
        else:
            raise ValueError(f"no such job: {kind}")
    return None
