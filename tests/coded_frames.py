"""Frames in every lossless transfer syntax, made with what is at hand, and files of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian
from stored_series import image

from raypacs import dicom
from raypacs.codec import bits, inbound

J = "1.2.840.10008.1.2.4."
Array = np.ndarray[Any, Any]


def rle(frame: Array) -> bytes:
    """RLE by the text of PS3.5 annex G: literal runs, and runs of what repeats."""
    planes = frame.reshape(frame.shape[0] * frame.shape[1], -1)
    segments = []
    for sample in range(planes.shape[1]):
        values = np.ascontiguousarray(planes[:, sample])
        octets = values.view("u1").reshape(len(values), -1)
        for byte in range(octets.shape[1] - 1, -1, -1):
            segments.append(pack_bits(octets[:, byte].tobytes()))
    return rle_frame(segments)


def pack_bits(data: bytes) -> bytes:
    """One segment of even length."""
    out, at = b"", 0
    while at < len(data):
        same = 1
        while same < 128 and data[at + same : at + same + 1] == data[at : at + 1]:
            same += 1
        if same > 2:
            out, at = out + bytes([257 - same, data[at]]), at + same
            continue
        run = data[at : at + 128]
        out, at = out + bytes([len(run) - 1]) + run, at + len(run)
    return out + b"\0" * (len(out) % 2)


def rle_frame(segments: Sequence[bytes]) -> bytes:
    """The header of 64 bytes, and the segments."""
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    head = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets)))
    return head + b"".join(segments)


def deflate(data: bytes) -> bytes:
    """A raw deflate stream."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def jpeg_lossless(frame: Array, depth: int, *, predictor: int = 1) -> bytes:
    """SOF3; three samples as RGB."""
    space = "RGB" if frame.ndim == 3 else None
    return imagecodecs.jpeg8_encode(
        frame,
        lossless=True,
        predictor=predictor,
        bitspersample=depth,
        colorspace=space,
        outcolorspace=space,
    )


def jpeg_2000(frame: Array, depth: int, *, reversible: bool = True) -> bytes:
    """A codestream; with the colour transform for three samples."""
    return imagecodecs.jpeg2k_encode(
        frame,
        level=0 if reversible else 30,
        reversible=reversible,
        codecformat="j2k",
        bitspersample=depth,
    )


def _rle(frame: Array, depth: int) -> bytes:
    return rle(frame)


def _deflated(frame: Array, depth: int) -> bytes:
    return deflate(frame.tobytes())


def _plain(frame: Array, depth: int) -> bytes:
    return frame.tobytes()


def _jpeg_ls(frame: Array, depth: int) -> bytes:
    return imagecodecs.jpegls_encode(frame.view(f"u{frame.dtype.itemsize}"))


def _htj2k(frame: Array, depth: int) -> bytes:
    return imagecodecs.htj2k_encode(frame)


def _htj2k_rpcl(frame: Array, depth: int) -> bytes:
    return imagecodecs.htj2k_encode(frame, tlm=True, tilepart=1)


def _jpeg_xl(frame: Array, depth: int) -> bytes:
    return imagecodecs.jpegxl_encode(frame, lossless=True, bitspersample=depth, effort=3)


ENCODERS: dict[str, Callable[[Array, int], bytes]] = {
    dicom.RLE_LOSSLESS: _rle,
    J + "57": lambda frame, depth: jpeg_lossless(frame, depth, predictor=6),
    J + "70": jpeg_lossless,
    J + "80": _jpeg_ls,
    J + "81": _jpeg_ls,
    J + "90": jpeg_2000,
    J + "91": jpeg_2000,
    J + "92": jpeg_2000,
    J + "110": _jpeg_xl,
    J + "201": _htj2k,
    J + "202": _htj2k_rpcl,
    J + "203": _htj2k,
    inbound.DEFLATED_IMAGE_FRAME: _deflated,
    dicom.ENCAPSULATED_UNCOMPRESSED: _plain,
}
#: These code the depth of the array, not Bits Stored.
FULL_DEPTH = frozenset({J + "201", J + "202", J + "203"})
#: These have no signed samples.
UNSIGNED = frozenset({J + "57", J + "70", J + "110"})


def smooth(rows: int, columns: int, *, depth: int, signed: bool = False, seed: int = 0) -> Array:
    """A frame with noise, rows x columns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    top = (1 << depth) - 1
    values = top / 2 * (1 + 0.6 * np.sin(4 * x) * np.cos(3 * y)) + rng.normal(
        0, top / 100, (rows, columns)
    )
    size = next(size for size in (1, 2, 4) if depth <= 8 * size)
    frame = values.clip(0, top).astype(np.int64)
    return (frame - (1 << (depth - 1))).astype(f"i{size}") if signed else frame.astype(f"u{size}")


def colour(rows: int, columns: int, *, seed: int = 0) -> Array:
    """A frame of three samples of 8 bits."""
    planes = [smooth(rows, columns, depth=8, seed=seed + n) for n in range(3)]
    return np.stack(planes, axis=2)


def encapsulated(
    fragments: Sequence[bytes], table: Sequence[int] = (), *, end: bool = True
) -> bytes:
    """The value of Pixel Data: Basic Offset Table, fragments of even length, delimiter."""
    whole = [struct.pack(f"<{len(table)}I", *table), *(f + b"\0" * (len(f) % 2) for f in fragments)]
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in whole)
    return body + (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if end else b"")


def part10(frames: Array, uid: str, value: bytes, *, end: bool = True, **changes: Any) -> bytes:
    """A file whose header describes ``frames`` and whose Pixel Data is ``value``."""
    dataset = image(frames, transfer_syntax=uid, **changes)
    dataset.PixelData = b""
    dataset.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    data = out.getvalue().replace(
        b"\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0", _syntax_element(uid), 1
    )
    # Pixel Data is the last element: twelve bytes, empty.
    return _with_group_length(data[:-12] + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + value)


def _syntax_element(uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return b"\x02\0\x10\0UI" + struct.pack("<H", len(value)) + value


def _with_group_length(data: bytes) -> bytes:
    """The length of the file meta information, corrected (PS3.10 section 7.1)."""
    end = dicom.split_part10(data).dataset_offset
    return data[:140] + struct.pack("<I", end - 144) + data[144:]


@dataclass(frozen=True)
class Coded:
    """A file in one syntax, and the samples it holds: frames x rows x columns [x 3]."""

    name: str
    data: bytes
    frames: Array


def coded(name: str, uid: str, frames: Array, depth: int, **changes: Any) -> Coded:
    """Encode frames, one fragment each."""
    codes = [ENCODERS[uid](np.ascontiguousarray(frame), depth) for frame in frames]
    data = part10(frames, uid, encapsulated(codes), bits_stored=depth, **changes)
    return Coded(name, data, frames)


def every_form(rows: int = 24, columns: int = 33) -> list[Coded]:
    """Every lossless encapsulated syntax, in grey of several depths and in colour."""
    found = []
    for uid in ENCODERS:
        depth = 16 if uid in FULL_DEPTH else 12
        grey = np.stack([smooth(rows, columns, depth=depth, seed=n) for n in range(2)])
        found.append(coded(f"{uid} grey", uid, grey, depth))
        found.append(coded(f"{uid} colour", uid, colour(rows, columns)[None], 8))
        if uid not in UNSIGNED:
            signed = smooth(rows, columns, depth=16, signed=True)[None]
            found.append(coded(f"{uid} signed", uid, signed, 16))
    found.append(single_bits(rows, columns))
    return found


def single_bits(rows: int, columns: int) -> Coded:
    """Two frames of single bits, RLE."""
    frames = np.stack([smooth(rows, columns, depth=8, seed=n) > 120 for n in range(2)])
    frames = frames.astype("u1")
    codes = [rle_frame([pack_bits(bits.packed(frame))]) for frame in frames]
    changes = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}
    data = part10(frames, dicom.RLE_LOSSLESS, encapsulated(codes), **changes)
    return Coded("RLE single bits", data, frames)
