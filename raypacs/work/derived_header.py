"""The header of a lossy object made from another one (PS3.3 sections C.7.6.1.1.5, C.12.4).

What describes the image stays; what names the object, or would not be true of other pixels, does
not. Nothing of the moment goes in, so that the same source gives the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from raypacs import dicom
from raypacs.policy.deriving import Derivation, derived_uid, marker

_METHOD = "ISO_15444_15"  # PS3.3 section C.7.6.1.1.5.1
_LONGEST_LO = 64
_LONGEST_ST = 1024
_SERIES_DESCRIPTION = 0x0008103E
_DERIVATION_DESCRIPTION = 0x00082111
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Multi-frame images with functional groups that have the General Image Module as well, where the
# source image is named; the others name it frame by frame (PS3.3 section C.7.6.16.2.6).
_GENERAL_IMAGE = frozenset({_STORAGE + "77.1.6", *(f"{_STORAGE}7.{n}" for n in range(1, 5))})
# What would not be true any more, or is not needed and may be compressed.
_DROPPED = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "InstanceCreatorUID",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "SmallestImagePixelValueInPlane",
    "LargestImagePixelValueInPlane",
    "IconImageSequence",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "PixelDataProviderURL",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
# Values that tell what is no image (PS3.3 section C.7.5.1.1.2): a sample that is off by one is
# taken for image, or image for padding.
_PADDING = ("PixelPaddingValue", "PixelPaddingRangeLimit")
# UIDs of a set of objects to which the new one does not belong: to one of its own instead.
_SETS = ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource", "PyramidUID")


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out: compression ratio, PSNR (dB) of the worst frame, largest error of a sample."""

    ratio: float
    psnr_db: float
    max_error: int

    def __str__(self) -> str:
        lost = "no loss" if math.isinf(self.psnr_db) else f"PSNR {self.psnr_db:.1f} dB"
        return f"{self.ratio:.3g}:1, {lost}, largest error {self.max_error}"


def derived_header(
    header: bytes, wanted: Derivation, measured: Measured, *, photometric: str
) -> bytes:
    """Return the header of the new object from that of its source.

    ``header`` is everything before Pixel Data in Explicit VR Little Endian, and so is what comes
    back. ``photometric`` is that of the codestreams.

    Text of the source that stays is not decoded: it stays in its bytes.
    """
    dataset = read_dataset(io.BytesIO(header), is_implicit_VR=False, is_little_endian=True)
    for keyword in _DROPPED + (_PADDING if measured.max_error else ()):
        if keyword in dataset:
            del dataset[keyword]
    source = (wanted.record.sop_class_uid, wanted.record.sop_instance_uid)
    dataset.SOPInstanceUID = wanted.sop_instance_uid
    dataset.SeriesInstanceUID = wanted.series_uid
    for keyword in _SETS:
        if dataset.get(keyword):
            setattr(dataset, keyword, derived_uid(str(dataset[keyword].value), wanted.rule))
    _set_text(dataset, _SERIES_DESCRIPTION, "LO", _series_description(header, marker(wanted.rule)))
    dataset.ImageType = _derived_type(dataset.get("ImageType"))
    dataset.PhotometricInterpretation = photometric
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionRatio = f"{measured.ratio:.4g}"
    dataset.LossyImageCompressionMethod = _METHOD
    text = f"Lossy compression with HTJ2K, {measured}; raypacs rule {_ascii(wanted.rule.name)}"
    if "SharedFunctionalGroupsSequence" in dataset and source[0] not in _GENERAL_IMAGE:
        _derive_frames(dataset, source, text)
        _note_evidence(dataset, wanted)
    else:
        _derive(dataset, source, text)
    return _written(dataset)


def _derived_type(values: object) -> list[str]:
    """Return Image Type with DERIVED as its first value (PS3.3 section C.7.6.1.1.2)."""
    if not values:
        return ["DERIVED", "SECONDARY"]
    told = [values] if isinstance(values, str) else [str(one) for one in values]  # type: ignore[attr-defined]
    return ["DERIVED", *(told[1:] or ["SECONDARY"])]


def _derive(item: Dataset, source: tuple[str, str], text: str, frame: int = 0) -> None:
    """Add how and from what an image, or a frame, was derived (PS3.3 table C.7-9)."""
    before = _raw(item, _DERIVATION_DESCRIPTION).strip(b" \0")
    told = before + b"; " * bool(before) + text.encode()
    _set_text(
        item, _DERIVATION_DESCRIPTION, "ST", told if len(told) <= _LONGEST_ST else text.encode()
    )
    codes = list(item.get("DerivationCodeSequence", ()))
    item.DerivationCodeSequence = [*codes, _code("113040", "Lossy Compression")]
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source
    if frame:
        reference.ReferencedFrameNumber = frame
    reference.PurposeOfReferenceCodeSequence = [_code("121320", "Uncompressed predecessor")]
    item.SourceImageSequence = [*item.get("SourceImageSequence", ()), reference]


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code


def _derive_frames(dataset: Dataset, source: tuple[str, str], text: str) -> None:
    """Say of every frame from which one it was derived, and that it is DERIVED."""
    shared = dataset.SharedFunctionalGroupsSequence
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or Sequence()
    for item in _frame_types([*shared, *frames]):
        item.FrameType = _derived_type(item.get("FrameType"))
    # A functional group is in one place only: there where it was, else by frame.
    at_once = not frames or any("DerivationImageSequence" in group for group in shared)
    for number, group in enumerate(shared if at_once else frames, 1):
        derivation = Dataset()
        _derive(derivation, source, text, 0 if at_once else number)
        before = group.get("DerivationImageSequence", ())
        group.DerivationImageSequence = [*before, derivation]


def _frame_types(groups: list[Dataset]) -> Iterator[Dataset]:
    """Yield the items that have a Frame Type, in whichever macro of the functional groups."""
    for group in groups:
        # Without decoding what is no sequence.
        sequences = [tag for tag in list(group.keys()) if group.get_item(tag).VR == "SQ"]
        for tag in sequences:
            yield from (item for item in group[tag].value if "FrameType" in item)


def _note_evidence(dataset: Dataset, wanted: Derivation) -> None:
    """Name the source among the objects that frames refer to (PS3.3 section C.8.13.2.1)."""
    sop = Dataset()
    sop.ReferencedSOPClassUID = wanted.record.sop_class_uid
    sop.ReferencedSOPInstanceUID = wanted.record.sop_instance_uid
    series = Dataset()
    series.SeriesInstanceUID = wanted.record.series_uid
    series.ReferencedSOPSequence = [sop]
    evidence = list(dataset.get("SourceImageEvidenceSequence", ()))
    study = next((one for one in evidence if one.StudyInstanceUID == wanted.record.study_uid), None)
    if study is None:
        study = Dataset()
        study.StudyInstanceUID = wanted.record.study_uid
        study.ReferencedSeriesSequence = []
        evidence.append(study)
    study.ReferencedSeriesSequence = [*study.ReferencedSeriesSequence, series]
    dataset.SourceImageEvidenceSequence = evidence


def _series_description(header: bytes, mark: str) -> bytes:
    """Return Series Description with a mark behind it, in the bytes of its character set."""
    found = dicom.scan(header, dicom.EXPLICIT_VR_LE)
    raw = found.raw(_SERIES_DESCRIPTION).strip(b" \0")
    room = _LONGEST_LO - len(mark) - 1
    if raw.isascii() and b"\x1b" not in raw:
        raw = raw[:room].rstrip()
    elif len(found.text(_SERIES_DESCRIPTION)) > room:
        raw = b""  # cut anywhere, text in another character set may not be text any more
    return (raw + b" " + mark.encode()).strip()


def _raw(item: Dataset, tag: int) -> bytes:
    """Return the bytes of an element that was read and not decoded; b'' without one."""
    element = item.get_item(tag) if tag in item else None
    return bytes(element.value or b"") if isinstance(element, RawDataElement) else b""


def _set_text(item: Dataset, tag: int, vr: str, value: bytes) -> None:
    """Set text by its bytes, in whatever character set the data set has."""
    value += b" " * (len(value) % 2)
    item[tag] = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, True)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode().replace("\\", "/")


def _written(dataset: Dataset) -> bytes:
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, dataset)
    return bytes(out.getvalue())
