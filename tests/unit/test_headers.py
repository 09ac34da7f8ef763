"""Headers converted to Explicit VR Little Endian, beside pydicom."""

from __future__ import annotations

import io
import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from stored_series import image, noise, part10

from raypacs import dicom
from raypacs.dicom import Header
from raypacs.errors import MalformedInstance
from raypacs.work.headers import explicit_header, explicit_trailer


def rich(syntax: str) -> Dataset:
    """A data set with every kind of VR, sequences, private and ambiguous elements."""
    dataset = image(noise(1, 4, 6), transfer_syntax=syntax, bits_stored=12)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller^Jörg"
    dataset.ImagePositionPatient = [1.5, -2.25, 3]
    item = Dataset()
    item.ReferencedSOPClassUID = "1.2.3"
    item.ReferencedFrameNumber = [1, 2]
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "113", "überall"
    item.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
    dataset.ReferencedImageSequence = Sequence([item, Dataset()])
    dataset.SourceImageSequence = Sequence([])
    dataset.add_new(0x00280106, "US", 3)
    dataset.add_new(0x00280107, "US", 4000)
    dataset.add_new(0x00281101, "US", [256, 0, 16])
    dataset.add_new(0x00281201, "OW", struct.pack("<4H", 1, 2, 3, 4))
    dataset.add_new(0x00189345, "FD", 12.5)
    dataset.add_new(0x00189073, "FD", 0.25)
    dataset.add_new(0x00080301, "US", 7)
    dataset.add_new(0x00280009, "AT", 0x00181063)
    dataset.add_new(0x00091001, "UN", b"\1\2\3\4")
    dataset.add_new(0x00090010, "LO", "SOMEBODY")
    return dataset


def scanned(data: bytes) -> Header:
    part = dicom.split_part10(data)
    if part.transfer_syntax_uid in dicom.DEFLATED:
        return dicom.scan(dicom.inflate(data, part.dataset_offset), dicom.EXPLICIT_VR_LE)
    return dicom.scan(data, part.transfer_syntax_uid, part.dataset_offset)


def parsed(header: bytes) -> Dataset:
    meta = dicom.file_meta("1.2", "1.2.3", dicom.EXPLICIT_VR_LE)
    return pydicom.dcmread(io.BytesIO(meta + header))


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_every_element_is_as_pydicom_reads_it(syntax: str, signed: bool) -> None:
    dataset = rich(syntax)
    dataset.PixelRepresentation = int(signed)
    data = part10(dataset)
    source = pydicom.dcmread(io.BytesIO(data))
    result = parsed(explicit_header(scanned(data), photometric="MONOCHROME2", interleaved=False))
    assert [element.tag for element in result] == [
        element.tag for element in source if element.keyword != "PixelData"
    ]
    for element in result:
        expected = source[element.tag]
        if element.VR == "OW" and syntax == ExplicitVRBigEndian:  # pydicom does not swap words
            expected.value = np.frombuffer(expected.value, "u2").byteswap().tobytes()
        assert element == expected, element.keyword


def test_explicit_little_endian_is_untouched() -> None:
    data = part10(rich(ExplicitVRLittleEndian))
    header = scanned(data)
    begin = dicom.split_part10(data).dataset_offset
    assert header.pixel is not None
    assert (
        explicit_header(header, photometric="MONOCHROME2", interleaved=False)
        == data[begin : header.pixel.start]
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_colour_is_described_as_decoded(syntax: str) -> None:
    colour = np.zeros((1, 4, 4, 3), np.uint8)
    dataset = image(colour, transfer_syntax=syntax, PlanarConfiguration=1)
    dataset.PhotometricInterpretation = "YBR_RCT"
    header = scanned(part10(dataset))
    result = parsed(explicit_header(header, photometric="RGB", interleaved=True))
    assert (result.PhotometricInterpretation, result.PlanarConfiguration) == ("RGB", 0)
    assert len(result) == len(dataset) - 1


def test_offset_tables_of_the_source_are_left_out() -> None:
    dataset = image(noise(1, 4, 4))
    dataset.ExtendedOffsetTable = struct.pack("<Q", 0)
    dataset.ExtendedOffsetTableLengths = struct.pack("<Q", 10)
    header = explicit_header(scanned(part10(dataset)), photometric="MONOCHROME2", interleaved=False)
    assert not [element for element in parsed(header) if element.tag.group == 0x7FE0]


def test_values_too_long_for_their_explicit_vr_become_unknown() -> None:
    value = b"1\\" * 40_000
    body = struct.pack("<HHI", 0x0020, 0x0032, len(value)) + value
    header = dicom.scan(body, dicom.IMPLICIT_VR_LE)
    result = explicit_header(header, photometric="", interleaved=False)
    assert result == struct.pack("<HH2sHI", 0x0020, 0x0032, b"UN", 0, len(value)) + value


def test_undefined_length_of_private_elements_stays() -> None:
    """PS3.5 section 6.2.2: UN of undefined length is implicit VR in any transfer syntax."""
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    body = struct.pack("<HHI", 0x0009, 0x1002, 0xFFFFFFFF) + inner
    header = dicom.scan(body, dicom.IMPLICIT_VR_LE)
    result = explicit_header(header, photometric="", interleaved=False)
    assert result == struct.pack("<HH2sHI", 0x0009, 0x1002, b"UN", 0, 0xFFFFFFFF) + inner


def test_trailers_lose_padding_only() -> None:
    padding = struct.pack("<HH2sHI", 0xFFFC, 0xFFFC, b"OB", 0, 4) + bytes(4)
    private = struct.pack("<HH2sH", 0x7FE1, 0x0010, b"LO", 4) + b"ACME"
    assert explicit_trailer(b"", dicom.EXPLICIT_VR_LE, 0) == b""
    assert explicit_trailer(padding, dicom.EXPLICIT_VR_LE, 0) == b""
    assert explicit_trailer(private + padding, dicom.EXPLICIT_VR_LE, 0) == private
    implicit = struct.pack("<HHI", 0x7FE1, 0x0010, 4) + b"ACME"
    assert explicit_trailer(implicit, dicom.IMPLICIT_VR_LE, 0) == private
    for zeros in (bytes(2), bytes(7), bytes(8), bytes(512), bytes(5000)):
        assert explicit_trailer(zeros, dicom.EXPLICIT_VR_LE, 0) == b""
        assert explicit_trailer(private + zeros, dicom.EXPLICIT_VR_LE, 0) == private
        assert explicit_trailer(private + padding + zeros, dicom.EXPLICIT_VR_LE, 0) == private
        assert explicit_trailer(implicit + zeros, dicom.IMPLICIT_VR_LE, 0) == private


def test_trailers_with_data_behind_zero_bytes_are_refused() -> None:
    private = struct.pack("<HH2sH", 0x7FE1, 0x10, b"LO", 4) + b"ACME"
    for rest in (bytes(512) + b"\1", private + bytes(512) + b"\1", private[:-1]):
        with pytest.raises(MalformedInstance):
            explicit_trailer(rest, dicom.EXPLICIT_VR_LE, 0)
