"""The 3-D overview of real series: bytes, time and error, beside the lossless overview container.

Both are made of the same frames at the same resolution. The container
(:mod:`raypacs.codec.overview`) is what a viewer would load else for planes in other directions;
it is lossless from there on.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure import Figure, compare, limit
from benchmarks.preparing import StoredSeries, bench_files, store_series
from raypacs import dicom
from raypacs.codec import htj2k, overview, volume
from raypacs.codec.frame_geometry import FrameGeometry, frames_of
from raypacs.codec.geometry import Stack, find_stack
from raypacs.codec.volume_stack import make_volume
from raypacs.config import Settings
from raypacs.dicom_json import JsonHeaders
from raypacs.work import prepare
from raypacs.work.volume import series_volume

NAME = "overview"
DESCRIPTION = "3-D overviews of CT and MR: bytes, time and PSNR, beside the lossless container"

Array = NDArray[Any]

_SLICES = 140
_MOST_SHARE = 0.6
_LEAST_PSNR_DB = 30.0
_MR = "mr_siemens_mprage_192"


@dataclass(frozen=True)
class _Series:
    """A series in memory: where its frames lie, and their codestreams."""

    name: str
    stack: Stack
    codes: dict[str, bytes]
    levels: int
    frame_bytes: int
    bits_stored: int

    @property
    def raw_bytes(self) -> int:
        return self.frame_bytes * len(self.stack.frames)

    def decode(self, frame: FrameGeometry, halvings: int) -> Array:
        """Return a frame at low resolution, from the beginning of its codestream."""
        code = self.codes[frame.sop_instance_uid]
        ends = htj2k.read_main_header(code).resolution_ends
        return htj2k.decode_frame(code[: ends[self.levels - halvings]], skip_resolutions=halvings)


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure; ``count`` is the number of slices (at most those of a series)."""
    rounds = 3 if quick else 9
    figures = []
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as name:
        folder = Path(name)
        for what, files in _sources(folder, count):
            stored = store_series(files, folder / what.replace(" ", "-"))
            figures += _measure(_read(stored, what), rounds)
            figures.append(_share_of_prepare(stored, what, rounds))
    return figures


def _sources(folder: Path, count: int | None) -> list[tuple[str, list[Path]]]:
    files, name = bench_files(folder, slices=count or _SLICES)
    found = [(name, list(files))]
    mr = Path(__file__).parent.parent.parent / "shared/data/bench" / _MR
    if mr.is_dir():
        found.append(("bench MR", sorted(mr.rglob("*.dcm"))))
    return found


def _read(stored: StoredSeries, name: str) -> _Series:
    tier = prepare.tier_of(stored.tiers[0])
    maker = JsonHeaders()
    frames: list[FrameGeometry] = []
    codes = {}
    for one in stored.instances:
        record = one.record
        data = tier.read(record.path)
        header = dicom.scan(data, record.transfer_syntax_uid, record.dataset_offset_bytes)
        frames += frames_of(json.loads(maker.text(header, "")))
        signed = record.pixel_representation == 1
        start = record.pixel_offset_bytes
        samples = np.frombuffer(
            data, "<i2" if signed else "<u2", record.rows * record.columns, start
        )
        pixels = samples.reshape(record.rows, record.columns)
        code = htj2k.encode_frame(pixels, bits_stored=record.bits_stored, signed=signed)
        codes[record.sop_instance_uid] = bytes(code.data)
    return _Series(name, find_stack(frames), codes, code.levels, pixels.nbytes, record.bits_stored)


def _measure(series: _Series, rounds: int) -> list[Figure]:
    """Return the figures of one series; both forms in turns."""
    coding: list[float] = []
    container_coding: list[float] = []
    decoding: list[float] = []
    container_decoding: list[float] = []
    small = partial(
        make_volume,
        series.stack,
        lambda frames, halvings: (series.decode(frame, halvings) for frame in frames),
        levels=series.levels,
        frame_bytes=series.frame_bytes,
    )
    for number in range(-1, rounds):
        seconds, data = _timed(small)
        decode_s, decoded = _timed(partial(volume.decode_volume, data))
        level = decoded.header.facts.halvings
        plain_s, plain = _timed(partial(_container, series, level))
        plain_decode_s, _ = _timed(partial(overview.decode_overview, plain))
        if number < 0:
            continue  # warms caches
        coding.append(1000 * seconds)
        decoding.append(1000 * decode_s)
        container_coding.append(1000 * plain_s)
        container_decoding.append(1000 * plain_decode_s)
    beside = f"lossless container at 1/{1 << level}"
    per_cent = 100 / series.raw_bytes
    shape = " x ".join(map(str, decoded.header.shape))
    return [
        limit(
            f"{series.name}, {shape}: bytes",
            "% of raw",
            [per_cent * len(data)],
            at_most=_MOST_SHARE,
        ),
        compare(
            f"{series.name}: bytes beside the container",
            "% of raw",
            [per_cent * len(data)],
            beside=beside,
            beside_runs=[per_cent * len(plain)],
            less_is_better=True,
        ),
        limit(f"{series.name}: PSNR", "dB", [decoded.header.loss.psnr_db], at_least=_LEAST_PSNR_DB),
        Figure(f"{series.name}: largest error", _of_peak(decoded), "% of range"),
        compare(
            f"{series.name}: decode small + encode",
            "ms",
            coding,
            beside=beside,
            beside_runs=container_coding,
            less_is_better=True,
        ),
        compare(
            f"{series.name}: decode",
            "ms",
            decoding,
            beside=beside,
            beside_runs=container_decoding,
            less_is_better=True,
        ),
    ]


def _of_peak(decoded: volume.Volume) -> float:
    return 100 * decoded.header.loss.largest / decoded.header.loss.peak


def _container(series: _Series, level: int) -> bytes:
    frames = series.stack.frames
    return overview.encode_overview(
        (
            overview.OverviewFrame(
                frame.sop_instance_uid, 1, series.bits_stored, series.decode(frame, level)
            )
            for frame in frames
        ),
        level=level,
    )


def _share_of_prepare(stored: StoredSeries, name: str, rounds: int) -> Figure:
    """Return what the overview adds to PREPARE, in processor time.

    So a busy machine does not matter, and nothing that runs beside is hidden.
    """
    web = prepare.tier_of(stored.tiers[1])
    added: list[float] = []
    for number in range(-1, min(rounds, 5)):
        context = stored.context()
        prepare.metadata_of.cache_clear()
        chunks = prepare.plan_chunks(stored.instances, Settings().chunk_bytes)
        prepare_s, parts = _processor(
            partial(list, (prepare.prepare_chunk(chunk, context) for chunk in chunks))
        )
        volume_s, _ = _processor(partial(series_volume, parts, web, lambda _: True))
        publish_s, _ = _processor(partial(prepare.publish_series, parts, context))
        prepare.abandon(context, published=True)
        if number >= 0:
            added.append(100 * volume_s / (prepare_s + publish_s - volume_s))
    return compare(f"{name}: processor time added to PREPARE", "%", added)


def _processor(make: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    made = make()
    return time.process_time() - started, made


def _timed(make: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    made = make()
    return time.perf_counter() - started, made
