"""Small pictures: the resolution level that is just large enough, beside the whole frame scaled.

Both ways end with the same JPEG of the same size, read from the same pack, header kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom

from benchmarks.figure import Figure, compare
from benchmarks.gateways import Holdings
from benchmarks.preparing import StoredSeries, bench_files, store_series
from raypacs.config import Settings
from raypacs.records import PackRef
from raypacs.web.gateway import Gateway
from raypacs.web.places import Place, load_series
from raypacs.web.rendering.asked import Viewport, Wanted
from raypacs.web.rendering.render import Level, render_level
from raypacs.web.rendering.sources import Sources
from raypacs.web.services import Services
from raypacs.work import prepare

NAME = "rendered"
DESCRIPTION = "thumbnails and small pictures of prepared frames, beside full decoding"

_SLICES, _SLICES_QUICK = 60, 20
_SIDE = 2048
_TIMES = 2.0


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure; ``count`` is the number of CT slices."""
    runs = 3 if quick else 5
    slices = count or (_SLICES_QUICK if quick else _SLICES)
    figures = []
    with tempfile.TemporaryDirectory(prefix="raypacs-bench-") as name:
        folder = Path(name)
        files, what = bench_files(folder, slices=slices)
        large = _large(folder / "large.dcm")
        figures += _measure(store_series(files, folder / "ct"), what, (128, 256), runs, folder)
        figures += _measure(
            store_series([large], folder / "x"),
            f"{_SIDE} x {_SIDE} frame",
            (128, 512),
            runs,
            folder,
        )
    return figures


def _measure(
    series: StoredSeries, what: str, sides: tuple[int, ...], runs: int, claims: Path
) -> list[Figure]:
    services = _services(series, claims)
    record = series.instances[0].record
    view = load_series(services, record.study_uid, record.series_uid, (), 0.0)
    gateway = Gateway(services)
    sources = Sources(gateway.frames, gateway.header)
    places = list(view.places.values())
    figures = []
    for side in sides:
        wanted = Wanted("image/jpeg", viewport=Viewport(side, side))
        small = [_seconds(places, lambda p, w=wanted: _small(sources, p, w)) for _ in range(runs)]
        full = [_seconds(places, lambda p, w=wanted: _full(sources, p, w)) for _ in range(runs)]
        figures.append(
            compare(
                f"{side} pixels of a {what}",
                "ms a picture",
                [1000 * one for one in small],
                beside="whole frame decoded and scaled",
                beside_runs=[1000 * one for one in full],
                at_least=_TIMES if side == sides[0] else None,
                less_is_better=True,
            )
        )
    return figures


def _small(sources: Sources, place: Place, wanted: Wanted) -> bytes:
    header = sources.header(place)
    return render_level(sources.level(place, 1, header, wanted), header, 1, wanted)


def _full(sources: Sources, place: Place, wanted: Wanted) -> bytes:
    header = sources.header(place)
    whole = sources.level(place, 1, header, replace(wanted, viewport=None))
    return render_level(Level.full(whole.picture), header, 1, wanted)


def _seconds(places: list[Place], make: Callable[[Place], bytes]) -> float:
    """Return the seconds a picture takes, headers read before."""
    make(places[0])
    start = time.perf_counter()
    for place in places:
        make(place)
    return (time.perf_counter() - start) / len(places)


def _services(series: StoredSeries, claims: Path) -> Services:
    """Return services over the prepared series; what was received is gone, as after a while."""
    context = series.context()
    chunks = prepare.plan_chunks(series.instances, Settings().chunk_bytes)
    parts = [prepare.prepare_chunk(chunk, context) for chunk in chunks]
    done = prepare.publish_series(parts, context)
    prepare.abandon(context)
    ref = PackRef(done.tier, done.pack_path, done.header_path, done.token)
    holdings = Holdings(
        Settings(tiers=series.tiers), tuple(series.instances), {done.series_uid: [ref]}
    )
    services = holdings.services(claims)
    for one in series.instances:
        services.tier(one.record.tier).delete(one.record.path)
    return services


def _large(path: Path) -> Path:
    """Write a smooth radiograph with noise, 14 bits."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = "2.25.31", "2.25.32"
    dataset.StudyInstanceUID, dataset.PatientID, dataset.Modality = "2.25.33", "B1", "DX"
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    shape = 8000 + 3000 * np.sin(rows / 300) + 3000 * np.cos(columns / 200)
    noise = np.random.default_rng(1).normal(0, 40, shape.shape)
    dataset.Rows = dataset.Columns = _SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 14, 13
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 8192, 16384
    dataset.PixelData = (shape + noise).clip(0, 16383).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path
