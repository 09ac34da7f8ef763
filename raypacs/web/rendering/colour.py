"""Colour to RGB in 8 bits: palette, YBR, RGB of any depth; ICC profiles."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from raypacs.errors import UnsupportedPixels
from raypacs.web.pixels import Picture
from raypacs.web.rendering.header import is_little, items, value
from raypacs.web.rendering.luts import palette

Array = NDArray[Any]
# ITU-R BT.601, full range (PS3.3 section C.7.6.3.1.2).
_YBR_TO_RGB = np.array([[1.0, 1.0, 1.0], [0.0, -0.344136, 1.772], [1.402, -0.714136, 0.0]])


def show_palette(picture: Picture, header: Dataset) -> Array:
    """Return a PALETTE COLOR frame as RGB (PS3.3 section C.7.6.3.1.5).

    Raises:
        UnsupportedPixels: no usable palette.
    """
    if picture.array.ndim != 2 or picture.array.dtype.kind not in "iu":
        raise UnsupportedPixels("PALETTE COLOR of several samples cannot be rendered")
    first, table = _palette_of(picture, header)
    where = np.clip(picture.array.astype(np.int64) - first, 0, len(table) - 1)
    result: Array = table[where]
    return result


def show_supplemental(picture: Picture, header: Dataset, grey: Array) -> Array:
    """Return a grey frame as RGB, values from the first of the palette on in its colours.

    PS3.3 section C.7.6.19: Supplemental Palette Color Lookup Table.
    """
    array = picture.array
    first, table = _palette_of(picture, header)
    shown = np.repeat(grey[..., None], 3, axis=2)
    coloured = array >= first
    where = np.minimum(array[coloured].astype(np.int64) - first, len(table) - 1)
    shown[coloured] = table[where]
    return shown


def has_supplemental(picture: Picture, header: Dataset) -> bool:
    """Whether a grey frame has a palette for part of its values."""
    return (
        picture.array.dtype.kind in "iu"
        and value(header, "PixelPresentation") in ("COLOR", "MIXED", "COLOR_RANGE")
        and value(header, "RedPaletteColorLookupTableDescriptor") is not None
    )


def show_colour(picture: Picture) -> Array:
    """Return a frame of three samples as RGB.

    Raises:
        UnsupportedPixels: a photometric interpretation that cannot be shown.
    """
    array = picture.array
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "iu":
        raise UnsupportedPixels(f"{picture.photometric} cannot be rendered")
    if picture.bits_stored != 8 or array.dtype.kind == "i":
        # To the 8 bits of a picture; below zero is no colour (PS3.3 section C.7.6.3.1.2).
        most = (1 << max(picture.bits_stored, 1)) - 1
        scaled = np.clip(array.astype(np.float64), 0, most) * (255 / most)
        array = (scaled + 0.5).astype(np.uint8)
    array = np.minimum(array, 255).astype(np.uint8)
    if picture.photometric.startswith("YBR_FULL"):
        rgb = (array.astype(np.float32) - (0, 128, 128)) @ _YBR_TO_RGB
        return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)
    return array


def profile_of(header: Dataset) -> bytes | None:
    """Return the ICC profile of the image, or of its first optical path (PS3.3 C.11.15)."""
    profile = value(header, "ICCProfile")
    paths = items(header, "OpticalPathSequence")
    if not profile and paths:
        profile = value(paths[0], "ICCProfile")
    return bytes(profile) if isinstance(profile, bytes) and len(profile) > 128 else None


def in_profile(rgb: Array, profile: bytes | None, wanted: str) -> tuple[Array, bytes | None]:
    """Return colours as ``wanted`` ('no', 'yes' or 'srgb'), and the profile to put beside them.

    Without a profile of its own a picture is taken for sRGB (PS3.18 section 8.3.5.1.5).

    Raises:
        UnsupportedPixels: the profile of the image cannot be used.
    """
    if wanted == "no":
        return rgb, None
    srgb = bytes(imagecodecs.cms_profile("srgb"))
    if wanted == "yes" or profile is None:
        return rgb, profile or srgb
    try:
        moved = imagecodecs.cms_transform(
            np.ascontiguousarray(rgb), profile, srgb, colorspace="rgb", outcolorspace="rgb"
        )
    except (RuntimeError, ValueError) as exc:
        raise UnsupportedPixels(f"the ICC profile of the image cannot be used: {exc}") from exc
    return moved, srgb


def _palette_of(picture: Picture, header: Dataset) -> tuple[int, Array]:
    info = np.iinfo(picture.array.dtype)
    return palette(header, info.min, info.max, little=is_little(header))
