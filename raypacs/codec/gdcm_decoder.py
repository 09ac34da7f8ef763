"""GDCM as the second decoder: frame by frame, from bytes, no files.

Its builds of CharLS (2.0) and OpenJPEG (2.3) are years apart from those in imagecodecs. It ends
the process on forms that it does not know, so it only gets codestreams that another decoder took
and whose form is known (:func:`knows_jpeg_ls`, :func:`knows_jpeg_2000`). It holds the interpreter
lock.
"""

from __future__ import annotations

import gdcm
import numpy as np

from raypacs.codec.pixel_layout import Array

_MOST_JPEG_2000_BITS = 24

gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()
gdcm.Trace.DebugOff()


def version() -> str:
    """Return the version of GDCM."""
    return str(gdcm.Version.GetVersion())


def knows_jpeg_ls(depth: int, samples: int) -> bool:
    """Whether GDCM decodes JPEG-LS of this form: it refuses 2 to 7 bits a sample."""
    return 8 <= depth <= 16 and samples in (1, 3)


def knows_jpeg_2000(depth: int, samples: int) -> bool:
    """Whether GDCM decodes JPEG 2000 of this form: OpenJPEG works in words of 32 bits."""
    return depth <= _MOST_JPEG_2000_BITS and samples in (1, 3)


def decode(
    data: bytes,
    *,
    transfer_syntax_uid: str,
    rows: int,
    columns: int,
    samples: int,
    depth: int,
    signed: bool,
) -> Array | None:
    """Decode one frame to rows x columns [x samples]; None: GDCM refused it.

    ``depth`` and ``signed`` are those of the codestream, not of the header of the instance.
    """
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(data)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    photometric = "RGB" if samples == 3 else "MONOCHROME2"
    kind = gdcm.PhotometricInterpretation.GetPIType(photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    if samples == 3:
        image.SetPlanarConfiguration(0)
    syntax = gdcm.TransferSyntax.GetTSType(transfer_syntax_uid)
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    container = next(bits for bits in (8, 16, 32) if depth <= bits)
    image.SetPixelFormat(gdcm.PixelFormat(samples, container, depth, depth - 1, int(signed)))
    text = image.GetBuffer()  # bytes in a str, by PEP 383
    if text is None:
        return None
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) * 8 != rows * columns * samples * container:
        return None
    shape = (rows, columns) if samples == 1 else (rows, columns, samples)
    return np.frombuffer(raw, f"{'i' if signed else 'u'}{container // 8}").reshape(shape)
