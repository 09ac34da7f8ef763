"""Frames per second over WADO-RS: wrk at 8 connections, raypacs beside Orthanc, in turns.

Both servers hold the same instances, as received uncompressed, and get the same Accept headers:
"frames as you have them" (HTJ2K from raypacs, native from Orthanc, which does not know HTJ2K), and
native frames from both. Of Orthanc the better of its two ways to native frames counts. Two gateway
processes share the port; wrk runs on the same cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import orthanc, wrk
from benchmarks.figure import Figure, compare, limit
from benchmarks.gateways import Holdings, start_gateways, warm
from benchmarks.orthanc import FRAMES_AS_STORED, FRAMES_NATIVE, Orthanc
from benchmarks.preparing import StoredSeries, bench_files, store_series
from raypacs.config import Settings
from raypacs.records import PackRef, PreparedSeries
from raypacs.work import prepare

NAME = "frames"
DESCRIPTION = "HTJ2K and raw frames per second over WADO-RS, and the 1/8 overview's bytes"

_SLICES = 100
_TIMES_HTJ2K = 4.0
_TIMES_RAW = 1.5
_OVERVIEW_SHARE = 0.03
_CONNECTIONS = 8


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure; ``count`` is the number of instances (at most those of the series)."""
    rounds, seconds = (3, 3) if quick else (5, 10)
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as name:
        folder = Path(name)
        files, what = bench_files(folder, slices=count or _SLICES)
        series = store_series(files, folder)
        published = _prepare(series)
        ref = PackRef(published.tier, published.pack_path, published.header_path, published.token)
        holdings = Holdings(
            Settings(tiers=series.tiers),
            tuple(series.instances),
            {published.series_uid: [ref]},
        )
        with orthanc.start_orthanc() as peer, start_gateways(holdings) as base:
            orthanc.upload_all(peer, files)
            urls, theirs = holdings.urls(base), holdings.urls(peer.url)
            _check(urls, theirs)
            figures = _measure(urls, theirs, peer, rounds=rounds, seconds=seconds)
            overview = wrk.fetch(f"{urls[0].split('/instances')[0]}/overview?level=3", "*/*")[2]
    share = len(overview) / sum(one.prepared_bytes for one in published.instances)
    figures.append(
        limit(
            f"1/8 view of the {what} in one request",
            "of lossless bytes",
            [share],
            at_most=_OVERVIEW_SHARE,
        )
    )
    return figures


def _prepare(series: StoredSeries) -> PreparedSeries:
    context = series.context()
    chunks = prepare.plan_chunks(series.instances, Settings().chunk_bytes)
    parts = [prepare.prepare_chunk(chunk, context) for chunk in chunks]
    published = prepare.publish_series(parts, context)
    prepare.abandon(context)
    return published


def _check(ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Look at one answer of each before they are counted.

    Raises:
        RuntimeError: native frames differ, or raypacs does not give HTJ2K.
    """
    native = [wrk.fetch(urls[0], FRAMES_NATIVE)[2] for urls in (ours, theirs)]
    pixels = [body.split(b"\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0] for body in native]
    if pixels[0] != pixels[1]:
        raise RuntimeError("native frames of the two servers differ")
    if b"image/jphc" not in wrk.fetch(ours[0], FRAMES_AS_STORED)[2][:300]:
        raise RuntimeError("raypacs did not answer with HTJ2K")


def _measure(
    ours: list[str], theirs: list[str], peer: Orthanc, *, rounds: int, seconds: int
) -> list[Figure]:
    kinds = {
        "htj2k": (ours, FRAMES_AS_STORED),
        "raw": (ours, FRAMES_NATIVE),
        "orthanc stored": (theirs, FRAMES_AS_STORED),
        "orthanc native": (theirs, FRAMES_NATIVE),
        "orthanc own": (peer.raw_frame_urls(), "*/*"),
    }
    runs: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(-1, rounds):
        for kind, (urls, accept) in kinds.items():
            if number < 0:
                warm(urls, accept)
                continue
            load = wrk.measure(urls, accept=accept, seconds=seconds, connections=_CONNECTIONS)
            runs[kind].append(load.requests_per_s)
    best = max(runs["orthanc stored"], runs["orthanc native"], key=sum)
    return [
        compare(
            "HTJ2K frames",
            "frames/s",
            runs["htj2k"],
            beside=peer.label,
            beside_runs=runs["orthanc stored"],
            at_least=_TIMES_HTJ2K,
        ),
        compare(
            "raw frames",
            "frames/s",
            runs["raw"],
            beside=peer.label,
            beside_runs=best,
            at_least=_TIMES_RAW,
        ),
        compare(
            "HTJ2K frames beside the peer's own REST API",
            "frames/s",
            runs["htj2k"],
            beside=f"{peer.label} /instances/../raw",
            beside_runs=runs["orthanc own"],
        ),
    ]
