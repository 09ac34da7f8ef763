"""Pieces of a Part 10 file that is made from a pack: header and Pixel Data elements, no I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from raypacs import dicom
from raypacs.storage import pack_format as fmt
from raypacs.storage.pack_format import PackInstance

_GROUP_LENGTH = 0x00280000
_PHOTOMETRIC = 0x00280004


def native_element(instance: PackInstance) -> tuple[int, bytes]:
    """Return tag and VR of the element that decoded samples go into."""
    if instance.form == fmt.WAVELET:
        double = instance.bits_allocated == 64
        return (0x7FE00009, b"OD") if double else (0x7FE00008, b"OF")
    # OB holds at most 8 bits a sample in native form (PS3.5 8.2, A.2), whatever came in.
    vr = b"OW" if instance.bits_allocated > 8 else (instance.pixel_vr or "OB").encode()
    return dicom.PIXEL_DATA, vr


def joined_bits(frames: Iterable[bytes], samples: int) -> Iterator[bytes]:
    """Lay frames of ``samples`` bits end to end, without a gap between them (PS3.5 8.1.1)."""
    kept = count = 0
    for frame in frames:
        if count == 0 and samples % 8 == 0:
            yield frame
            continue
        kept |= (int.from_bytes(frame, "little") & ((1 << samples) - 1)) << count
        count += samples
        whole = count // 8
        yield (kept & ((1 << 8 * whole) - 1)).to_bytes(whole, "little")
        kept >>= 8 * whole
        count -= 8 * whole
    if count:
        yield bytes([kept])


def with_photometric(header: bytes, photometric: str) -> bytes:
    """Return an Explicit VR Little Endian header with another Photometric Interpretation.

    The length of its group, which would be wrong then, is left out (retired, PS3.5 section 7.2).
    """
    found = dicom.scan(header, dicom.EXPLICIT_VR_LE)
    element, group_length = found.element(_PHOTOMETRIC), found.element(_GROUP_LENGTH)
    if element is None:
        return header
    value = photometric.encode("ascii")
    value += b" " * (len(value) % 2)
    replaced = struct.pack("<HH2sH", 0x0028, 0x0004, b"CS", len(value)) + value
    end = element.value_offset + element.length
    before = header[: element.start]
    if group_length is not None:
        stop = group_length.value_offset + group_length.length
        before = before[: group_length.start] + before[stop:]
    return before + replaced + header[end:]
