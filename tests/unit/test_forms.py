"""Pixel kinds by the real way: described, planned, prepared, published, and read from the pack."""

from __future__ import annotations

import io
import resource
from pathlib import Path

import imagecodecs
import numpy as np
import pack_reader
import pydicom
import pytest
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from stored_series import Store, image, noise, part10

from raypacs.codec import registry
from raypacs.records import PreparedSeries
from raypacs.work import frame_reader

EXPLICIT = "1.2.840.10008.1.2.1"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def frames_of(store: Store, series: PreparedSeries) -> np.ndarray:
    """Decode all frames of a series' only instance."""
    (one,) = series.instances
    pack = store.open(series)
    instance = pack.instance(one.sop_instance_uid)
    return np.stack(
        [
            registry.decode(pack.read_frame(one.sop_instance_uid, n), instance)
            for n in range(1, one.frames + 1)
        ]
    )


def native_of(store: Store, series: PreparedSeries) -> pydicom.Dataset:
    """Rebuild the instance in Explicit VR Little Endian from the pack."""
    uid = series.instances[0].sop_instance_uid
    pieces = store.open(series).part10(uid, EXPLICIT, registry.native_bytes)
    return pydicom.dcmread(io.BytesIO(b"".join(pieces)))


def prepared_of(store: Store, series: PreparedSeries) -> pydicom.Dataset:
    uid = series.instances[0].sop_instance_uid
    return pydicom.dcmread(io.BytesIO(b"".join(store.open(series).part10(uid))))


def only(series: PreparedSeries) -> tuple[str, str]:
    (one,) = series.instances
    return one.form, one.reason


# ---- High Bit and unused bits -------------------------------------------------------------------
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]
)
@pytest.mark.parametrize("high_bit", [12, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_samples_above_the_lowest_bit_are_shifted_down(
    store: Store, signed: bool, high_bit: int, syntax: str
) -> None:
    values = noise(2, 30, 40).astype(np.int32) - (2048 if signed else 0)
    cells = ((values & 0xFFF) << (high_bit - 11)).astype(np.uint16)
    dataset = image(cells, bits_stored=12, HighBit=high_bit, PixelRepresentation=int(signed))
    if syntax == RLELossless:
        dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    series = store.prepare([store.add(part10(dataset))])
    assert only(series) == ("htj2k", "")
    found = frames_of(store, series)
    assert found.dtype.kind == ("i" if signed else "u")
    assert np.array_equal(found, values)
    for rebuilt in (native_of(store, series), prepared_of(store, series)):
        assert (rebuilt.BitsStored, rebuilt.HighBit) == (12, 11)
        assert np.array_equal(rebuilt.pixel_array, values)
    metadata = store.open(series).metadata(series.instances[0].sop_instance_uid)
    assert metadata["00280102"]["Value"] == [11]


@pytest.mark.parametrize("unused", [0x000F, 0x8000])
def test_data_in_unused_bits_around_a_shifted_sample_is_not_lost(store: Store, unused: int) -> None:
    cells = (noise(1, 20, 20, bits=8).astype(np.uint16)) << 4
    cells[0, 3, 4] |= unused
    source = part10(image(cells, bits_stored=8, HighBit=11))
    series = store.prepare([store.add(source)])
    form, reason = only(series)
    assert form == "copied"
    assert "unused bits below" in reason or "outside 8 bits" in reason
    assert store.open(series).read_object(series.instances[0].sop_instance_uid) == source


def test_what_high_bit_means_in_a_codestream_nobody_can_say(store: Store) -> None:
    frame = noise(1, 20, 20)[0]
    dataset = image(frame[None], bits_stored=12, HighBit=15, transfer_syntax=JPEGLSLossless)
    dataset.PixelData = pydicom.encaps.encapsulate([imagecodecs.jpegls_encode(frame)])
    assert only(store.prepare([store.add(part10(dataset))]))[0] == "copied"


@pytest.mark.parametrize("filled", ["zeros", "signs", "some of each"])
def test_signed_samples_with_unused_bits_have_the_same_values(store: Store, filled: str) -> None:
    values = noise(1, 30, 40).astype(np.int16) - 2048
    cells = values.view(np.uint16).copy()
    zeros = {"zeros": 1, "signs": 0, "some of each": np.arange(40) % 2}[filled]
    cells[...] = np.where(zeros, cells & 0xFFF, cells)
    dataset = image(cells, bits_stored=12, PixelRepresentation=1)
    series = store.prepare([store.add(part10(dataset))])
    assert only(series) == ("htj2k", "")
    assert np.array_equal(frames_of(store, series), values)
    assert np.array_equal(dataset.pixel_array, values[0]), "pydicom reads the same"
    assert np.array_equal(prepared_of(store, series).pixel_array, values[0])
    assert np.array_equal(native_of(store, series).pixel_array, values[0])


def test_an_overlay_in_signed_samples_is_not_taken_for_signs(store: Store) -> None:
    cells = (noise(1, 30, 40).astype(np.int16) - 2048).view(np.uint16) & 0xFFF
    cells[0, 2, 3] |= 0x4000
    dataset = image(cells, bits_stored=12, PixelRepresentation=1)
    assert only(store.prepare([store.add(part10(dataset))])) == (
        "copied",
        "values outside 12 bits stored",
    )


@pytest.mark.parametrize("surplus", [b"\0" * 10, b"\0" * 9 + b"\1"])
def test_bytes_after_the_last_frame_are_padding_only_if_they_are_zero(
    store: Store, surplus: bytes
) -> None:
    frames = noise(2, 8, 8)
    dataset = image(frames)
    dataset.PixelData += surplus
    form, reason = only(store.prepare([store.add(part10(dataset))]))
    assert form == ("htj2k" if not any(surplus) else "copied")
    assert reason == ("" if form == "htj2k" else "10 bytes of Pixel Data after the last frame")


# ---- colour -------------------------------------------------------------------------------------
def test_subsampled_chroma_is_repeated(store: Store) -> None:
    luma = np.stack([noise(1, 12, 16, bits=8, seed=n)[0] for n in range(3)])
    chroma = np.stack([noise(2, 12, 8, bits=8, seed=9 + n) for n in range(3)])
    pairs = np.stack([luma[:, :, ::2], luma[:, :, 1::2], chroma[:, 0], chroma[:, 1]], axis=-1)
    dataset = image(np.zeros((3, 12, 16, 3), np.uint8), PhotometricInterpretation="YBR_FULL_422")
    dataset.PixelData = np.ascontiguousarray(pairs).tobytes()
    series = store.prepare([store.add(part10(dataset))])
    assert only(series) == ("htj2k", "")
    found = frames_of(store, series)
    assert np.array_equal(found[..., 0], luma)
    for number in (0, 1):
        assert np.array_equal(found[..., 1 + number], np.repeat(chroma[:, number], 2, axis=-1))
    reference = pydicom.pixels.pixel_array(dataset, raw=True)
    assert np.array_equal(found, reference)
    for rebuilt in (native_of(store, series), prepared_of(store, series)):
        assert rebuilt.PhotometricInterpretation == "YBR_FULL"
        assert rebuilt.PlanarConfiguration == 0
        assert np.array_equal(pydicom.pixels.pixel_array(rebuilt, raw=True), reference)
    uid = series.instances[0].sop_instance_uid
    assert store.open(series).metadata(uid)["00280004"]["Value"] == ["YBR_FULL"]


@pytest.mark.parametrize("changes", [{"Columns": 15}, {"PlanarConfiguration": 1}])
def test_subsampled_chroma_of_no_pairs_is_copied(store: Store, changes: dict) -> None:
    dataset = image(np.zeros((1, 12, 16, 3), np.uint8), **changes)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    assert only(store.prepare([store.add(part10(dataset))]))[0] == "copied"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_grey_keeps_its_photometric_interpretation(store: Store, photometric: str) -> None:
    frames = noise(1, 30, 31)
    dataset = image(frames, PhotometricInterpretation=photometric, PixelPaddingValue=0)
    series = store.prepare([store.add(part10(dataset))])
    rebuilt = prepared_of(store, series)
    assert rebuilt.PhotometricInterpretation == photometric
    assert rebuilt.PixelPaddingValue == 0
    assert np.array_equal(rebuilt.pixel_array, frames[0])


# ---- samples that are names ---------------------------------------------------------------------
def labels(count: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, (count, rows, columns), np.uint8)


@pytest.mark.parametrize("size", [(200, 150), (40, 30)])
@pytest.mark.parametrize(
    "changes",
    [
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"SOPClassUID": LABEL_MAP},
        {"PixelPresentation": "COLOR", "SOPClassUID": ENHANCED_MR},
        {
            "PixelPresentation": "MIXED",
            "SOPClassUID": ENHANCED_MR,
            "transfer_syntax": ImplicitVRLittleEndian,
        },
    ],
)
def test_low_resolutions_of_names_are_picked_out(
    store: Store, changes: dict, size: tuple[int, int]
) -> None:
    frames = labels(3, *size)
    series = store.prepare([store.add(part10(image(frames, **changes)))])
    assert only(series) == ("htj2k", "")
    (one,) = series.instances
    assert one.transfer_syntax_uid == "1.2.840.10008.1.2.4.201"
    assert np.array_equal(frames_of(store, series), frames)
    assert np.array_equal(prepared_of(store, series).pixel_array, frames)
    pack = store.open(series)
    instance = pack.instance(one.sop_instance_uid)
    assert instance.low_own
    step = 1 << instance.low_halvings
    assert max(size) / step <= 64
    independent = pack_reader.PackFile(store.web.read(series.pack_path))
    for (low, rest), frame in zip(independent.frames(one.sop_instance_uid), frames, strict=True):
        assert np.array_equal(imagecodecs.jpeg2k_decode(low), frame[::step, ::step])
        assert np.array_equal(imagecodecs.jpeg2k_decode(rest), frame)
    for halvings in range(9):
        small, done = registry.decode_reduced(
            pack.read_low(one.sop_instance_uid, 2),
            lambda: pack.read_rest(one.sop_instance_uid, 2),
            instance,
            halvings,
        )
        assert done == halvings
        assert np.array_equal(small, frames[1][:: 1 << halvings, :: 1 << halvings])


def test_grey_without_a_palette_is_averaged(store: Store) -> None:
    dataset = image(noise(1, 100, 100), PixelPresentation="MONOCHROME", SOPClassUID=ENHANCED_MR)
    series = store.prepare([store.add(part10(dataset))])
    assert not store.open(series).instance(series.instances[0].sop_instance_uid).low_own


# ---- single bits --------------------------------------------------------------------------------
def masks(count: int, rows: int, columns: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return np.stack([(x * x + y * y < (n + 1) / count).astype(np.uint8) for n in range(count)])


def segmentation(frames: np.ndarray, syntax: str = EXPLICIT, vr: str = "OB") -> bytes:
    packed = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    packed += b"\0" * (len(packed) % 2)
    dataset = image(frames, transfer_syntax=syntax, bits_stored=1)
    dataset.BitsAllocated, dataset.HighBit = 1, 0
    if syntax == ExplicitVRBigEndian and vr == "OW":
        packed = np.frombuffer(packed, "u2").byteswap().tobytes()
    dataset.PixelData = packed
    dataset["PixelData"].VR = vr
    return part10(dataset)


@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (9, 1, 1), (3, 3, 2), (5, 17, 13), (4, 65, 130), (3, 128, 128)]
)
def test_single_bits_come_back_bit_by_bit(
    store: Store, shape: tuple[int, int, int], syntax: str, vr: str
) -> None:
    frames = masks(*shape)
    source = segmentation(frames, syntax, vr)
    series = store.prepare([store.add(source)], chunk_bytes=3000)
    assert only(series) == ("bits", "")
    assert np.array_equal(frames_of(store, series), frames)
    rebuilt = native_of(store, series)
    expected = np.packbits(frames.reshape(-1), bitorder="little").tobytes()
    assert rebuilt.PixelData == expected + b"\0" * (len(expected) % 2)
    assert (rebuilt.BitsAllocated, rebuilt.BitsStored, rebuilt.HighBit) == (1, 1, 0)
    assert np.array_equal(rebuilt.pixel_array.reshape(shape), frames)
    if syntax == ExplicitVRLittleEndian:
        begin = source.index(b"\x08\0\x16\0UI")
        whole = store.open(series).part10(
            series.instances[0].sop_instance_uid, EXPLICIT, registry.native_bytes
        )
        assert b"".join(whole).endswith(source[begin:])


def test_low_resolutions_of_single_bits_are_picked_out(store: Store) -> None:
    frames = masks(3, 200, 150)
    series = store.prepare([store.add(segmentation(frames))])
    (one,) = series.instances
    pack = store.open(series)
    instance = pack.instance(one.sop_instance_uid)
    assert (instance.low_own, instance.low_halvings) == (True, 2)
    for halvings in range(9):
        small, _ = registry.decode_reduced(
            pack.read_low(one.sop_instance_uid, 3),
            lambda: pack.read_rest(one.sop_instance_uid, 3),
            instance,
            halvings,
        )
        assert np.array_equal(small, frames[2][:: 1 << halvings, :: 1 << halvings])


def test_bits_after_the_last_frame_are_not_lost(store: Store) -> None:
    data = bytearray(segmentation(masks(1, 3, 3)))
    data[-1] |= 0x80
    form, reason = only(store.prepare([store.add(bytes(data))]))
    assert (form, reason) == ("copied", "bits after the last frame carry data")


# ---- floating point -----------------------------------------------------------------------------
def parametric_map(frames: np.ndarray, syntax: str = EXPLICIT) -> bytes:
    """An instance with Float or Double Float Pixel Data around ``frames``."""
    dataset = image(np.zeros(frames.shape, np.uint8), transfer_syntax=syntax)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    dataset.BitsAllocated = 8 * frames.itemsize
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = frames.view(f"u{frames.itemsize}").astype(f"{order}u{frames.itemsize}").tobytes()
    if frames.itemsize == 4:
        dataset.FloatPixelData = data
    else:
        dataset.DoubleFloatPixelData = data
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def float_frames(kind: str, shape: tuple[int, ...] = (3, 70, 90)) -> np.ndarray:
    """Frames with everything a floating-point number can be."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 3, shape).astype(kind)
    flat = values.reshape(-1)
    special = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(kind).max, np.finfo(kind).tiny]
    flat[: len(special)] = special
    flat[20] = np.finfo(kind).smallest_subnormal
    bits = flat.view(f"u{values.itemsize}")
    bits[30] = bits[0] | 0x123  # a NaN with a payload
    bits[31] = (bits[2] | 0x7) & ~np.array(1 << {4: 22, 8: 51}[values.itemsize], bits.dtype)
    return values


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_floating_point_comes_back_bit_by_bit(store: Store, syntax: str, kind: str) -> None:
    frames = float_frames(kind)
    series = store.prepare([store.add(parametric_map(frames, syntax))], chunk_bytes=20_000)
    assert only(series) == ("wavelet", "")
    assert frames_of(store, series).tobytes() == frames.tobytes()
    rebuilt = native_of(store, series)
    keyword = "FloatPixelData" if kind == "f4" else "DoubleFloatPixelData"
    vr = {"f4": "OF", "f8": "OD"}[kind]
    element = rebuilt[keyword]
    assert (element.VR, element.value) == (vr, frames.tobytes())
    assert "PixelData" not in rebuilt
    assert "BitsStored" not in rebuilt
    instance = store.open(series).instance(series.instances[0].sop_instance_uid)
    assert (instance.bits_allocated, instance.bits_stored) == (frames.itemsize * 8, 0)


def test_the_source_of_a_map_comes_back_whole(store: Store) -> None:
    source = parametric_map(float_frames("f4"))
    series = store.prepare([store.add(source)])
    uid = series.instances[0].sop_instance_uid
    whole = b"".join(store.open(series).part10(uid, EXPLICIT, registry.native_bytes))
    assert whole.endswith(source[source.index(b"\x08\0\x16\0UI") :])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"BitsAllocated": 64}, "fewer pixel bytes"),
        ({"BitsAllocated": 16}, "16 bits allocated without Bits Stored"),
        ({"Rows": 0}, "no Rows or Columns"),
        ({"SamplesPerPixel": 3}, "floating-point samples in colour or compressed"),
    ],
)
def test_maps_that_contradict_their_header_are_copied(
    store: Store, changes: dict, reason: str
) -> None:
    dataset = pydicom.dcmread(io.BytesIO(parametric_map(float_frames("f4", (1, 9, 9)))))
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    form, why = only(store.prepare([store.add(out.getvalue())]))
    assert form == "copied"
    assert reason in why


def test_integers_of_64_bits_are_copied(store: Store) -> None:
    dataset = image(np.zeros((1, 4, 4), np.uint32))
    dataset.BitsAllocated = dataset.BitsStored = 64
    dataset.HighBit = 63
    dataset.PixelData = bytes(128)
    assert only(store.prepare([store.add(part10(dataset))])) == ("copied", "64 bits allocated")


# ---- sizes --------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 2), (1, 300), (300, 1), (65, 64)])
def test_odd_and_tiny_frames(store: Store, size: tuple[int, int], dtype: str) -> None:
    frames = np.random.default_rng(2).integers(0, 255, (3, *size)).astype(dtype)
    data = parametric_map(frames) if dtype == "f4" else part10(image(frames))
    series = store.prepare([store.add(data)])
    assert only(series) == ("wavelet" if dtype == "f4" else "htj2k", "")
    assert np.array_equal(frames_of(store, series), frames)
    rebuilt = native_of(store, series)
    assert np.array_equal(rebuilt.pixel_array.reshape(frames.shape), frames)


def test_big_endian_words_with_frames_of_odd_length(store: Store) -> None:
    frames = noise(5, 3, 7, bits=8)
    dataset = image(frames, transfer_syntax=ExplicitVRBigEndian)
    padded = frames.tobytes() + b"\0"
    dataset.PixelData = np.frombuffer(padded, "u2").byteswap().tobytes()
    dataset["PixelData"].VR = "OW"
    series = store.prepare([store.add(part10(dataset))])
    assert only(series) == ("htj2k", "")
    assert np.array_equal(frames_of(store, series), frames)


@pytest.mark.parametrize("kind", ["htj2k", "bits", "wavelet"])
def test_thousands_of_frames_are_prepared_in_chunks(store: Store, kind: str) -> None:
    count = 3000
    frames = np.random.default_rng(0).integers(0, 2, (count, 9, 11), np.uint8)
    data = {
        "htj2k": lambda: part10(image(frames)),
        "bits": lambda: segmentation(frames),
        "wavelet": lambda: parametric_map(frames.astype(np.float32)),
    }[kind]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    series = store.prepare([store.add(data)], chunk_bytes=40_000)
    assert only(series) == (kind, "")
    assert np.array_equal(frames_of(store, series), frames)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 1024  # KiB
    native = native_of(store, series)
    assert np.array_equal(native.pixel_array.reshape(frames.shape), frames)


def test_enhanced_multi_frame_keeps_its_functional_groups(store: Store) -> None:
    frames = noise(40, 33, 44)
    dataset = image(frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1")
    groups = []
    for number in range(40):
        position = pydicom.Dataset()
        position.ImagePositionPatient = [0, 0, number * 1.5]
        item = pydicom.Dataset()
        item.PlanePositionSequence = [position]
        groups.append(item)
    dataset.PerFrameFunctionalGroupsSequence = groups
    series = store.prepare([store.add(part10(dataset))], chunk_bytes=20_000)
    assert only(series) == ("htj2k", "")
    rebuilt = prepared_of(store, series)
    assert rebuilt.PerFrameFunctionalGroupsSequence == dataset.PerFrameFunctionalGroupsSequence
    assert np.array_equal(rebuilt.pixel_array, frames)


def test_tiles_of_a_whole_slide(store: Store) -> None:
    tiles = np.stack([noise(12, 64, 64, bits=8, seed=n) for n in range(3)], axis=-1)
    changes = {"TotalPixelMatrixColumns": 256, "TotalPixelMatrixRows": 192}
    dataset = image(
        tiles, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6", ImageType="DERIVED", **changes
    )
    series = store.prepare([store.add(part10(dataset))], chunk_bytes=50_000)
    assert only(series) == ("htj2k", "")
    assert np.array_equal(frames_of(store, series), tiles)
    assert prepared_of(store, series).TotalPixelMatrixColumns == 256


def test_an_object_of_many_frames_is_walked_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = noise(400, 6, 7)
    dataset = image(frames)
    dataset.compress(RLELossless, generate_instance_uid=False)
    walks: list[int] = []
    walk = frame_reader.frame_fragments

    def counted(*args: object) -> object:
        walks.append(1)
        return walk(*args)

    monkeypatch.setattr(frame_reader, "frame_fragments", counted)
    monkeypatch.setattr(frame_reader, "_walked", [])
    series = store.prepare([store.add(part10(dataset))], chunk_bytes=2000)
    assert only(series) == ("htj2k", "")
    assert len(walks) == 1
    assert np.array_equal(frames_of(store, series), frames)
