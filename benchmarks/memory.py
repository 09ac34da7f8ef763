"""Peak memory of a PREPARE worker: bounded by a chunk, however long the series."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom

from benchmarks.figure import Figure, limit
from benchmarks.preparing import StoredSeries, Workers, prepare_series, store_series
from raypacs.config import Settings
from raypacs.synthetic import CtSeries, ct_instances

NAME = "memory"
DESCRIPTION = "peak memory of a worker that prepares a long series and one long multi-frame object"

_FRAMES, _FRAMES_QUICK = 2000, 200
_LIMIT_MIB = 1024.0
_DISTINCT = 16


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure with ``count`` frames (default 2,000; 200 when quick)."""
    frames = count or (_FRAMES_QUICK if quick else _FRAMES)
    figures = []
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        files = list(_slices(Path(folder) / "slices", frames))
        figures.append(_peak(f"worker peak, {frames} slices", store_series(files, Path(folder))))
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        file = _multi_frame(Path(folder) / "long.dcm", frames)
        figures.append(
            _peak(f"worker peak, one object of {frames} frames", store_series([file], Path(folder)))
        )
    return figures


def _peak(name: str, series: StoredSeries) -> Figure:
    with Workers(1, []) as workers:
        _, published = prepare_series(workers, series, chunk_bytes=Settings().chunk_bytes, count=1)
        if {one.form for one in published.instances} != {"htj2k"}:
            raise AssertionError("not everything was prepared")
        (peak,) = workers.each(("peak", None))
    return limit(name, "MiB", [peak / 2**20], at_most=_LIMIT_MIB)


def _datasets() -> list[pydicom.Dataset]:
    return list(ct_instances(CtSeries(slices=_DISTINCT, rows=512, columns=512, seed=1)))


def _slices(folder: Path, count: int) -> Iterator[Path]:
    """Write ``count`` instances of one series; pixels repeat, UIDs and numbers do not."""
    folder.mkdir(parents=True)
    datasets = _datasets()
    for number in range(count):
        dataset = datasets[number % len(datasets)]
        dataset.SOPInstanceUID = f"2.25.{1000 + number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = number + 1
        path = folder / f"{number:05d}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        yield path


def _multi_frame(path: Path, count: int) -> Path:
    """Write one object of ``count`` frames, frame by frame."""
    datasets = _datasets()
    dataset = datasets[0]
    frames = [np.frombuffer(one.PixelData, "<u2") for one in datasets]
    dataset.NumberOfFrames = count
    dataset.PixelData = frames[0].tobytes()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    size = frames[0].nbytes
    with path.open("r+b") as file:
        file.seek(-size - 4, 2)  # the length of Pixel Data, then the first frame
        file.write((size * count).to_bytes(4, "little"))
        for number in range(count):
            file.write(frames[number % len(frames)].tobytes())
    return path
