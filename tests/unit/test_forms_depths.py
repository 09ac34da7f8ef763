"""Any array of any depth, shape and sign survives, and the codestream says what the header says."""

from __future__ import annotations

import imagecodecs
import numpy as np
import openjpeg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raypacs import dicom
from raypacs.codec import bits, floats, htj2k, registry
from raypacs.codec.pixel_layout import PixelLayout, sample_values
from raypacs.errors import UnsupportedPixels
from raypacs.storage.pack_format import PackInstance

DEEPEST_OF_OPENJPEG = 16
MOST_SIDE = 150


def ends(depth: int, signed: bool) -> tuple[int, int]:
    half = 1 << (depth - 1)
    return (-half, half - 1) if signed else (0, 2 * half - 1)


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, int, bool]:
    """(frame, depth, signed): values over the whole range of the depth, in any cell that holds it.

    Random bytes for the body, so that shrinking is quick; a few values drawn one by one.
    """
    depth, signed = draw(st.integers(1, 32)), draw(st.booleans())
    low, high = ends(depth, signed)
    cells = [size for size in (1, 2, 4) if 8 * size >= depth]
    kind = f"{'i' if signed else 'u'}{draw(st.sampled_from(cells))}"
    shape: tuple[int, ...] = (draw(st.integers(1, MOST_SIDE)), draw(st.integers(1, MOST_SIDE)))
    if draw(st.booleans()):
        shape = (*shape, 3)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.integers(low, high))
    frame = rng.integers(min(low, top), max(low, top), shape, np.int64, endpoint=True).astype(kind)
    flat = frame.reshape(-1)
    for value in draw(st.lists(st.integers(low, high), max_size=5)):
        flat[draw(st.integers(0, flat.size - 1))] = value
    return frame, depth, signed


@settings(max_examples=250, deadline=None)
@given(samples(), st.booleans())
def test_any_array_survives_at_its_depth(
    drawn: tuple[np.ndarray, int, bool], transform: bool
) -> None:
    frame, depth, signed = drawn
    transform = transform and frame.ndim == 3
    stream = htj2k.encode_frame(frame, bits_stored=depth, signed=signed, colour_transform=transform)
    header = htj2k.read_main_header(stream.data)
    assert header.depths == (depth,) * (3 if frame.ndim == 3 else 1)
    assert header.signed is signed
    assert header.reversible
    assert header.colour_transform is transform
    assert (header.rows, header.columns) == frame.shape[:2]
    assert np.array_equal(htj2k.decode_frame(stream.data), frame)
    assert htj2k.transfer_syntax(stream.data) == dicom.HTJ2K_LOSSLESS_RPCL
    base = max(-(-side >> stream.levels) for side in frame.shape[:2])
    assert base <= 64
    assert len(header.tile_part_lengths) == stream.levels + 1
    assert stream.resolution_ends[-1] <= len(stream.data)
    if depth <= DEEPEST_OF_OPENJPEG:
        decoded = imagecodecs.jpeg2k_decode(bytes(stream.data))
        assert np.array_equal(decoded.reshape(frame.shape), frame)


@settings(max_examples=60, deadline=None)
@given(samples(), st.integers(0, 8))
def test_no_low_resolution_leaves_the_range_of_its_depth(
    drawn: tuple[np.ndarray, int, bool], skip: int
) -> None:
    frame, depth, signed = drawn
    stream = htj2k.encode_frame(frame, bits_stored=depth, signed=signed)
    skip = min(skip, stream.levels)
    prefix = stream.data[: stream.resolution_ends[stream.levels - skip]]
    small = htj2k.decode_frame(prefix, skip_resolutions=skip)
    low, high = ends(depth, signed)
    assert low <= int(small.min())
    assert int(small.max()) <= high
    assert small.shape[:2] == tuple(-(-side >> skip) for side in frame.shape[:2])


@pytest.mark.parametrize("transform", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("depth", range(1, 33))
def test_every_depth_says_bits_stored(
    depth: int, signed: bool, count: int, transform: bool
) -> None:
    """Both ends of every depth, one and three components, with and without the transform."""
    transform = transform and count == 3
    low, high = ends(depth, signed)
    size = next(size for size in (1, 2, 4) if 8 * size >= depth)
    shape = (19, 23) if count == 1 else (19, 23, 3)
    rng = np.random.default_rng(depth)
    frame = rng.integers(low, high, shape, np.int64, endpoint=True)
    frame[0], frame[1] = low, high
    frame = frame.astype(f"{'i' if signed else 'u'}{size}")
    stream = htj2k.encode_frame(frame, bits_stored=depth, signed=signed, colour_transform=transform)
    header = htj2k.read_main_header(stream.data)
    assert (header.depths, header.signed) == ((depth,) * count, signed)
    assert np.array_equal(htj2k.decode_frame(stream.data), frame)
    if depth <= DEEPEST_OF_OPENJPEG:
        assert np.array_equal(imagecodecs.jpeg2k_decode(bytes(stream.data)), frame)
        assert np.array_equal(openjpeg.decode(bytes(stream.data)), frame)
        return
    # As docs/pack-format.md says: if this fails, OpenJPEG has learned it.
    with pytest.raises(imagecodecs.Jpeg2kError):
        imagecodecs.jpeg2k_decode(bytes(stream.data))


@st.composite
def layouts(draw: st.DrawFn) -> PixelLayout:
    """Any place of a sample in its cell."""
    allocated = draw(st.sampled_from((8, 16, 32)))
    stored = draw(st.integers(1, allocated))
    return PixelLayout(
        transfer_syntax_uid=dicom.EXPLICIT_VR_LE,
        rows=draw(st.integers(1, 9)),
        columns=draw(st.integers(1, 9)),
        frames=1,
        samples=1,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=draw(st.integers(stored - 1, allocated - 1)),
        signed=draw(st.booleans()),
        photometric="MONOCHROME2",
        planar=False,
    )


@settings(max_examples=300, deadline=None)
@given(layouts(), st.data())
def test_a_sample_has_one_value_wherever_it_lies_in_its_cell(
    layout: PixelLayout, data: st.DataObject
) -> None:
    layout.check()
    depth, shift, signed = layout.bits_stored, layout.shift, layout.signed
    low, high = ends(depth, signed)
    values = data.draw(hnp.arrays(np.int64, layout.shape, elements=st.integers(low, high)))
    extended = signed and data.draw(st.booleans())
    mask = (1 << layout.bits_allocated - shift if extended else 1 << depth) - 1
    cells = ((values & mask) << shift).astype(f"u{layout.bits_allocated // 8}").view(layout.dtype)
    found = sample_values(cells, layout)
    assert found.dtype == layout.dtype
    assert np.array_equal(found, values)


@settings(max_examples=300, deadline=None)
@given(layouts(), st.data())
def test_no_bit_of_a_cell_is_lost_unseen(layout: PixelLayout, data: st.DataObject) -> None:
    """Random cells are refused, or their values give the cells again but for filled-in signs."""
    cells = data.draw(hnp.arrays(f"u{layout.bits_allocated // 8}", layout.shape))
    try:
        values = sample_values(cells.view(layout.dtype), layout)
    except UnsupportedPixels:
        return
    low, high = ends(layout.bits_stored, layout.signed)
    assert low <= int(values.min())
    assert int(values.max()) <= high
    wide = values.astype(np.int64) << layout.shift
    whole = wide & ((1 << layout.bits_allocated) - 1)
    field = wide & ((1 << layout.high_bit + 1) - 1)
    assert np.all((cells == whole) | (cells == field))


def instance_of(form: str, frame: np.ndarray, allocated: int) -> PackInstance:
    rows, columns = frame.shape
    return PackInstance(
        "1", "2", form, rows=rows, columns=columns, samples=1, bits_allocated=allocated
    )


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.dtype(np.uint32), np.dtype(np.uint64)]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    )
)
def test_any_bits_of_floating_point_survive(pattern: np.ndarray) -> None:
    size = pattern.itemsize
    frame = pattern.view(f"f{size}")
    code = floats.encode_frame(frame)
    instance = instance_of("wavelet", frame, 8 * size)
    assert floats.same_bits(registry.decode(code, instance), frame)
    assert registry.native_bytes(code, instance) == frame.astype(f"<f{size}").tobytes()
    for halvings in (0, 1, 3):
        view = floats.decode_low(floats.encode_low(frame, halvings))
        wanted = floats.reduced(frame, halvings)
        assert view.pixels.shape == tuple(-(-side >> halvings) for side in frame.shape)
        assert np.all(np.abs(view.pixels - wanted) <= view.error)


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
        elements=st.integers(0, 1),
    ),
    st.integers(0, 7),
)
def test_any_single_bits_survive(frame: np.ndarray, first_bit: int) -> None:
    rows, columns = frame.shape
    code = bits.encode_frame(frame)
    instance = instance_of("bits", frame, 1)
    assert np.array_equal(registry.decode(code, instance), frame)
    assert registry.native_bytes(code, instance) == bits.packed(frame)
    stream = np.concatenate([np.ones(first_bit, np.uint8), frame.reshape(-1)])
    packed = np.packbits(stream, bitorder="little").tobytes()
    found = bits.unpacked(packed, rows=rows, columns=columns, first_bit=first_bit)
    assert np.array_equal(found, frame)


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("cut", [0, 5, 27, 28, 40, -1])
def test_damaged_floating_point_is_refused(kind: str, cut: int) -> None:
    rng = np.random.default_rng(0)
    shape = (20, 30)
    smooth = np.add.outer(np.arange(20), np.arange(30)).astype(kind)
    for frame in (rng.normal(size=shape).astype(kind), smooth, np.zeros(shape, kind)):
        code = floats.encode_frame(frame)
        instance = instance_of("wavelet", frame, 8 * frame.itemsize)
        with pytest.raises(UnsupportedPixels):
            registry.decode(code[:cut], instance)
        flipped = bytearray(code)
        flipped[4] ^= 1  # its CRC-32
        with pytest.raises(UnsupportedPixels, match="CRC-32"):
            registry.decode(flipped, instance)


def test_every_kind_of_floating_point_code_is_in_use() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    smooth = (np.sin(5 * x) * np.cos(4 * y)).astype(np.float32)
    steps = np.rint(smooth * 500).astype(np.float32) * np.float32(0.001)
    wild = rng.integers(0, 2**32, (128, 128), np.uint32).view(np.float32)
    frames = {"smooth": smooth, "steps": steps, "wild": wild}
    kinds = {name: floats.encode_frame(frame)[0] for name, frame in frames.items()}
    assert kinds == {"wild": 0, "steps": 1, "smooth": 2}


@pytest.mark.parametrize(
    "frame", [np.zeros((3, 3), np.float16), np.zeros((3, 3, 3), np.float32), np.zeros((3, 3), "u4")]
)
def test_what_is_no_floating_point_frame_is_refused(frame: np.ndarray) -> None:
    with pytest.raises(UnsupportedPixels):
        floats.encode_frame(frame)


def test_damaged_single_bits_are_refused() -> None:
    frame = np.ones((30, 30), np.uint8)
    instance = instance_of("bits", frame, 1)
    for data in (b"", b"rubbish", bits.encode_frame(frame)[:5], bits.encode_frame(frame[:5])):
        with pytest.raises(UnsupportedPixels):
            registry.decode(data, instance)
