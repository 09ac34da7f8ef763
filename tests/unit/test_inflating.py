"""Deflated data sets (PS3.5 A.5): what they may inflate to, and how often that is done."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from stored_series import Store, image, noise, part10

from raypacs import dataset, dicom
from raypacs.errors import MalformedInstance

MIB = 1024 * 1024


def deflated(data_set: bytes, zeros: int = 0) -> bytes:
    """A raw deflate stream of ``data_set`` and so many zero bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data_set) + packer.compress(bytes(zeros)) + packer.flush()


def file_of(zeros: int, **changes: object) -> bytes:
    """A deflated Part 10 file whose Pixel Data is ``zeros`` bytes."""
    one = image(noise(1, 16, 16), **changes)
    one.PixelData = b""
    plain = part10(one)
    body = plain[dicom.split_part10(plain).dataset_offset : -12]
    body += b"\xe0\x7f\x10\0OW\0\0" + zeros.to_bytes(4, "little")
    meta = dicom.file_meta(one.SOPClassUID, one.SOPInstanceUID, dicom.DEFLATED_EXPLICIT_VR_LE)
    return meta + deflated(body, zeros)


def test_a_header_is_found_without_keeping_what_was_inflated(tmp_path: Path) -> None:
    data = file_of(64 * MIB)
    store = Store(tmp_path)
    tracemalloc.start()
    try:
        record = store.add(data).record
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert record.pixel_length_bytes == 64 * MIB
    assert peak < 16 * MIB


def test_a_header_longer_than_what_is_kept_at_first_is_read_whole() -> None:
    long = image(noise(1, 16, 16), EncapsulatedDocument=bytes(3 * MIB))
    plain = part10(long)
    body = plain[dicom.split_part10(plain).dataset_offset :]
    header = dicom.inflated_header(deflated(body), 0)
    wanted = dicom.scan(body, dicom.EXPLICIT_VR_LE)
    assert header.elements == wanted.elements
    assert len(header.raw(0x00420011)) == 3 * MIB


def test_the_last_value_is_kept_where_there_are_no_pixels() -> None:
    document = image(noise(1, 16, 16), EncapsulatedDocument=bytes(3 * MIB))
    del document.PixelData
    plain = part10(document)
    body = plain[dicom.split_part10(plain).dataset_offset :]
    assert len(dicom.inflated_header(deflated(body), 0).raw(0x00420011)) == 3 * MIB


def test_what_inflates_like_no_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_ANY_RATIO_BYTES", 8 * MIB)
    packed = deflated(b"", 9 * MIB)
    with pytest.raises(MalformedInstance, match="inflates to more than"):
        dicom.inflate(packed, 0)
    with pytest.raises(MalformedInstance, match="inflates to more than"):
        dicom.inflated_header(packed, 0)
    # Large and of an ordinary ratio, or of any ratio and not large, is an image.
    assert len(dicom.inflate(deflated(b"", 8 * MIB), 0)) == 8 * MIB
    random = noise(1, 1024, 1024).tobytes() * 5
    assert dicom.inflate(deflated(random), 0) == random


def test_what_is_longer_than_the_settings_allow_is_refused() -> None:
    with pytest.raises(MalformedInstance, match="inflates to more than 1048576"):
        dicom.inflate(deflated(b"", 2 * MIB), 0, MIB)


@pytest.mark.parametrize("cut", [1, 5, 1000])
def test_a_stream_that_ends_early_is_malformed(cut: int) -> None:
    packed = deflated(noise(1, 64, 64).tobytes())
    with pytest.raises(MalformedInstance, match="ends early"):
        dicom.inflate(packed[:-cut], 0)


def test_what_cannot_be_inflated_any_more_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    one = store.add(part10(image(noise(1, 64, 64), transfer_syntax=DeflatedExplicitVRLittleEndian)))
    monkeypatch.setattr(dataset, "MOST_INFLATED_BYTES", 1024)
    (instance,) = store.prepare([one]).instances
    assert instance.form == "copied"
    assert "inflates to more than" in instance.reason
