"""DICOM Part 10 framing, and the record that describes a received instance.

Nothing here does I/O; everything works on a buffer. The walk over elements is
:mod:`raypacs.dataset`, the transfer syntaxes are in :mod:`raypacs.uids`; both are offered here too.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pydicom.datadict import keyword_dict

from raypacs.dataset import (
    LONG_VR,
    MOST_INFLATED_BYTES,
    PIXEL_DATA,
    PIXEL_TAGS,
    Buffer,
    Element,
    EndsEarly,
    Header,
    encodings_of,
    implicit_vr,
    inflate,
    inflated_header,
    items,
    scan,
    scan_beginning,
)
from raypacs.errors import MalformedInstance
from raypacs.layout import checked_uid
from raypacs.records import InstanceRecord
from raypacs.uids import (
    DEFLATED,
    DEFLATED_EXPLICIT_VR_LE,
    ENCAPSULATED_UNCOMPRESSED,
    EXPLICIT_VR_BE,
    EXPLICIT_VR_LE,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    IMPLICIT_VR_LE,
    KNOWN_TRANSFER_SYNTAXES,
    NATIVE,
    RLE_LOSSLESS,
    is_encapsulated,
)

__all__ = [
    "DEFLATED", "DEFLATED_EXPLICIT_VR_LE", "ENCAPSULATED_UNCOMPRESSED", "EXPLICIT_VR_BE",
    "EXPLICIT_VR_LE", "HTJ2K_LOSSLESS", "HTJ2K_LOSSLESS_RPCL", "IMPLICIT_VR_LE",
    "KNOWN_TRANSFER_SYNTAXES", "NATIVE", "PIXEL_DATA", "PIXEL_TAGS", "RLE_LOSSLESS", "Buffer",
    "Element", "EndsEarly", "Header", "Part10", "describe", "describe_header", "encodings_of",
    "file_meta", "implicit_vr", "inflate", "inflated_header", "is_encapsulated", "items", "scan",
    "scan_beginning", "split_part10", "tag_of",
]  # fmt: skip

IMPLEMENTATION_CLASS_UID = "2.25.302197540217546211637817203398563019407"
IMPLEMENTATION_VERSION_NAME = "RAYPACS_0_1"


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword of PS3.6."""
    return keyword_dict[keyword]


#: Keywords kept as text for searches (PS3.18 tables 10.6.1-5 and what viewers ask for).
SEARCH_KEYWORDS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "InstitutionName",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "BodyPartExamined",
    "ProtocolName",
    "Laterality",
    "Manufacturer",
    "StationName",
    "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime",
    "FrameOfReferenceUID",
    "ContentDate",
    "ContentTime",
    "TimezoneOffsetFromUTC",
    "VerificationFlag",
)


class Part10(NamedTuple):
    """File meta information of a Part 10 file (PS3.10 section 7.1)."""

    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    dataset_offset: int
    source_ae: str = ""


def split_part10(buf: Buffer) -> Part10:
    """Parse preamble and file meta information.

    Raises:
        MalformedInstance: no ``DICM`` prefix, meta information truncated, or no transfer syntax.
    """
    if len(buf) < 132 or bytes(buf[128:132]) != b"DICM":
        raise MalformedInstance("no DICM prefix at byte 128: not a DICOM Part 10 file (PS3.10 7.1)")
    values: dict[int, str] = {}
    pos, end = 132, len(buf)
    while pos + 8 <= end:
        group, number, vr, length = struct.unpack_from("<HH2sH", buf, pos)
        if group != 2:
            break
        value = pos + 8
        if vr in LONG_VR:
            if pos + 12 > end:
                raise MalformedInstance("file meta information is truncated")
            (length,), value = struct.unpack_from("<I", buf, pos + 8), pos + 12
        if value + length > end:
            raise MalformedInstance("file meta information is truncated")
        if length <= 64:
            values[number] = bytes(buf[value : value + length]).decode("ascii", "replace")
        pos = value + length
    strip = {number: value.strip(" \0") for number, value in values.items()}
    if not strip.get(0x10):
        raise MalformedInstance("file meta information has no Transfer Syntax UID (0002,0010)")
    return Part10(strip[0x10], strip.get(0x02, ""), strip.get(0x03, ""), pos, strip.get(0x16, ""))


def _meta_element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def file_meta(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str = ""
) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 section 7.1)."""
    body = _meta_element(0x01, b"OB", b"\0\1")
    body += _meta_element(0x02, b"UI", sop_class_uid.encode("ascii"))
    body += _meta_element(0x03, b"UI", sop_instance_uid.encode("ascii"))
    body += _meta_element(0x10, b"UI", transfer_syntax_uid.encode("ascii"))
    body += _meta_element(0x12, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii"))
    body += _meta_element(0x13, b"SH", IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    if source_ae:
        body += _meta_element(0x16, b"AE", source_ae.encode("ascii", "replace")[:16])
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body))
    return bytes(128) + b"DICM" + length + body


def describe(  # noqa: PLR0913 - one keyword per field the caller knows
    buf: Buffer,
    *,
    transfer_syntax_uid: str,
    dataset_offset: int,
    tier: str,
    path: str,
    size_bytes: int,
    sha256: str,
    source: str,
    received_at_s: float,
    most_inflated_bytes: int = MOST_INFLATED_BYTES,
) -> InstanceRecord:
    """Parse an instance (whole Part 10 file or bare data set at ``dataset_offset``).

    ``path`` and ``tier`` may be empty and filled in later with ``dataclasses.replace``. A
    deflated data set may be of at most ``most_inflated_bytes``.

    Raises:
        MalformedInstance: truncated, not in its transfer syntax, or without the UIDs that every
            composite instance has (PS3.3 C.7.2.1, C.7.3.1, C.12.1).
    """
    if transfer_syntax_uid in DEFLATED:
        header = inflated_header(buf, dataset_offset, most_inflated_bytes)
    else:
        header = scan(buf, transfer_syntax_uid, dataset_offset)
    return describe_header(
        header,
        transfer_syntax_uid=transfer_syntax_uid,
        dataset_offset=dataset_offset,
        tier=tier,
        path=path,
        size_bytes=size_bytes,
        sha256=sha256,
        source=source,
        received_at_s=received_at_s,
    )


def describe_header(  # noqa: PLR0913 - one keyword per field the caller knows
    header: Header,
    *,
    transfer_syntax_uid: str,
    dataset_offset: int,
    tier: str,
    path: str,
    size_bytes: int,
    sha256: str,
    source: str,
    received_at_s: float,
) -> InstanceRecord:
    """Describe an instance from its scanned header (of a deflated one, inflated).

    Raises:
        MalformedInstance: without the UIDs that every composite instance has.
    """
    deflated = transfer_syntax_uid in DEFLATED
    number, pixel = header.number, header.pixel
    # Of these floating-point samples have none, whatever is written (PS3.3 section C.7.6.24).
    whole = pixel is None or pixel.tag == PIXEL_DATA

    def text(tag: int) -> str:
        # Text has no NUL (PS3.5 section 6.2), though some senders' has; PostgreSQL holds none.
        return header.text(tag).replace("\0", "")

    texts = ((keyword, text(tag)) for keyword, tag in _SEARCH)
    frames = number(0x00280008, 1) if pixel is not None else 0
    return InstanceRecord(
        study_uid=checked_uid(header.text(0x0020000D), "Study Instance UID (0020,000D)"),
        series_uid=checked_uid(header.text(0x0020000E), "Series Instance UID (0020,000E)"),
        sop_instance_uid=checked_uid(header.text(0x00080018), "SOP Instance UID (0008,0018)"),
        sop_class_uid=checked_uid(header.text(0x00080016), "SOP Class UID (0008,0016)"),
        transfer_syntax_uid=transfer_syntax_uid,
        tier=tier,
        path=path,
        size_bytes=size_bytes,
        sha256=sha256,
        dataset_offset_bytes=dataset_offset,
        source=source,
        received_at_s=received_at_s,
        modality=text(0x00080060),
        instance_number=number(0x00200013) if header.raw(0x00200013).strip(b" \0") else None,
        rows=number(0x00280010),
        columns=number(0x00280011),
        frames=max(frames, 1) if pixel is not None else 0,
        samples=number(0x00280002, 1) if pixel is not None else 0,
        bits_allocated=number(0x00280100),
        bits_stored=number(0x00280101) if whole else 0,
        high_bit=number(0x00280102) if whole else 0,
        pixel_representation=number(0x00280103) if whole else 0,
        photometric=text(0x00280004),
        planar_configuration=number(0x00280006),
        pixel_offset_bytes=-1 if pixel is None or deflated else pixel.value_offset,
        pixel_length_bytes=0 if pixel is None else pixel.length,
        attributes={keyword: text for keyword, text in texts if text},
    )


_SEARCH = tuple((keyword, tag_of(keyword)) for keyword in SEARCH_KEYWORDS)
