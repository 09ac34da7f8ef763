"""The grey pipeline against pydicom's, table by table, and where pydicom does not go."""

from __future__ import annotations

import contextlib

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian

from raypacs.errors import RaypacsError
from raypacs.web.pixels import Picture, read_header
from raypacs.web.rendering import Wanted, Window, render
from raypacs.web.rendering.grey import show_grey, stored_values
from raypacs.web.rendering.luts import Lut, expand_segments, read_entries, read_lut, within


def grey(array: np.ndarray, bits: int = 0, photometric: str = "MONOCHROME2") -> Picture:
    allocated = 8 * array.dtype.itemsize
    return Picture(array, photometric, allocated, bits or allocated, array.dtype.kind == "i")


def header(**values: object) -> Dataset:
    dataset = Dataset()
    for key, value in values.items():
        setattr(dataset, key, value)
    return dataset


def table(descriptor: list[int], data: object, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if min(descriptor) < 0 else "US", descriptor)
    item.add_new("LUTData", vr, data)
    return item


def close_to_pydicom(array: np.ndarray, dataset: Dataset, bits: int) -> None:
    """Compare within one grey level; pydicom's result has the depth of the last table."""
    dataset.PhotometricInterpretation, dataset.BitsStored = "MONOCHROME2", bits
    dataset.PixelRepresentation = 1 if array.dtype.kind == "i" else 0
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    expected = apply_voi_lut(apply_modality_lut(array, dataset), dataset).astype(float)
    last = dataset.get("VOILUTSequence") or dataset.ModalityLUTSequence
    expected *= 255 / ((1 << last[0].LUTDescriptor[2]) - 1)
    shown = show_grey(grey(array, bits), dataset, 1, None)
    assert np.abs(shown - expected).max() <= 1.0


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_voi_tables_agree_with_pydicom(bits: int, signed: bool) -> None:
    rng = np.random.default_rng(bits)
    first = -300 if signed else 300
    # pydicom counts the entries of an 8-bit table in 8 bits.
    count = 256 if bits == 8 else 2000
    data = np.sort(rng.integers(0, 1 << bits, count)).tolist()
    dataset = header(VOILUTSequence=[table([count, first, bits], data)])
    low, high = (-2048, 2048) if signed else (0, 4096)
    high = first + count if bits == 8 else high
    array = rng.integers(low, high, (40, 50)).astype(np.int16 if signed else np.uint16)
    close_to_pydicom(array, dataset, 12)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [-1000, 0, 700])
def test_modality_tables_agree_with_pydicom(bits: int, first: int) -> None:
    rng = np.random.default_rng(7)
    data = rng.integers(0, 1 << bits, 1500).tolist()
    dataset = header(ModalityLUTSequence=[table([1500, first, bits], data)])
    dataset.WindowCenter, dataset.WindowWidth = (1 << bits) / 2, 1 << bits
    array = rng.integers(-2048, 2048, (40, 50)).astype(np.int16)
    close_to_pydicom(array, dataset, 12)


def test_a_modality_table_comes_before_the_window_and_wins_over_the_slope() -> None:
    dataset = header(ModalityLUTSequence=[table([3, 10, 8], [0, 100, 200])], RescaleSlope=9)
    window = Window(100, 200, "linear-exact")
    array = np.array([[0, 10, 11, 12, 99]], np.uint8)
    assert show_grey(grey(array), dataset, 1, window).tolist() == [[0, 0, 128, 255, 255]]


def test_tables_of_a_functional_group() -> None:
    group = header(FrameVOILUTSequence=[header(VOILUTSequence=[table([2, 4, 8], [10, 250])])])
    other = header(FrameVOILUTSequence=[header(WindowCenter=[4, 9], WindowWidth=[2, 9])])
    dataset = header(PerFrameFunctionalGroupsSequence=[group, other])
    array = np.array([[3, 4, 5]], np.uint8)
    assert show_grey(grey(array), dataset, 1, None).tolist() == [[10, 10, 250]]
    assert show_grey(grey(array), dataset, 2, None).tolist() == [[0, 255, 255]]


@pytest.mark.parametrize("written", [63536, -2000])
def test_the_sign_of_a_first_value_is_told_by_what_goes_in(written: int) -> None:
    item = table([4, 0, 16], [0, 1, 2, 3])
    item["LUTDescriptor"].value[1] = written
    lut = read_lut(item, -32768, 32767)
    assert lut is not None
    assert lut.first == -2000
    assert within(written, 0, 65535) == 63536


def test_entries_in_every_form() -> None:
    assert read_entries([1, 2, 3], 3, 8).tolist() == [1, 2, 3]
    assert read_entries([0x0201, 0x0403], 4, 8).tolist() == [1, 2, 3, 4]
    assert read_entries(b"\1\2\3\4", 4, 8).tolist() == [1, 2, 3, 4]
    assert read_entries(b"\2\1\4\3", 4, 8, little=False).tolist() == [1, 2, 3, 4]
    assert read_entries(b"\1\2\3", 3, 8).tolist() == [1, 2, 3]
    assert read_entries(b"\1\0\2\0", 2, 16).tolist() == [1, 2]
    assert read_entries(b"\0\1\0\2", 2, 16, little=False).tolist() == [1, 2]
    assert read_entries([-1, 5], 2, 16).tolist() == [65535, 5]
    assert read_entries(7, 1, 16).tolist() == [7]


def test_damaged_tables_are_passed_over() -> None:
    window = {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    array = np.array([[0, 100, 200]], np.uint8)
    empty = Dataset()
    for key in ("LUTDescriptor", "LUTData"):
        empty.add_new(key, "US", None)
    for item in (Dataset(), empty, table([3, 0], [1, 2, 3])):
        dataset = header(ModalityLUTSequence=[item], VOILUTSequence=[item], **window)
        assert show_grey(grey(array), dataset, 1, None).tolist() == [[0, 128, 255]]


def test_a_table_may_say_fewer_bits_than_it_has() -> None:
    lut = read_lut(table([2, 0, 8], [0, 4095]), 0, 255)
    assert lut is not None
    assert lut.bits == 12


def test_a_table_takes_its_ends_for_what_lies_outside() -> None:
    lut = Lut(5, np.array([7, 8, 9], np.uint16), 8)
    assert lut.apply(np.array([-1e9, 4, 5, 6.4, 7, 8, 1e9])).tolist() == [7, 7, 7, 8, 9, 9, 9]


@pytest.mark.parametrize("written", [63536, -2000])
def test_padding_is_no_part_of_the_range_whatever_its_sign(written: int) -> None:
    array = np.array([[-2000, 0, 50, 100]], np.int16)
    dataset = Dataset()
    dataset.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)
    assert show_grey(grey(array), dataset, 1, None).tolist() == [[0, 0, 128, 255]]


def test_a_range_of_padding_and_a_frame_of_padding_alone() -> None:
    array = np.array([[0, 1, 5, 100, 200]], np.uint16)
    dataset = header(PixelPaddingValue=0)
    dataset.PixelPaddingRangeLimit = 5
    assert show_grey(grey(array), dataset, 1, None).tolist() == [[0, 0, 0, 0, 255]]
    alone = show_grey(grey(np.zeros((2, 2), np.uint16)), dataset, 1, None)
    assert alone.shape == (2, 2)


@pytest.mark.parametrize(
    ("photometric", "shape", "invert", "inverse"),
    [
        ("MONOCHROME2", None, False, False),
        ("MONOCHROME2", "IDENTITY", False, False),
        ("MONOCHROME2", "INVERSE", False, True),
        ("MONOCHROME1", None, False, True),
        ("MONOCHROME1", "INVERSE", False, True),
        ("MONOCHROME1", "IDENTITY", False, True),
        ("MONOCHROME1", None, True, False),
        ("MONOCHROME2", None, True, True),
    ],
)
def test_inversion(photometric: str, shape: str | None, invert: bool, inverse: bool) -> None:
    dataset = header(PresentationLUTShape=shape) if shape else Dataset()
    picture = grey(np.array([[0, 255]], np.uint8), photometric=photometric)
    shown = show_grey(picture, dataset, 1, None, invert=invert)
    assert shown.tolist() == ([[255, 0]] if inverse else [[0, 255]])


@pytest.mark.parametrize("relationship", ["LOG", "LIN"])
def test_the_modality_table_of_angiography_is_not_for_display(relationship: str) -> None:
    dataset = header(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.12.1",
        PixelIntensityRelationship=relationship,
        ModalityLUTSequence=[table([256, 0, 8], list(range(255, -1, -1)))],
    )
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    shown = show_grey(grey(np.array([[0, 255]], np.uint8)), dataset, 1, None)
    assert shown.tolist() == ([[0, 255]] if relationship == "LOG" else [[255, 0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_with_all_that_is_no_number(dtype: type) -> None:
    array = np.array([[-np.inf, np.nan, 0.0, 0.5, 1.0, np.inf, -99]], dtype)
    name = "FloatPixelPaddingValue" if dtype is np.float32 else "DoubleFloatPixelPaddingValue"
    shown = show_grey(grey(array), header(**{name: -99.0}), 1, None)
    assert shown.tolist() == [[0, 0, 0, 128, 255, 255, 0]]
    nothing = np.full((2, 2), np.nan, dtype)
    assert not show_grey(grey(nothing), Dataset(), 1, None).any()
    windowed = show_grey(grey(array), Dataset(), 1, Window(0.5, 1, "sigmoid"))
    assert windowed[0, 3] == 128
    assert not windowed[0, 1]


def test_a_linear_window_of_width_1_is_a_threshold() -> None:
    array = np.array([[98, 99, 100, 101]], np.uint8)
    dataset = header(WindowCenter=100, WindowWidth=1)
    assert show_grey(grey(array), dataset, 1, None).tolist() == [[0, 0, 255, 255]]
    assert show_grey(grey(array), dataset, 1, Window(100.5, 1)).tolist() == [[0, 0, 0, 255]]
    exact = show_grey(grey(array), dataset, 1, Window(100, 1, "linear-exact"))
    assert exact.tolist() == [[0, 0, 128, 255]]
    floats = np.array([[-np.inf, 99.4, 99.6, np.inf, np.nan]], np.float32)
    assert show_grey(grey(floats), dataset, 1, None).tolist() == [[0, 0, 255, 255, 0]]


def test_narrow_windows_of_float_maps_are_exact() -> None:
    dataset = header(WindowCenter=0.5, WindowWidth=0.5)
    array = np.array([[0.2, 0.5, 0.8]], np.float32)
    assert show_grey(grey(array), dataset, 1, None).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_an_empty_frame_of_a_segmentation_is_black(kind: str) -> None:
    dataset = header(SegmentationType=kind, SegmentSequence=[header(SegmentNumber=4)])
    dataset.MaximumFractionalValue = 200
    assert not show_grey(grey(np.zeros((2, 2), np.uint8)), dataset, 1, None).any()
    most = {"BINARY": 1, "FRACTIONAL": 200, "LABELMAP": 4}[kind]
    shown = show_grey(grey(np.array([[0, most]], np.uint8)), dataset, 1, None)
    assert shown.tolist() == [[0, 255]]


def test_bits_beside_the_stored_ones_are_no_value() -> None:
    cells = np.array([[0xF001, 0x0FFF, 0x1800]], np.uint16)
    unsigned = Picture(cells, "MONOCHROME2", 16, 12, False)
    assert stored_values(unsigned).array.tolist() == [[1, 0xFFF, 0x800]]
    signed = Picture(cells.view(np.int16), "MONOCHROME2", 16, 12, True)
    assert stored_values(signed).array.tolist() == [[1, -1, -2048]]
    shifted = Picture(np.array([[0x1230, 0xFFF0]], np.uint16), "MONOCHROME2", 16, 12, False)
    assert stored_values(shifted, 4).array.tolist() == [[0x123, 0xFFF]]


def test_values_beyond_bits_stored_do_not_wrap() -> None:
    picture = grey(np.array([[0, 2047, 4088, 32767, -32768]], np.int16), 12)
    assert show_grey(picture, Dataset(), 1, Window(0, 2, "linear")).tolist() == [
        [255, 255, 255, 255, 0]
    ]


def test_32_bits() -> None:
    array = np.array([[0, 1 << 30, (1 << 31) - 1]], np.int32)
    assert show_grey(grey(array), Dataset(), 1, None).tolist() == [[0, 128, 255]]


def palette_header(red: object, vr: str = "OW", first: int = 0, bits: int = 16) -> Dataset:
    dataset = Dataset()
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        dataset.add_new(name + "Descriptor", "SS" if first < 0 else "US", [4, first, bits])
        dataset.add_new(name + "Data", vr, red)
    return dataset


def indices(values: list[int], dtype: type = np.uint8) -> Picture:
    return grey(np.array([values], dtype), photometric="PALETTE COLOR")


def colours(picture: Picture, dataset: Dataset) -> list[int]:
    shown = imagecodecs.png_decode(render(picture, dataset, 1, Wanted("image/png")))
    assert (shown == shown[..., :1]).all()
    return shown[0, :, 0].tolist()


def test_palettes_of_8_and_16_bits() -> None:
    words = np.array([0, 0x1000, 0x8000, 0xFFFF], "<u2").tobytes()
    picture = indices([0, 1, 2, 3, 200])
    assert colours(picture, palette_header(words)) == [0, 0x10, 0x80, 0xFF, 0xFF]
    assert colours(picture, palette_header(b"\1\2\3\4", bits=8)) == [1, 2, 3, 4, 4]
    signed = indices([-9, -2, -1, 0, 5], np.int8)
    assert colours(signed, palette_header(b"\1\2\3\4", first=-2, bits=8)) == [1, 1, 2, 3, 4]


def test_8_bits_in_a_palette_of_16_are_told_by_how_many_there_are() -> None:
    picture = indices([0, 1, 2, 3, 200])
    dark = np.array([0, 100, 200, 255], "<u2").tobytes()
    assert colours(picture, palette_header(dark)) == [0, 0, 0, 0, 0]
    dataset = palette_header(np.arange(256, dtype="<u2").tobytes())
    for colour in ("Red", "Green", "Blue"):
        dataset[f"{colour}PaletteColorLookupTableDescriptor"].value[0] = 256
    assert colours(picture, dataset) == [0, 1, 2, 3, 200]


def test_segmented_palettes() -> None:
    codes = [0, 2, 10, 20, 1, 3, 50, 2, 2, 0, 0]
    expected = [10, 20, 30, 40, 50, 10, 20, 30, 40, 50]
    words = np.array(codes, "<u2").tobytes()
    assert expand_segments(words, wide=True).tolist() == expected
    big = np.array(codes, ">u2").tobytes()
    assert expand_segments(big, wide=True, little=False).tolist() == expected
    # Offsets of 8-bit tables take four bytes.
    assert expand_segments(bytes([*codes, 0, 0]), wide=False).tolist() == expected


def test_a_supplemental_palette_colours_its_values_alone() -> None:
    dataset = palette_header(b"\1\2\3\4", first=100, bits=8)
    dataset.PixelPresentation = "COLOR"
    dataset.WindowCenter, dataset.WindowWidth = 50, 100
    dataset.VOILUTFunction = "LINEAR_EXACT"
    assert colours(grey(np.array([[0, 50, 99, 100, 102, 255]], np.uint8)), dataset) == [
        *(0, 128, 252),
        *(1, 3, 4),
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", range(4))
def test_damaged_headers_end_in_a_picture_or_a_problem(seed: int) -> None:
    dataset = palette_header(b"\1\2\3\4" * 2)
    dataset.VOILUTSequence = [table([4, 0, 16], [1, 2, 3, 4])]
    dataset.ModalityLUTSequence = [table([4, 0, 8], [1, 2, 3, 4])]
    dataset.WindowCenter, dataset.WindowWidth = [1, 2], ["3", "4"]
    dataset.PixelPaddingValue, dataset.RescaleSlope = 5, 2
    dataset.PerFrameFunctionalGroupsSequence = [
        header(FrameVOILUTSequence=[header(WindowCenter=1, WindowWidth=2)])
    ]
    for element, value in ((0x10, 2), (0x11, 3), (0x50, [1, 1]), (0x102, 0)):
        dataset.add_new((0x6000, element), "US", value)
    dataset.add_new((0x6000, 0x3000), "OW", b"\xff\xff")
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, dataset)
    good = out.getvalue()
    rng = np.random.default_rng(seed)
    pictures = (grey(np.zeros((4, 4), np.uint16), 12), indices([0, 1, 2]))
    wanted = Wanted("image/jpeg", overlays=frozenset({0}), profile="yes")
    for _ in range(150):
        data = bytearray(good)
        for where in rng.integers(0, len(data), rng.integers(1, 4)):
            data[where] = rng.integers(0, 256)
        for picture in pictures:
            with contextlib.suppress(RaypacsError):
                render(picture, read_header(bytes(data), meta=False), 1, wanted)
