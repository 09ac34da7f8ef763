"""Every real file at hand is prepared, or copied with the right reason; never changed.

The files that come with pydicom, and the folder of real data beside the project where it is there.
A prepared frame must equal what two decoders that share nothing with the encoder's proof make of
source and result: pydicom's plugins of the source, OpenJPEG of the codestream.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from conftest import SHARED_DATA
from independent import single_bit_frames
from pydicom.data import get_testdata_files
from pydicom.pixels import decoders, pixel_array
from stored_series import Store

from raypacs import dicom
from raypacs.codec import htj2k, registry
from raypacs.codec.overview import OverviewFrame, decode_overview, encode_overview
from raypacs.errors import MalformedInstance
from raypacs.policy.rules import choose
from raypacs.records import PreparedInstance
from raypacs.storage.pack import Pack

BUNDLED = [path for path in map(Path, sorted(get_testdata_files())) if path.is_file()]
SHARED = [path for path in sorted(SHARED_DATA.glob("dicom/**/*")) if path.is_file()]

# What only the pixels can tell; everything else is told by the header (policy.rules).
FOUND_IN_PIXELS = (
    "sign in the codestream differs",
    "values outside",
    "not a JPEG 2000 codestream",
    "big endian words with an odd number",
    "after Pixel Data: ",
    "two decoders disagree",
    "JPEG-LS with the HP colour transform",
    "frame cannot be decoded",
    "is too short for",
    "fragments for",
    "a compressed im",
    "bytes, ",
    "lossy compressed, the header says",
    "irreversible wavelet",
    "JPEG-LS near-lossless",
    "bytes of Pixel Data after the last frame",
)


def prepared(store: Store, data: bytes) -> tuple[PreparedInstance, Pack, str] | None:
    """Prepare one file as its own series; None for what no edge would have stored."""
    try:
        stored = store.add(data)
    except MalformedInstance:
        return None
    series = store.prepare([stored], chunk_bytes=4 * 1024 * 1024)
    (instance,) = series.instances
    return instance, store.open(series), choose(stored.record).reason


def source_frames(path: Path) -> np.ndarray | None:
    """Return all frames of the source, rows last but columns, or None if pydicom cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        try:
            pixels = pixel_array(dataset, raw=True)
        except (ValueError, RuntimeError, AttributeError, NotImplementedError):
            return None
    colour = dataset.SamplesPerPixel == 3
    return (
        pixels.reshape(-1, *pixels.shape[-3:]) if colour else pixels.reshape(-1, *pixels.shape[-2:])
    )


def openjpeg(code: bytes, bits: int) -> np.ndarray:
    """Decode by OpenJPEG; what it cannot (more than 16 bits) by OpenJPH."""
    return imagecodecs.jpeg2k_decode(code) if bits <= 16 else htj2k.decode_frame(code)


def check(path: Path, store: Store) -> str:
    """Check one file; return its form, or '' if it is not DICOM that can be stored."""
    data = path.read_bytes()
    found = prepared(store, data)
    if found is None:
        return ""
    instance, pack, told = found
    uid = instance.sop_instance_uid
    assert pack.metadata(uid)["00080018"]["Value"] == [uid], path
    if instance.form == "copied":
        assert b"".join(pack.part10(uid)) == data, path
        assert not instance.lossless_proven
        assert instance.reason, path
        assert instance.reason == told or any(
            text in instance.reason for text in FOUND_IN_PIXELS
        ), (path, instance.reason)
        return "copied"
    assert instance.lossless_proven
    known_as = pack.instance(uid)
    if instance.form != "htj2k":
        return check_native(path, pack, uid, instance.frames)
    rpcl = dicom.HTJ2K_LOSSLESS if known_as.low_own else dicom.HTJ2K_LOSSLESS_RPCL
    assert instance.transfer_syntax_uid == rpcl
    frames = source_frames(path)
    if frames is None:
        return "unchecked"
    assert len(frames) == instance.frames, path
    bits = known_as.bits_stored
    for number, frame in enumerate(frames, 1):
        code = pack.read_frame(uid, number)
        assert np.array_equal(openjpeg(code, bits), frame), (path, number)
        assert np.array_equal(htj2k.decode_frame(code), frame), (path, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = pydicom.dcmread(io.BytesIO(b"".join(pack.part10(uid))))
    assert written.SOPInstanceUID == uid
    assert written.BitsStored == bits
    return "htj2k"


def check_native(path: Path, pack: Pack, uid: str, count: int) -> str:
    """Check floating-point samples and single bits, which no transfer syntax codes."""
    frames = source_frames(path)
    frames = single_bit_frames(path.read_bytes()) if frames is None else frames
    if frames is None:
        return "unchecked"
    known_as = pack.instance(uid)
    for number, frame in zip(range(1, count + 1), frames, strict=True):
        found = registry.decode(pack.read_frame(uid, number), known_as)
        assert np.array_equal(found, frame, equal_nan=found.dtype.kind == "f"), (path, number)
    return "native"


def test_the_files_that_come_with_pydicom(tmp_path: Path) -> None:
    store = Store(tmp_path)
    forms = [check(path, store) for path in BUNDLED]
    assert forms.count("htj2k") > 60
    assert forms.count("copied") > 20
    assert forms.count("unchecked") <= 3


def test_the_real_files_beside_the_project(tmp_path: Path, shared_data: Path) -> None:
    assert shared_data
    store = Store(tmp_path)
    forms = [check(path, store) for path in SHARED]
    assert forms.count("htj2k") > 250
    assert forms.count("copied") > 40
    assert forms.count("unchecked") <= 3


def test_pydicom_has_the_decoders_this_test_relies_on() -> None:
    for decoder in (decoders.JPEG2000LosslessDecoder, decoders.JPEGLosslessSV1Decoder):
        assert decoder.is_available, decoder


def test_the_overview_of_a_real_ct_series_is_at_most_three_percent(
    tmp_path: Path, shared_data: Path
) -> None:
    """The 1/8 view of all slices, beside the lossless bytes of the same series."""
    store = Store(tmp_path)
    files = sorted((shared_data / "bench" / "ct_philips_std_1mm_140").rglob("*.dcm"))
    series = store.prepare(
        [store.add(path.read_bytes()) for path in files], chunk_bytes=16 * 1024 * 1024
    )
    pack = store.open(series)
    frames = []
    for low in pack.low_resolution():
        instance = pack.instance(low.sop_instance_uid)
        assert instance.low_halvings == 3
        pixels = htj2k.decode_frame(low.data, skip_resolutions=3)
        frames.append(
            OverviewFrame(low.sop_instance_uid, low.frame_number, instance.bits_stored, pixels)
        )
    data = encode_overview(frames, level=3)
    assert len(frames) == len(files)
    assert len(data) <= 0.03 * sum(one.prepared_bytes for one in series.instances)
    level, decoded = decode_overview(data)
    assert level == 3
    for one, other in zip(frames, decoded, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
