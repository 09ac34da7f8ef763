"""Decoders that share no code with the one a frame was prepared by, one function each.

| decoder | of | limits |
|---|---|---|
| OpenJPEG by imagecodecs, OpenJPEG by pylibjpeg (another build) | codestreams | 16 bits |
| `ojph_expand`, OpenJPH's own program (openjph-tools) | codestreams | see `Expander` |
| pydicom with all plug-ins | Part 10 files | answers None for what it cannot |
| GDCM, its reader of files too (`gdcm_reader.py`) | Part 10 files | the same |
"""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openjpeg
import pydicom
from conftest import ROOT
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array
from pydicom.pixels.decoders.rle import _rle_decode_segment
from pydicom.uid import RLELossless

Array = NDArray[Any]

OPENJPEG_BITS = 16
"""OpenJPEG decodes a code block in 32 bits; OpenJPH writes deeper samples in 64."""
_TRIXIE = ROOT / ".peers" / "trixie"
_SIZ_DEPTH = 42  # offset of the depth of the first component (ISO/IEC 15444-1 A.5.1)


def openjpeg_frames(code: bytes) -> list[Array]:
    """Return a frame as two builds of OpenJPEG decode it; at most 16 bits a sample."""
    return [imagecodecs.jpeg2k_decode(code), openjpeg.decode(code)]


class Expander:
    """Runs `ojph_expand`, as many at once as there are cores to spare.

    Version 0.9 (Debian 12) computes in 32 bits: at most 16 bits a sample. Later ones take 32, of
    one component. Neither writes samples below zero everywhere, so the sign bit of the SIZ marker
    is cleared for it: what it gives then is the sample plus half the range (the level shift that
    ISO/IEC 15444-1 G.1 adds to unsigned components), and that is taken away again.
    """

    def __init__(self, program: str, *, at_once: int = 2) -> None:
        self._at_once = at_once
        self._program = [program]
        self._deep = self._program if _computes_in_64_bits(self._program) else _deep()

    @property
    def deep(self) -> bool:
        """Whether there is one for more than 16 bits a sample."""
        return self._deep is not None

    def takes(self, bits: int, samples: int) -> bool:
        """Whether frames of this depth can be expanded here."""
        return bits <= 16 or (samples == 1 and self.deep)

    def frames(self, codes: Sequence[bytes], bits: int, *, signed: bool) -> list[Array]:
        """Return the frames of codestreams of one depth, rows x columns [x samples]."""
        with (
            tempfile.TemporaryDirectory() as folder,
            ThreadPoolExecutor(self._at_once) as pool,
        ):
            jobs = [
                pool.submit(self._frame, Path(folder, str(number)), code, bits, signed)
                for number, code in enumerate(codes)
            ]
            return [job.result() for job in jobs]

    def _frame(self, stem: Path, code: bytes, bits: int, signed: bool) -> Array:
        program = self._deep if bits > 16 else self._program
        assert program is not None
        changed = bytearray(code)
        samples = changed[41]
        for component in range(samples):
            changed[_SIZ_DEPTH + 3 * component] &= 0x7F
        given, made = stem.with_suffix(".j2c"), stem.with_suffix(".ppm" if samples == 3 else ".raw")
        given.write_bytes(changed)
        done = subprocess.run(
            [*program, "-i", str(given), "-o", str(made)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        rows, columns = _size(code)
        read = _ppm if samples == 3 else _raw
        pixels = read(made.read_bytes(), bits).reshape(
            (rows, columns, 3)[: 3 if samples == 3 else 2]
        )
        given.unlink()
        made.unlink()
        return pixels - (1 << (bits - 1)) if signed else pixels


def _size(code: bytes) -> tuple[int, int]:
    return int.from_bytes(code[12:16], "big"), int.from_bytes(code[8:12], "big")


def _raw(data: bytes, bits: int) -> Array:
    """Samples in as few bytes as hold them, little endian."""
    size = -(-bits // 8)
    planes = np.frombuffer(data, np.uint8).reshape(-1, size).astype(np.int64)
    return planes @ (1 << 8 * np.arange(size, dtype=np.int64))


def _ppm(data: bytes, bits: int) -> Array:
    head = re.match(rb"P6\s+\d+\s+\d+\s+\d+\s", data)
    assert head is not None
    return np.frombuffer(data[head.end() :], "u1" if bits <= 8 else ">u2").astype(np.int64)


def _deep() -> list[str] | None:
    """Debian 13's program, where `python -m benchmarks peers install openjph` put it."""
    program = _TRIXIE / "usr/bin/ojph_expand"
    if not program.exists():
        return None
    libraries = ":".join(map(str, sorted((_TRIXIE / "usr/lib").glob("*-linux-gnu"))))
    loader = next(iter(sorted((_TRIXIE / "usr").glob("lib*/ld-linux-*"))))
    return [str(loader), "--library-path", libraries, str(program)]


def _computes_in_64_bits(program: list[str]) -> bool:
    """Later versions say so: an option that the 32-bit ones do not have."""
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    return "optional" in done.stdout + done.stderr


def pydicom_frames(data: bytes, *, plugin: str = "") -> Array | None:
    """Return all frames (frames x rows x columns [x samples]) by pydicom; None if it cannot.

    The samples as stored: no colour conversion, no rescaling.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            pixels = pixel_array(dataset, raw=True, decoding_plugin=plugin)
        except (ValueError, RuntimeError, AttributeError, NotImplementedError, TypeError):
            return None
    inner = 3 if dataset.get("SamplesPerPixel", 1) > 1 else 2
    return pixels.reshape(-1, *pixels.shape[-inner:])


def repaired(data: bytes) -> bytes:
    """Return a file with the Sequence Delimitation Item that its Pixel Data lacks, if it does.

    Without it pydicom reads no element at all (PS3.5 section A.4); the frames are whole.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        empty = len(pydicom.dcmread(io.BytesIO(data), force=True)) == 0
    return data + b"\xfe\xff\xdd\xe0\0\0\0\0" if empty else data


def single_bit_frames(data: bytes) -> Array | None:
    """Return frames of single bits that are deflated or RLE (PS3.5 annexes G and A.4.13).

    pydicom decodes neither at one bit a sample: it takes the frames apart, and zlib or its RLE
    segment decoder gives their bytes, eight samples each.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    syntax = dataset.file_meta.get("TransferSyntaxUID", "")
    if dataset.get("BitsAllocated") != 1 or syntax not in _SINGLE_BIT:
        return None
    count = int(dataset.get("NumberOfFrames", 1))
    pixels = dataset.Rows * dataset.Columns
    frames = []
    for frame in generate_frames(dataset.PixelData, number_of_frames=count):
        packed = np.frombuffer(_SINGLE_BIT[syntax](frame), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[:pixels]
        frames.append(bits.reshape(dataset.Rows, dataset.Columns))
    return np.stack(frames)


def _rle_frame(frame: bytes) -> bytes:
    count, start = np.frombuffer(frame[:8], "<u4")
    assert count == 1
    return bytes(_rle_decode_segment(frame[start:]))


_SINGLE_BIT: dict[str, Callable[[bytes], bytes]] = {
    RLELossless: _rle_frame,
    "1.2.840.10008.1.2.8.1": lambda frame: zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame),
}
