"""What a header says of pixels that PREPARE put into another form is true of that form."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from stored_series import Store, image, noise, part10

from raypacs import dicom
from raypacs.records import PreparedSeries

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def prepared(store: Store, data: bytes) -> tuple[PreparedSeries, bytes]:
    """Prepare one instance; return the series and the Part 10 file as prepared."""
    series = store.prepare([store.add(data)])
    (one,) = series.instances
    return series, b"".join(store.open(series).part10(one.sop_instance_uid))


def form(series: PreparedSeries) -> tuple[str, str]:
    (one,) = series.instances
    return one.form, one.reason


# ---- elements before Pixel Data -----------------------------------------------------------------
def with_tables(frames: np.ndarray) -> Dataset:
    """Native, with the offset tables that its fragments had before someone decoded it."""
    dataset = image(frames)
    dataset.ExtendedOffsetTable = struct.pack("<3Q", 0, 100, 200)
    dataset.ExtendedOffsetTableLengths = struct.pack("<3Q", 90, 90, 90)
    dataset.add_new(0x7FE00003, "UV", 270)
    return dataset


def test_offset_tables_of_a_native_source_do_not_go_with_codestreams(store: Store) -> None:
    frames = noise(3, 8, 8)
    series, data = prepared(store, part10(with_tables(frames)))
    assert form(series)[0] == "htj2k"
    rebuilt = pydicom.dcmread(io.BytesIO(data))
    assert [element.keyword for element in rebuilt if element.tag.group == 0x7FE0] == ["PixelData"]
    assert np.array_equal(pydicom.pixels.pixel_array(rebuilt, index=1), frames[1])


def group_0028(data: bytes) -> tuple[int, int, dicom.Element | None]:
    """Return where group 0028 begins and ends, and its length element."""
    part = dicom.split_part10(data)
    header = dicom.scan(data, part.transfer_syntax_uid, part.dataset_offset)
    starts = [element.start for element in header.elements if element.tag >> 16 == 0x28]
    end = next(element.start for element in header.elements if element.tag >> 16 > 0x28)
    return starts[0], end, header.element(0x00280000)


def test_a_group_length_is_right_or_gone_where_colours_were_transformed(store: Store) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 3), np.uint8)
    data = part10(image(frames))
    start, end, _ = group_0028(data)
    length = struct.pack("<HH2sHI", 0x28, 0, b"UL", 4, end - start)
    series, rebuilt = prepared(store, data[:start] + length + data[start:])
    assert form(series) == ("htj2k", "")
    assert pydicom.dcmread(io.BytesIO(rebuilt)).PhotometricInterpretation == "YBR_RCT"
    start, end, element = group_0028(rebuilt)
    if element is not None:
        (said,) = struct.unpack_from("<I", rebuilt, element.value_offset)
        assert said == end - element.value_offset - 4


# ---- overlays in the samples' cells -------------------------------------------------------------
def overlaid(cells: np.ndarray, bit: int, *, data: bytes = b"", **changes: Any) -> bytes:
    dataset = image(cells, bits_stored=12, **changes)
    dataset.add_new(0x60000010, "US", cells.shape[1])
    dataset.add_new(0x60000011, "US", cells.shape[2])
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1 if data else 16)
    dataset.add_new(0x60000102, "US", bit)
    if data:
        dataset.add_new(0x60003000, "OW", data)
    return part10(dataset)


SIGNED = {"PixelRepresentation": 1}
SHIFTED = {"HighBit": 15}


@pytest.mark.parametrize(("bit", "changes"), [(12, SIGNED), (1, SHIFTED), (0, SHIFTED)])
def test_overlays_in_bits_that_are_not_kept_are_copied(
    store: Store, bit: int, changes: dict[str, Any]
) -> None:
    values = noise(1, 32, 32)
    cells = values << 4 if "HighBit" in changes else (values - 2048) & 0xFFF
    series, data = prepared(store, overlaid(cells, bit, **changes))
    assert form(series) == ("copied", f"overlay 6000 lies in bit {bit} of the samples' cells")
    assert pydicom.dcmread(io.BytesIO(data)).PixelData == cells.tobytes()
    plane = bytes(32 * 32 // 8)
    series, _ = prepared(store, overlaid(cells, 0, data=plane, **changes))
    assert form(series)[0] == "htj2k"


def test_overlays_in_bits_that_stay_are_no_obstacle(store: Store) -> None:
    values = noise(1, 32, 32)
    series, _ = prepared(store, overlaid(values, 12))
    assert form(series)[0] == "htj2k"
    extended = values.astype(np.int16) - 2048
    series, _ = prepared(store, overlaid(extended, 12))
    assert form(series)[0] == "htj2k"


# ---- supplemental palettes ----------------------------------------------------------------------
def low_own(store: Store, dataset: Dataset) -> bool:
    series, _ = prepared(store, part10(dataset))
    (one,) = series.instances
    return store.open(series).instance(one.sop_instance_uid).low_own


def test_pixel_presentation_is_found_however_late(store: Store) -> None:
    frames = noise(1, 100, 90, bits=8)
    dataset = image(frames, SOPClassUID=ENHANCED_MR, PixelPresentation="COLOR")
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = ENHANCED_MR, "1.2.3"
    dataset.ReferencedImageSequence = Sequence([item] * 500)
    assert low_own(store, dataset)


def test_pixel_presentation_of_one_frame_says_nothing_of_the_image(store: Store) -> None:
    frames = noise(1, 100, 90, bits=8)
    inner = Dataset()
    inner.PixelPresentation = "COLOR"
    dataset = image(frames, SOPClassUID=ENHANCED_MR)
    dataset.MRImageFrameTypeSequence = Sequence([inner])
    assert not low_own(store, dataset)
    dataset.PixelPresentation = "MONOCHROME"
    assert not low_own(store, dataset)
