"""Any picture of any depth, shape, sign and kind survives the whole way, or nothing is prepared.

Received, described, planned, prepared, published; then the pack's instance in the eyes of decoders
that share no code with raypacs. `test_forms_depths.py` has the same of the codecs alone.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent import OPENJPEG_BITS, openjpeg_frames, pydicom_frames
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from rle.utils import encode_pixel_data
from stored_series import Store, image, part10

from raypacs import dicom
from raypacs.codec import htj2k, registry
from raypacs.codec.wavelet import approximation
from raypacs.records import PreparedInstance
from raypacs.storage.pack import Pack

MOST_SIDE = 70
LITTLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Drawn:
    """Samples (frames x rows x columns [x 3]) and the header that says what they are."""

    frames: np.ndarray = field(repr=False)
    depth: int
    signed: bool
    syntax: str
    elements: dict[str, Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Tiers for all examples."""
    return Store(tmp_path_factory.mktemp("store"))


def _filled(draw: st.DrawFn, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Return noise, a constant, only the extremes, or a ramp, over any part of a range."""
    kind = draw(st.sampled_from(("noise", "constant", "extremes", "ramp")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    first, last = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    if kind == "constant":
        return np.full(shape, first, np.int64)
    if kind == "extremes":
        return rng.choice(np.array([low, high]), shape)
    if kind == "ramp":
        return first + np.arange(int(np.prod(shape))).reshape(shape) % (last - first + 1)
    return rng.integers(first, last, shape, np.int64, endpoint=True)


@st.composite
def pictures(draw: st.DrawFn) -> Drawn:
    """Grey samples of 1 to 32 bits, colour of up to 16, in every uncompressed syntax and RLE.

    Deeper colour is copied: only its encoder's own library would read it.
    """
    colour = draw(st.booleans())
    depth, signed = draw(st.integers(1, 16 if colour else 32)), draw(st.booleans())
    cell = draw(st.sampled_from([size for size in (1, 2, 4) if 8 * size >= depth]))
    shape = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, MOST_SIDE)),
        draw(st.integers(1, MOST_SIDE)),
        *((3,) if colour else ()),
    )
    half = 1 << (depth - 1)
    low, high = (-half, half - 1) if signed else (0, 2 * half - 1)
    frames = _filled(draw, shape, low, high).astype(f"{'i' if signed else 'u'}{cell}")
    elements: dict[str, Any] = {
        "PhotometricInterpretation": draw(st.sampled_from(COLOUR if colour else GREY))
    }
    syntaxes = list(LITTLE)
    if cell == 2:
        syntaxes.append(ExplicitVRBigEndian)
    syntax = draw(st.sampled_from(syntaxes))
    if colour and draw(st.booleans()):
        elements["PlanarConfiguration"] = 1
    return Drawn(frames, depth, signed, syntax, elements)


def _dataset(drawn: Drawn) -> Dataset:
    frames = drawn.frames
    if drawn.elements.get("PlanarConfiguration"):
        frames = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
    dataset = image(drawn.frames, bits_stored=drawn.depth, transfer_syntax=drawn.syntax)
    data = frames.astype(frames.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if frames.dtype.itemsize > 1 else "OB"
    for keyword, value in drawn.elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _prepare(store: Store, dataset: Dataset) -> tuple[PreparedInstance, Pack]:
    """Send one instance through, in a series of its own."""
    dataset.SeriesInstanceUID = f"1.2.3.{next(_numbers)}"
    series = store.prepare([store.add(part10(dataset))])
    (one,) = series.instances
    return one, store.open(series)


def _native(pack: Pack, one: PreparedInstance) -> bytes:
    pieces = pack.part10(one.sop_instance_uid, dicom.EXPLICIT_VR_LE, registry.native_bytes)
    return b"".join(pieces)


@settings(max_examples=150, deadline=None)
@given(drawn=pictures())
def test_any_integer_picture_survives_the_whole_way(store: Store, drawn: Drawn) -> None:
    one, pack = _prepare(store, _dataset(drawn))
    assert one.form == "htj2k", one.reason
    assert one.lossless_proven
    seen = pydicom_frames(_native(pack, one))
    assert seen is not None
    assert np.array_equal(seen, drawn.frames)
    stored = pydicom.dcmread(io.BytesIO(b"".join(pack.part10(one.sop_instance_uid))))
    assert stored.BitsStored == drawn.depth
    assert stored.HighBit == drawn.depth - 1
    assert stored.PixelRepresentation == int(drawn.signed)
    for number, frame in enumerate(drawn.frames, 1):
        code = pack.read_frame(one.sop_instance_uid, number)
        header = htj2k.read_main_header(code)
        assert set(header.depths) == {drawn.depth}
        assert header.signed is drawn.signed
        assert header.colour_transform is (stored.PhotometricInterpretation == "YBR_RCT")
        if drawn.depth <= OPENJPEG_BITS:
            for decoded in openjpeg_frames(code):
                assert np.array_equal(decoded.reshape(frame.shape), frame)


@settings(max_examples=60, deadline=None)
@given(drawn=pictures())
def test_what_was_rle_is_what_it_was_before(store: Store, drawn: Drawn) -> None:
    plain = Drawn(drawn.frames, drawn.depth, drawn.signed, RLELossless, {})
    dataset = _dataset(plain)
    encoded = [encode_pixel_data(frame.tobytes(), dataset, "<") for frame in drawn.frames]
    dataset.PixelData = encapsulate(encoded)
    dataset["PixelData"].VR = "OB"
    one, pack = _prepare(store, dataset)
    assert one.form == "htj2k", one.reason
    seen = pydicom_frames(_native(pack, one))
    assert seen is not None
    assert np.array_equal(seen, drawn.frames)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, MOST_SIDE), st.integers(1, MOST_SIDE)),
    bits=st.sampled_from((32, 64)),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(("patterns", "smooth", "constant", "special")),
)
def test_any_floating_point_picture_survives_bit_by_bit(
    store: Store, shape: tuple[int, int, int], bits: int, seed: int, kind: str
) -> None:
    """Patterns: every NaN with its payload, every denormal; what a proof must not let pass."""
    rng = np.random.default_rng(seed)
    word, real = np.dtype(f"u{bits // 8}"), np.dtype(f"f{bits // 8}")
    if kind == "patterns":
        frames = rng.integers(0, np.iinfo(word).max, shape, word, endpoint=True).view(real)
    elif kind == "special":
        values = [0.0, -0.0, np.inf, -np.inf, np.nan, np.finfo(real).tiny / 4, np.finfo(real).max]
        frames = rng.choice(np.array(values, real), shape)
    elif kind == "smooth":
        frames = np.cumsum(rng.normal(0, 1, shape), axis=2).astype(real)
    else:
        frames = np.full(shape, rng.normal(), real)
    dataset = image(np.zeros((1, 1, 1), np.uint8))
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated = bits
    name = "FloatPixelData" if bits == 32 else "DoubleFloatPixelData"
    setattr(dataset, name, frames.tobytes())
    one, pack = _prepare(store, dataset)
    assert one.form == "wavelet", one.reason
    again = pydicom.dcmread(io.BytesIO(_native(pack, one)))
    assert again[name].value == frames.tobytes()


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, MOST_SIDE), st.integers(1, MOST_SIDE)),
    seed=st.integers(0, 2**32),
    share=st.sampled_from((0.0, 0.01, 0.5, 1.0)),
)
def test_any_picture_of_single_bits_survives(
    store: Store, shape: tuple[int, int, int], seed: int, share: float
) -> None:
    """Frames that begin within a byte, too (PS3.5 section 8.1.1)."""
    frames = (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)
    dataset = image(frames)
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit = 0
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    dataset.PixelData = packed + b"\0" * (len(packed) % 2)
    dataset["PixelData"].VR = "OB"
    one, pack = _prepare(store, dataset)
    assert one.form == "bits", one.reason
    seen = pydicom_frames(_native(pack, one))
    assert seen is not None
    assert np.array_equal(seen, frames)


@pytest.mark.parametrize("bits", [16, 24, 29, 30, 31, 32])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", ["box", "noise", "dose"])
def test_low_resolutions_do_not_wrap_at_any_depth(
    kind: str, samples: int, signed: bool, bits: int
) -> None:
    """A dose of 32 bits on a background of zeros undershoots; PyWavelets says by how much."""
    side, top = 130, (1 << bits) - 1
    y, x = np.mgrid[:side, :side]
    if kind == "box":
        plane = np.where((abs(y - 40) < 20) & (abs(x - 50) < 20), top, 0)
    elif kind == "noise":
        plane = np.random.default_rng(bits).integers(0, top, (side, side), endpoint=True)
    else:
        peak = np.exp(-((y - 50) ** 2 + (x - 50) ** 2) / 300)
        plane = np.maximum(0, top / 4000 * peak - top / 400_000).astype(np.int64)
    low = -(1 << (bits - 1)) if signed else 0
    frame = np.dstack([plane, plane[::-1], plane.T][:samples]) + low
    cell = next(size for size in (1, 2, 4) if 8 * size >= bits)
    frame = frame.astype(f"{'i' if signed else 'u'}{cell}")
    stream = htj2k.encode_frame(
        frame if samples == 3 else frame[:, :, 0],
        bits_stored=bits,
        signed=signed,
        colour_transform=samples == 3,
    )
    planes = [frame[:, :, n].astype(float) for n in range(samples)]
    for halvings in range(1, 4):
        planes = [approximation(plane) for plane in planes]
        small = htj2k.decode_frame(stream.data, skip_resolutions=halvings)
        wanted = np.dstack(planes).clip(low, low + top)
        # Above 30 bits the lowest one is left out, to have room for what is outside the range.
        allowed = 14 if bits > 30 else 7
        assert np.abs(np.atleast_3d(small) - wanted).max() < allowed
