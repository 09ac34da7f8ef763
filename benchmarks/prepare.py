"""PREPARE: from the image cache to a published pack, every frame decoded again and compared.

Beside the codec alone (HTJ2K encode + decode of the same frames, in memory, in as many processes,
and nothing else) and beside the same with OpenJPEG's JPEG 2000. Rounds of all are interleaved, so
that a busy machine slows them alike.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import imagecodecs

from benchmarks.figure import Figure, compare, spread
from benchmarks.preparing import (
    Workers,
    bench_files,
    codec_seconds,
    pixels_of,
    prepare_series,
    store_series,
)
from raypacs.config import Settings

NAME = "prepare"
DESCRIPTION = "image cache to published pack with proof, beside the codec alone and JPEG 2000"

PROCESSES = 2
_SLICES = 140
_FRAMES_A_JOB = 7
_CODEC_SHARE = 0.70
_TIMES_JPEG_2000 = 5.0


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure; ``count`` is the number of slices (at most those of the series)."""
    rounds = 3 if quick else 9
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as folder:
        files, name = bench_files(Path(folder), slices=count or _SLICES)
        series = store_series(files, Path(folder))
        with Workers(PROCESSES, pixels_of(series)) as workers:
            chunk_bytes = Settings().chunk_bytes
            megabytes = series.raw_bytes / 1e6
            ours: list[float] = []
            alone: list[float] = []
            openjpeg: dict[str, list[float]] = {"jpeg2000": [], "jpeg2000 encode": []}
            for number in range(-1, rounds):
                codec_s = codec_seconds(workers, "htj2k", series.frames, run=_FRAMES_A_JOB)
                ours_s, published = prepare_series(
                    workers, series, chunk_bytes=chunk_bytes, count=PROCESSES
                )
                if not all(one.lossless_proven for one in published.instances):
                    raise AssertionError("not every instance was proven lossless")
                if number < 0:
                    continue  # warms caches and processes
                alone.append(megabytes / codec_s)
                ours.append(megabytes / ours_s)
                for kind, runs in openjpeg.items() if number % 3 == 0 else ():
                    seconds = codec_seconds(workers, kind, series.frames, run=_FRAMES_A_JOB)
                    runs.append(megabytes / seconds)
    ratio = published.pack_bytes / series.raw_bytes
    return [
        _share(f"prepare, {name}", ours, alone),
        compare(
            f"prepare, {name}, beside JPEG 2000",
            "MB/s",
            ours,
            beside=f"OpenJPEG {_openjpeg_version()} encode + decode alone, {PROCESSES} processes",
            beside_runs=openjpeg["jpeg2000"],
            at_least=_TIMES_JPEG_2000,
        ),
        compare(
            f"prepare, {name}, beside JPEG 2000 without a proof",
            "MB/s",
            ours,
            beside=f"OpenJPEG {_openjpeg_version()} encode alone, {PROCESSES} processes",
            beside_runs=openjpeg["jpeg2000 encode"],
        ),
        Figure(f"pack size, {name}", 100 * ratio, "% of raw"),
    ]


def _share(name: str, ours: list[float], alone: list[float]) -> Figure:
    """Return the figure beside the codec alone; its ratio is the median of the rounds' ratios."""
    shares = [mine / limit for mine, limit in zip(ours, alone, strict=True)]
    figure = compare(
        name,
        "MB/s",
        ours,
        beside=f"HTJ2K encode + decode alone, {PROCESSES} processes ({_openjph_version()})",
        beside_runs=alone,
        at_least=_CODEC_SHARE,
    )
    share = statistics.median(shares)
    return replace(figure, ratio=share, holds=share >= _CODEC_SHARE, spread=spread(shares))


def _openjph_version() -> str:
    return str(imagecodecs.htj2k_version())


def _openjpeg_version() -> str:
    return str(imagecodecs.jpeg2k_version()).removeprefix("openjpeg ")
