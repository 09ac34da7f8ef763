"""Who agrees on the frames of a prepared instance: source, codestreams and native form compared."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from every_file import Arrived, sign_dropped, words_swapped
from gdcm_reader import Gdcm
from independent import (
    OPENJPEG_BITS,
    Array,
    Expander,
    openjpeg_frames,
    pydicom_frames,
    repaired,
    single_bit_frames,
)

from raypacs import dicom
from raypacs.codec import htj2k

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SAME_BYTES = {dicom.IMPLICIT_VR_LE, dicom.EXPLICIT_VR_LE, dicom.DEFLATED_EXPLICIT_VR_LE}


@dataclass
class Agreement:
    """Readers of the source, and decoders of the codestreams, that found the same samples.

    ``wrong`` says who found others, ``deep`` which decoders could not take that many bits.
    """

    of_source: list[str] = field(default_factory=list)
    of_codes: list[str] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def note(self, readers: list[str], reader: str, same: bool) -> None:
        """Add a reader to its list, or to those that found something else."""
        if same:
            readers.append(reader)
        else:
            self.wrong.append(f"{reader} finds other samples")


def agreement(one: Arrived, gdcm: Gdcm, expander: Expander, folder: Path) -> Agreement:
    """Compare all frames of a prepared instance in every program at hand.

    What all are compared with is the native instance as a node gives it away.
    """
    found = Agreement()
    native = _native(one, gdcm, folder)
    _source(one, native, gdcm, found)
    if one.outcome == "htj2k":
        _codestreams(one, native, expander, found)
    return found


def _source(one: Arrived, native: Array, gdcm: Gdcm, found: Agreement) -> None:
    source = repaired(one.path.read_bytes())
    frames = pydicom_frames(source)
    if frames is None:
        frames = single_bit_frames(source)
    if frames is not None:
        found.note(found.of_source, "pydicom", _same_bits(frames, native))
    others = None if _gdcm_errs(one) else gdcm.frames(one.path)
    if others is not None:
        found.note(found.of_source, "GDCM", _same_bits(others, native))
    assert one.record is not None
    one_plane = one.record.planar_configuration == 0 or one.record.samples == 1
    if one.record.transfer_syntax_uid in _SAME_BYTES and one_plane:
        same = _pixel_bytes(source) == _pixel_bytes(one.native)
        found.note(found.of_source, "bytes", same)


def _codestreams(one: Arrived, native: Array, expander: Expander, found: Agreement) -> None:
    """OpenJPEG computes in 32 bits, enough for samples of 16; `ojph_expand` 0.9 does, too."""
    codes, told = one.codes(), one.pixels
    frames = np.stack([_by_imagecodecs(code) for code in codes])
    found.note(found.of_codes, "imagecodecs", _same_bits(frames, native))
    if told.bits_stored <= OPENJPEG_BITS:
        builds = zip(*map(openjpeg_frames, codes), strict=True)
        same = all(_same_bits(np.stack(build).reshape(frames.shape), frames) for build in builds)
        found.note(found.of_codes, "OpenJPEG", same)
    else:
        found.deep.append("OpenJPEG")
    if expander.takes(told.bits_stored, told.samples):
        again = expander.frames(codes, told.bits_stored, signed=told.pixel_representation == 1)
        found.note(found.of_codes, "ojph_expand", _same_bits(np.stack(again), frames))
    else:
        found.deep.append("ojph_expand")


def _native(one: Arrived, gdcm: Gdcm, folder: Path) -> Array:
    """Return the frames of the native instance: by pydicom, or GDCM where a value stops that."""
    frames = pydicom_frames(one.native)
    if frames is None:
        path = folder / "native.dcm"
        path.write_bytes(one.native)
        frames = gdcm.frames(path)
    assert frames is not None, one.name
    assert len(frames) == one.pixels.frames, one.name
    return frames


def _gdcm_errs(one: Arrived) -> bool:
    """Whether GDCM 3.2 is known to give something else than all others; pydicom decides there.

    It swaps the bytes of RLE colour of more than 8 bits; and see what this calls.
    """
    record = one.record
    assert record is not None
    rle = record.transfer_syntax_uid == dicom.RLE_LOSSLESS
    swapped = rle and record.samples == 3 and record.bits_allocated > 8
    return swapped or sign_dropped(one) or words_swapped(one)


def _pixel_bytes(data: bytes) -> bytes:
    """Return the value of Pixel Data, whichever of the three elements it is; trailing zeros off.

    Some have more than the one byte that makes the length even.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        value: bytes = next(dataset[name].value for name in _PIXELS if name in dataset)
    return value.rstrip(b"\0")


def _same_bits(first: Array, second: Array) -> bool:
    """Whether two arrays hold the same samples; floating-point ones bit by bit, NaN and all."""
    if first.shape != second.shape:
        return False
    if first.dtype.kind == "f":
        kind = f"u{first.dtype.itemsize}"
        return first.dtype == second.dtype and np.array_equal(first.view(kind), second.view(kind))
    return np.array_equal(first, second)


def _by_imagecodecs(code: bytes) -> Array:
    """Decode without anything of raypacs; planes come where there is no colour transform."""
    frame: Array = imagecodecs.htj2k_decode(code)
    planes = frame.ndim == 3 and not htj2k.read_main_header(code).colour_transform
    return frame.transpose(1, 2, 0) if planes else frame
