"""Every inbound syntax and pixel kind: how fast it is decoded beyond doubt, how small it gets.

Decoding is what PREPARE does: the codestream's headers read by hand, two decoders, their samples
compared. Beside it GDCM's decoder alone, or OpenJPEG's for what GDCM does not know. Then each pixel
kind on its way out: HTJ2K (or the form for floating point and single bits) with its proof, beside
OpenJPEG's JPEG 2000 of the same frames. One process; all calls of a round follow each other.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

from benchmarks.figure import Figure, compare
from raypacs import dicom
from raypacs.codec import bits, floats, gdcm_decoder, htj2k, inbound
from raypacs.codec.pixel_layout import PixelLayout

NAME = "codecs"
DESCRIPTION = "each inbound syntax and pixel kind: MB/s and ratio, beside GDCM and OpenJPEG"

Array = NDArray[Any]
_J = "1.2.840.10008.1.2.4."
_BENCH = Path(__file__).parent.parent.parent / "shared" / "data" / "bench"
_SIDE = 512


@dataclass(frozen=True)
class Kind:
    """Frames of one pixel kind: rows x columns [x 3]."""

    name: str
    frames: list[Array]
    depth: int

    @property
    def megabytes(self) -> float:
        """Megabytes of the frames in native form."""
        return sum(frame.nbytes for frame in self.frames) / 1e6

    def layout(self, uid: str) -> PixelLayout:
        """Return the layout of these frames in a transfer syntax."""
        frame = self.frames[0]
        colour = frame.ndim == 3
        return PixelLayout(
            transfer_syntax_uid=uid,
            rows=frame.shape[0],
            columns=frame.shape[1],
            frames=len(self.frames),
            samples=3 if colour else 1,
            bits_allocated=8 * frame.dtype.itemsize,
            bits_stored=self.depth,
            high_bit=self.depth - 1,
            signed=frame.dtype.kind == "i",
            photometric="RGB" if colour else "MONOCHROME2",
            planar=False,
        )


def run(quick: bool, count: int | None) -> list[Figure]:
    """Measure; ``count`` is the number of frames of each kind."""
    rounds, frames = (3, count or 2) if quick else (7, count or 12)
    kinds = _kinds(frames)
    figures = []
    for kind in kinds:
        if 1 < kind.depth <= 16 and kind.frames[0].dtype.kind in "iu":
            figures += [_decoding(name, uid, kind, rounds) for name, uid in _syntaxes(kind)]
    for kind in kinds:
        figures += _outbound(kind, rounds)
    return figures


def _syntaxes(kind: Kind) -> list[tuple[str, str]]:
    """Name the syntaxes that hold frames of a kind; JPEG has no signed samples."""
    unsigned = kind.frames[0].dtype.kind == "u"
    found = [
        ("RLE", dicom.RLE_LOSSLESS),
        ("JPEG-LS", _J + "80"),
        ("JPEG 2000", _J + "90"),
        ("HTJ2K", _J + "202"),
        ("deflated frame", inbound.DEFLATED_IMAGE_FRAME),
    ]
    if unsigned:
        found += [("JPEG lossless", _J + "70"), ("JPEG XL", _J + "110")]
    return found


def _decoding(name: str, uid: str, kind: Kind, rounds: int) -> Figure:
    codes = [_encoded(uid, frame, kind.depth) for frame in kind.frames]
    layout = kind.layout(uid)
    for code, frame in zip(codes, kind.frames, strict=True):
        if not np.array_equal(inbound.encapsulated_frame(code, layout), frame):
            raise AssertionError(f"{name}, {kind.name}: not the same samples")
    peer, version = _peer(uid, layout, kind)

    def ours(code: bytes) -> None:
        inbound.encapsulated_frame(code, layout)

    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        mine.append(kind.megabytes / _seconds(ours, codes))
        if peer is not None:
            theirs.append(kind.megabytes / _seconds(peer, codes))
    ratio = kind.megabytes * 1e6 / sum(map(len, codes))
    return compare(
        f"codecs, decode {name}, {kind.name} ({ratio:.1f} : 1)",
        "MB/s",
        mine,
        beside=version if peer is not None else "",
        beside_runs=theirs,
    )


def _peer(
    uid: str, layout: PixelLayout, kind: Kind
) -> tuple[Callable[[bytes], object] | None, str]:
    """Return the decoder beside ours, and its name: one pass, nothing compared."""
    if uid == _J + "202":
        return imagecodecs.jpeg2k_decode, f"OpenJPEG {_openjpeg_version()} alone"
    if uid not in (dicom.RLE_LOSSLESS, _J + "70", _J + "80", _J + "90"):
        return None, ""
    # JPEG and RLE have no depth of their own but that of the header.
    full = 8 * kind.frames[0].dtype.itemsize
    depth = full if uid in (_J + "80", dicom.RLE_LOSSLESS) else layout.bits_stored

    def decode(code: bytes) -> object:
        return gdcm_decoder.decode(
            code,
            transfer_syntax_uid=uid,
            rows=layout.rows,
            columns=layout.columns,
            samples=layout.samples,
            depth=depth,
            signed=layout.signed,
        )

    return decode, f"GDCM {gdcm_decoder.version()} alone"


def _outbound(kind: Kind, rounds: int) -> list[Figure]:
    """Encode with proof, beside OpenJPEG's encoder where it takes the kind."""
    ours, sizes = _encoder(kind)
    takes = kind.frames[0].dtype.kind in "iu" and 1 < kind.depth <= 16
    mine: list[float] = []
    theirs: list[float] = []
    coded = sum(map(sizes, kind.frames))

    def openjpeg(frame: Array) -> bytes:
        return _encoded(_J + "90", frame, kind.depth)

    for _ in range(rounds):
        mine.append(kind.megabytes / _seconds(ours, kind.frames))
        if takes:
            theirs.append(kind.megabytes / _seconds(openjpeg, kind.frames))
    beside = f"OpenJPEG {_openjpeg_version()} JPEG 2000" if takes else ""
    percent = 100 * coded / (kind.megabytes * 1e6)
    other = sum(len(openjpeg(frame)) for frame in kind.frames) if takes else 0
    return [
        compare(
            f"codecs, encode with proof, {kind.name}",
            "MB/s",
            mine,
            beside=f"{beside} encode alone" if takes else "",
            beside_runs=theirs,
        ),
        compare(
            f"codecs, size, {kind.name}",
            "% of raw",
            [percent],
            beside=beside,
            beside_runs=[100 * other / (kind.megabytes * 1e6)] if takes else (),
            less_is_better=True,
        ),
    ]


def _encoder(kind: Kind) -> tuple[Callable[[Array], object], Callable[[Array], int]]:
    """Return what encodes a frame and compares it decoded, and what gives its coded bytes."""
    frame = kind.frames[0]
    if frame.dtype.kind == "f":
        depth = 8 * frame.dtype.itemsize

        def wavelet(one: Array) -> None:
            rows, columns = one.shape
            code = floats.encode_frame(one)
            if not floats.same_bits(
                floats.decode_frame(code, rows=rows, columns=columns, bits=depth), one
            ):
                raise AssertionError("floating point: not the same samples")

        return wavelet, lambda one: len(floats.encode_frame(one))
    if kind.depth == 1:

        def single(one: Array) -> None:
            code = bits.encode_frame(one)
            rows, columns = one.shape
            if not np.array_equal(bits.decode_frame(code, rows=rows, columns=columns), one):
                raise AssertionError("single bits: not the same samples")

        return single, lambda one: len(bits.encode_frame(one))
    signed = frame.dtype.kind == "i"

    def encode(one: Array) -> bytearray:
        return htj2k.encode_frame(
            one, bits_stored=kind.depth, signed=signed, colour_transform=one.ndim == 3
        ).data

    def proved(one: Array) -> None:
        if not htj2k.same_samples(htj2k.decode_frame(encode(one)), one):
            raise AssertionError(f"{kind.name}: not the same samples")

    return proved, lambda one: len(encode(one))


def _seconds(work: Callable[[Any], object], items: list[Any]) -> float:
    started = time.perf_counter()
    for item in items:
        work(item)
    return time.perf_counter() - started


def _encoded(uid: str, frame: Array, depth: int) -> bytes:
    """Return a frame in a transfer syntax, by the encoders of imagecodecs."""
    if uid == dicom.RLE_LOSSLESS:
        return _rle(frame)
    if uid == _J + "70":
        space = "RGB" if frame.ndim == 3 else None
        return imagecodecs.jpeg8_encode(
            frame, lossless=True, bitspersample=depth, colorspace=space, outcolorspace=space
        )
    if uid == _J + "80":
        return imagecodecs.jpegls_encode(frame.view(f"u{frame.dtype.itemsize}"))
    if uid == _J + "90":
        return imagecodecs.jpeg2k_encode(
            frame, level=0, reversible=True, codecformat="j2k", bitspersample=depth
        )
    if uid == _J + "110":
        return imagecodecs.jpegxl_encode(frame, lossless=True, bitspersample=depth, effort=3)
    if uid == _J + "202":
        signed = frame.dtype.kind == "i"
        return bytes(
            htj2k.encode_frame(
                frame, bits_stored=depth, signed=signed, colour_transform=frame.ndim == 3
            ).data
        )
    raw = frame.tobytes()
    if uid == inbound.DEFLATED_IMAGE_FRAME:
        return imagecodecs.zlib_encode(raw, level=6)[2:-4]  # without the zlib wrapper
    return raw


def _rle(frame: Array) -> bytes:
    """RLE Lossless (PS3.5 annex G)."""
    size = frame.dtype.itemsize
    planes = frame.reshape(-1, 1 if frame.ndim == 2 else 3)
    octets = np.ascontiguousarray(planes).view(np.uint8).reshape(len(planes), -1, size)[..., ::-1]
    segments = [
        imagecodecs.packbits_encode(np.ascontiguousarray(octets[:, sample, byte]).tobytes())
        for sample in range(octets.shape[1])
        for byte in range(size)
    ]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = [64 + sum(map(len, segments[:n])) for n in range(len(segments))]
    head = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets)))
    return head + b"".join(segments)


def _kinds(count: int) -> list[Kind]:
    """Return frames of each pixel kind: real ones of ../shared/data where it is there."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    shape = 1 + 0.6 * np.sin(5 * x + 2) * np.cos(4 * y) * np.exp(-(x**2 + y**2))

    def made(depth: int, kind: str, shift: float = 0.0) -> list[Array]:
        top = (1 << depth) - 1
        frames = (top / 2 * shape + rng.normal(0, top / 300, shape.shape) for _ in range(count))
        return [(frame.clip(0, top) - shift).astype(kind) for frame in frames]

    grey = [frame.astype("u1") for frame in made(8, "u1")]
    colours = _real("us_colour_120_frames", count) or [
        np.stack([frame, frame // 2, 255 - frame], axis=2) for frame in grey
    ]
    return [
        Kind("CT 12 bit", _real("ct_philips_std_1mm_140", count) or made(12, "u2"), 12),
        Kind("grey 16 bit signed", made(16, "i2", 32768.0), 16),
        Kind("grey 8 bit", grey, 8),
        Kind("colour 8 bit", colours, 8),
        Kind("grey 32 bit", made(32, "u4"), 32),
        Kind("float 32 bit", [frame.astype("f4") for frame in made(12, "f8")], 32),
        Kind("single bits", [(frame > 128).astype("u1") for frame in grey], 1),
    ]


def _real(folder: str, count: int) -> list[Array]:
    """Return the first frames of a bench series, none if it is not there or of another depth."""
    frames: list[Array] = []
    for path in sorted((_BENCH / folder).rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        if dataset.BitsStored not in (8, 12):
            return []
        pixels = dataset.pixel_array
        inner = 3 if dataset.SamplesPerPixel == 3 else 2
        frames += list(pixels.reshape(-1, *pixels.shape[-inner:])[: count - len(frames)])
        if len(frames) >= count:
            break
    return [np.ascontiguousarray(frame) for frame in frames]


def _openjpeg_version() -> str:
    return str(imagecodecs.jpeg2k_version()).removeprefix("openjpeg ")
