"""8-bit pictures to files: JPEG, PNG, WebP, with an ICC profile where one belongs to them."""

from __future__ import annotations

import zlib
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from raypacs.errors import UnsupportedPixels

Array = NDArray[Any]
MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")
_APP2 = b"\xff\xe2"
_ICC_MARK = b"ICC_PROFILE\0"
_MOST_SEGMENT = 65535 - 2 - len(_ICC_MARK) - 2
_PNG_HEAD = 8 + 25
"""Signature and IHDR (ISO/IEC 15948 section 11.2.2)."""


def encode(shown: Array, media_type: str, quality: int, profile: bytes | None = None) -> bytes:
    """Encode rows x columns [x 3] of uint8; ``quality`` 1 to 100 is for lossy types.

    Raises:
        UnsupportedPixels: too large for the file format.
    """
    shown = np.ascontiguousarray(shown)
    try:
        if media_type == "image/png":
            # Level 1: half as fast again costs 5 % of size on CT.
            data = bytes(imagecodecs.png_encode(shown, level=1))
            return data if profile is None else _png_with(data, profile)
        if media_type == "image/webp":
            # WebP knows no grey.
            rgb = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)
            return bytes(imagecodecs.webp_encode(rgb, level=quality, lossless=False))
        data = bytes(imagecodecs.jpeg8_encode(shown, level=quality))
        return data if profile is None else _jpeg_with(data, profile)
    except (RuntimeError, ValueError) as exc:
        raise UnsupportedPixels(f"{media_type} cannot hold {shown.shape}: {exc}") from exc


def _png_with(data: bytes, profile: bytes) -> bytes:
    """Put an iCCP chunk after IHDR (ISO/IEC 15948 section 11.3.3.3)."""
    body = b"iCCPICC\0\0" + zlib.compress(profile)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[:_PNG_HEAD] + chunk + data[_PNG_HEAD:]


def _jpeg_with(data: bytes, profile: bytes) -> bytes:
    """Put the profile in APP2 segments after the APP0 of JFIF (ICC.1 annex B.4)."""
    at = 2
    if data[2:4] == b"\xff\xe0":
        at += 2 + int.from_bytes(data[4:6], "big")
    pieces = [profile[n : n + _MOST_SEGMENT] for n in range(0, len(profile), _MOST_SEGMENT)]
    if len(pieces) > 255:
        return data
    segments = b""
    for number, piece in enumerate(pieces, 1):
        body = _ICC_MARK + bytes((number, len(pieces))) + piece
        segments += _APP2 + (len(body) + 2).to_bytes(2, "big") + body
    return data[:at] + segments + data[at:]
