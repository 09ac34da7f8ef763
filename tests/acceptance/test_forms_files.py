"""Real files of every form: the samples pydicom reads are those that come out of the pack."""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import SHARED_DATA
from pydicom.errors import InvalidDicomError
from stored_series import Store

from raypacs.codec import floats, registry
from raypacs.errors import RaypacsError
from raypacs.records import PreparedSeries
from raypacs.storage.pack import Pack

EXPLICIT = "1.2.840.10008.1.2.1"
WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
# What pydicom says of pixels that it cannot read.
_UNREADABLE = (InvalidDicomError, NotImplementedError, RuntimeError, AttributeError, ValueError)


def real_files() -> list[Path]:
    folders = [WHEEL, SHARED_DATA / "dicom"]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def prepared(store: Store, paths: list[Path]) -> Iterator[tuple[Path, bytes, PreparedSeries]]:
    """Yield what could be stored, each prepared alone."""
    for path in paths:
        data = path.read_bytes()
        try:
            stored = store.add(data)
        except RaypacsError:
            continue
        yield path, data, store.prepare([stored])


def decoded(pack: Pack, uid: str) -> np.ndarray:
    instance = pack.instance(uid)
    return np.stack(
        [
            registry.decode(pack.read_frame(uid, number), instance)
            for number in range(1, instance.frames + 1)
        ]
    )


def pixels_of(data: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return what pydicom reads, colour as it is; None: it cannot."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        return pydicom.pixels.pixel_array(dataset, raw=True).reshape(shape)
    except _UNREADABLE:
        return None


@pytest.mark.filterwarnings("ignore")  # of pydicom, of files that are wrong on purpose
def test_samples_are_those_that_pydicom_reads(tmp_path: Path) -> None:
    store = Store(tmp_path)
    forms: Counter[str] = Counter()
    differing, unread = [], []
    for path, data, series in prepared(store, real_files()):
        (one,) = series.instances
        forms[one.form] += 1
        if one.form == "copied":
            continue
        pack = store.open(series)
        uid = one.sop_instance_uid
        found = decoded(pack, uid)
        native = b"".join(pack.part10(uid, EXPLICIT, registry.native_bytes))
        again = pixels_of(native, found.shape)
        source = pixels_of(data, found.shape)
        if source is None:
            unread.append(path.name)
            source = found
        if again is None or not _same(source, found) or not _same(again, found):
            differing.append(path.name)
    assert differing == []
    assert forms["htj2k"] > 80
    assert forms["bits"] >= 2
    assert len(unread) < 10


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    if first.dtype.kind == "f":
        return floats.same_bits(first, second)
    return np.array_equal(first, second)


@pytest.mark.parametrize("name", ["liver", "liver_nonbyte_aligned"])
def test_one_segmentation_in_every_syntax_is_the_same(tmp_path: Path, name: str) -> None:
    folder = SHARED_DATA / "dicom" / "seg_liver"
    if not folder.is_dir():
        name, folder = "liver_1frame", WHEEL
    store = Store(tmp_path)
    syntaxes = ("", "_rle", "_deflate", "_j2k", "_expb", "_expb_1frame")
    paths = [folder / f"{name}{syntax}.dcm" for syntax in syntaxes]
    if folder == WHEEL:
        paths = [WHEEL / "liver_1frame.dcm", WHEEL / "liver_expb_1frame.dcm"]
    natives = set()
    for _, _, series in prepared(store, [path for path in paths if path.is_file()][:5]):
        (one,) = series.instances
        assert (one.form, one.reason) == ("bits", "")
        pack = store.open(series)
        pieces = pack.part10(one.sop_instance_uid, EXPLICIT, registry.native_bytes)
        natives.add(pydicom.dcmread(io.BytesIO(b"".join(pieces))).PixelData)
    assert len(natives) == 1


def test_real_parametric_maps_are_smaller_than_deflated(tmp_path: Path) -> None:
    folder = SHARED_DATA / "dicom" / "parametric_map_float"
    if not folder.is_dir():
        pytest.skip("no ../shared/data")
    store = Store(tmp_path)
    for _, data, series in prepared(store, sorted(folder.glob("*.dcm"))):
        (one,) = series.instances
        assert one.form == "wavelet"
        dataset = pydicom.dcmread(io.BytesIO(data))
        raw = dataset.pixel_array.tobytes()
        assert one.prepared_bytes < 0.75 * len(zlib.compress(raw, 9))
        pack = store.open(series)
        instance = pack.instance(one.sop_instance_uid)
        view = floats.decode_low(pack.read_low(one.sop_instance_uid, 1))
        wanted = floats.reduced(dataset.pixel_array, instance.low_halvings)
        assert np.abs(view.pixels - wanted).max() <= view.error
        assert view.error < np.ptp(wanted) / 2000
