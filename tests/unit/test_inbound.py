"""Frames as received: every source form gives the same samples, and doubt is an error."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from raypacs import dicom
from raypacs.codec import htj2k, inbound
from raypacs.codec.fragments import frame_fragments
from raypacs.codec.pixel_layout import PixelLayout, native_frame
from raypacs.errors import UnsupportedPixels

MONO = PixelLayout(
    transfer_syntax_uid=dicom.EXPLICIT_VR_LE,
    rows=33,
    columns=45,
    frames=1,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    high_bit=11,
    signed=False,
    photometric="MONOCHROME2",
    planar=False,
)
COLOUR = replace(MONO, samples=3, bits_allocated=8, bits_stored=8, high_bit=7, photometric="RGB")


def frame_of(layout: PixelLayout) -> np.ndarray:
    rng = np.random.default_rng(3)
    bits = layout.bits_stored
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if layout.signed else (0, 1 << bits)
    return rng.integers(low, high, layout.shape).astype(layout.dtype)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_native_little_endian(bits: int, signed: bool) -> None:
    layout = replace(MONO, bits_allocated=bits, bits_stored=bits, high_bit=bits - 1, signed=signed)
    frame = frame_of(layout)
    assert np.array_equal(native_frame(frame.tobytes(), layout), frame)


def test_native_big_endian_words_and_swapped_bytes() -> None:
    layout = replace(MONO, transfer_syntax_uid=dicom.EXPLICIT_VR_BE)
    frame = frame_of(layout)
    assert np.array_equal(native_frame(frame.astype(">u2").tobytes(), layout), frame)
    layout = replace(layout, rows=32, bits_allocated=8, bits_stored=8, high_bit=7)
    frame = frame_of(layout)
    swapped = np.frombuffer(frame.tobytes(), "u2").byteswap().tobytes()
    assert np.array_equal(native_frame(swapped, layout), frame)
    assert np.array_equal(native_frame(frame.tobytes(), layout, vr="OB"), frame)


def test_planes_become_interleaved() -> None:
    frame = frame_of(COLOUR)
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1)).tobytes()
    assert np.array_equal(native_frame(planes, replace(COLOUR, planar=True)), frame)


def _rle(frame: np.ndarray) -> bytes:
    """RLE by the text of PS3.5 annex G: literal runs only."""
    planes = frame.reshape(frame.shape[0] * frame.shape[1], -1)
    segments = []
    for sample in range(planes.shape[1]):
        values = np.ascontiguousarray(planes[:, sample])
        octets = values.view("u1").reshape(len(values), -1)
        for byte in range(octets.shape[1] - 1, -1, -1):
            data = octets[:, byte].tobytes()
            runs = [data[at : at + 128] for at in range(0, len(data), 128)]
            segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(
        segments
    )


def _deflate(frame: np.ndarray) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(frame.tobytes()) + packer.flush()


ENCODERS = {
    dicom.RLE_LOSSLESS: _rle,
    inbound.JPEG_LS_LOSSLESS: imagecodecs.jpegls_encode,
    inbound.JPEG_2000_LOSSLESS: lambda frame: imagecodecs.jpeg2k_encode(
        frame, level=0, reversible=True, codecformat="j2k"
    ),
    dicom.HTJ2K_LOSSLESS: imagecodecs.htj2k_encode,
    inbound.DEFLATED_IMAGE_FRAME: _deflate,
    dicom.ENCAPSULATED_UNCOMPRESSED: lambda frame: frame.tobytes(),
    "1.2.840.10008.1.2.4.70": lambda frame: imagecodecs.ljpeg_encode(frame, bitspersample=12),
}


@pytest.mark.parametrize("uid", list(ENCODERS))
def test_lossless_encapsulated_frames(uid: str) -> None:
    layout = replace(MONO, transfer_syntax_uid=uid)
    frame = frame_of(layout)
    assert np.array_equal(inbound.encapsulated_frame(ENCODERS[uid](frame), layout), frame)


@pytest.mark.parametrize(
    "uid", [dicom.RLE_LOSSLESS, inbound.JPEG_2000_LOSSLESS, dicom.HTJ2K_LOSSLESS]
)
def test_lossless_encapsulated_colour(uid: str) -> None:
    layout = replace(COLOUR, transfer_syntax_uid=uid)
    frame = frame_of(layout)
    assert np.array_equal(inbound.encapsulated_frame(ENCODERS[uid](frame), layout), frame)


def test_signed_samples_of_unsigned_decoders_are_sign_extended() -> None:
    layout = replace(MONO, transfer_syntax_uid=inbound.JPEG_LS_LOSSLESS, signed=True)
    frame = frame_of(layout)
    cells = (frame.view("u2") & 0x0FFF).astype("u2")
    assert np.array_equal(inbound.encapsulated_frame(_jpegls(cells), layout), frame)


def _jpegls(cells: np.ndarray) -> bytes:
    return imagecodecs.jpegls_encode(cells)


def test_what_is_lossy_in_a_lossless_syntax_is_refused() -> None:
    frame = frame_of(MONO)
    near = imagecodecs.jpegls_encode(frame, level=2)
    with pytest.raises(UnsupportedPixels, match="near-lossless"):
        inbound.encapsulated_frame(
            near, replace(MONO, transfer_syntax_uid=inbound.JPEG_LS_LOSSLESS)
        )
    irreversible = imagecodecs.jpeg2k_encode(frame, level=40, codecformat="j2k", reversible=False)
    with pytest.raises(UnsupportedPixels, match="irreversible"):
        inbound.encapsulated_frame(
            irreversible, replace(MONO, transfer_syntax_uid=inbound.JPEG_2000_LOSSLESS)
        )


def test_a_sign_that_the_header_denies_is_refused() -> None:
    layout = replace(MONO, transfer_syntax_uid=inbound.JPEG_2000_LOSSLESS, signed=True)
    unsigned = ENCODERS[inbound.JPEG_2000_LOSSLESS](frame_of(MONO))
    with pytest.raises(UnsupportedPixels, match="Pixel Representation"):
        inbound.encapsulated_frame(unsigned, layout)


def test_a_colour_transform_that_the_header_denies_is_refused() -> None:
    layout = replace(COLOUR, transfer_syntax_uid=dicom.HTJ2K_LOSSLESS, photometric="YBR_FULL")
    with pytest.raises(UnsupportedPixels, match="colour transform"):
        inbound.encapsulated_frame(imagecodecs.htj2k_encode(frame_of(COLOUR)), layout)


@pytest.mark.parametrize("uid", [*ENCODERS, "1.2.840.10008.1.2.4.50", "1.2.3"])
def test_rubbish_is_refused(uid: str) -> None:
    layout = replace(MONO, transfer_syntax_uid=uid)
    for data in (b"", b"rubbish" * 20, ENCODERS.get(uid, _rle)(frame_of(MONO))[:50]):
        with pytest.raises(UnsupportedPixels):
            inbound.encapsulated_frame(data, layout)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bits_allocated": 1, "bits_stored": 1, "high_bit": 0, "samples": 3}, "single bits"),
        ({"bits_allocated": 24}, "24 bits allocated"),
        ({"bits_allocated": 64}, "64 bits allocated"),
        ({"bits_stored": 0}, "0 bits stored"),
        ({"bits_stored": 17}, "17 bits stored"),
        ({"high_bit": 16}, "High Bit 16"),
        ({"high_bit": 10}, "High Bit 10"),
        ({"high_bit": 15, "transfer_syntax_uid": inbound.JPEG_LS_LOSSLESS}, "High Bit"),
        ({"rows": 0}, "0 rows"),
        ({"photometric": "YBR_FULL_422"}, "YBR_FULL_422"),
    ],
)
def test_layouts_that_are_no_whole_samples(change: dict, reason: str) -> None:
    with pytest.raises(UnsupportedPixels, match=reason):
        replace(MONO, **change).check()


def _encapsulated(parts: list[bytes], table: list[int] = ()) -> bytes:
    items = [struct.pack(f"<{len(table)}I", *table), *parts]
    body = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return body + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def _extents(data: bytes, frames: int, extended: list[int] = ()) -> list[list[bytes]]:
    found = frame_fragments(lambda at, size: data[at : at + size], 0, frames, extended)
    return [[data[at : at + size] for at, size in frame] for frame in found]


def test_fragments_of_frames() -> None:
    parts = [b"aaaa", b"bb", b"cccccc"]
    assert _extents(_encapsulated(parts), 3) == [[b"aaaa"], [b"bb"], [b"cccccc"]]
    assert _extents(_encapsulated(parts), 1) == [parts]
    assert _extents(_encapsulated(parts, [0, 22]), 2) == [[b"aaaa", b"bb"], [b"cccccc"]]
    assert _extents(_encapsulated(parts), 2, [0, 12]) == [[b"aaaa"], [b"bb", b"cccccc"]]
    assert _extents(_encapsulated(parts)[:-8], 3) == [[b"aaaa"], [b"bb"], [b"cccccc"]]


@pytest.mark.parametrize(
    ("data", "frames"),
    [
        (_encapsulated([b"aa", b"bb", b"cc"]), 2),
        (_encapsulated([b"aa", b"bb", b"cc"], [0, 7]), 2),
        (_encapsulated([b"aa", b"bb", b"cc"], [10, 20]), 2),
        (_encapsulated([b"aa"]), 2),
        (_encapsulated([]), 1),
        (b"no items here", 1),
        (b"", 1),
    ],
)
def test_fragments_in_doubt_are_refused(data: bytes, frames: int) -> None:
    with pytest.raises(UnsupportedPixels):
        _extents(data, frames)


def test_decoded_htj2k_of_ours_is_a_source_too() -> None:
    stream = htj2k.encode_frame(frame_of(MONO), bits_stored=12, signed=False)
    layout = replace(MONO, transfer_syntax_uid=dicom.HTJ2K_LOSSLESS_RPCL)
    assert np.array_equal(inbound.encapsulated_frame(bytes(stream.data), layout), frame_of(MONO))


@pytest.mark.parametrize("offsets", [(64, 10), (64, 9_999_999), (0, 70), (65, 70)])
def test_rle_header_that_would_lead_out_of_the_buffer(offsets: tuple[int, int]) -> None:
    layout = replace(
        MONO, rows=4, columns=4, bits_stored=16, high_bit=15, transfer_syntax_uid=dicom.RLE_LOSSLESS
    )
    data = struct.pack("<16I", 2, *offsets, *[0] * 13) + b"\x0f" + bytes(16) + b"\x0f" + bytes(16)
    with pytest.raises(UnsupportedPixels):
        inbound.encapsulated_frame(data, layout)
