"""From a decoded frame to PNG or JPEG (PS3.18 sections 8.3.5 and 10.4.1.1.4), pure.

Grey: modality rescale, then the window of the request, of the header, or the range of the frame
(PS3.3 sections C.11.1, C.11.2); MONOCHROME1 inverted. Colour: palette, YBR and RGB to 8 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut

from raypacs.errors import UnsupportedPixels
from raypacs.web.pixels import Picture
from raypacs.web.problem import Problem

Array = NDArray[Any]
_FUNCTIONS = ("linear", "linear-exact", "sigmoid")
# ITU-R BT.601, full range (PS3.3 section C.7.6.3.1.2).
_YBR_TO_RGB = np.array([[1.0, 1.0, 1.0], [0.0, -0.344136, 1.772], [1.402, -0.714136, 0.0]])


@dataclass(frozen=True, slots=True)
class Window:
    """VOI window in modality units (PS3.3 section C.11.2.1.2)."""

    center: float
    width: float
    function: str = "linear"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the request asks for; ``viewport`` is columns x rows, None: as it is."""

    media_type: str
    quality: int = 90
    window: Window | None = None
    viewport: tuple[int, int] | None = None


def parse_window(text: str) -> Window:
    """Parse the ``window`` query parameter: center,width[,function].

    Raises:
        Problem: 400.
    """
    parts = text.lower().split(",")
    try:
        center, width = float(parts[0]), float(parts[1])
    except (ValueError, IndexError) as exc:
        raise Problem(400, f"window={text!r} is not center,width[,function]") from exc
    function = parts[2] if len(parts) > 2 else "linear"
    good = math.isfinite(center) and math.isfinite(width) and function in _FUNCTIONS
    if not good or len(parts) > 3 or width <= 0 or (function == "linear" and width < 1):
        raise Problem(400, f"window={text!r}: width is positive, function one of {_FUNCTIONS}")
    return Window(center, width, function)


def parse_viewport(text: str) -> tuple[int, int]:
    """Parse the ``viewport`` query parameter: columns,rows (no region).

    Raises:
        Problem: 400.
    """
    try:
        columns, rows = (int(part) for part in text.split(","))
    except ValueError as exc:
        raise Problem(400, f"viewport={text!r} is not columns,rows") from exc
    if not (1 <= columns <= 8192 and 1 <= rows <= 8192):
        raise Problem(400, f"viewport={text!r}: each side is 1 to 8192")
    return columns, rows


def parse_quality(text: str) -> int:
    """Parse the ``quality`` query parameter, 1 to 100.

    Raises:
        Problem: 400.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise Problem(400, f"quality={text!r} is not 1 to 100")
    return int(text)


def render(picture: Picture, header: Dataset, number: int, wanted: Wanted) -> bytes:
    """Return frame ``number`` (from 1) as an encoded image.

    Raises:
        UnsupportedPixels: a photometric interpretation that cannot be shown.
    """
    if picture.photometric.startswith("MONOCHROME"):
        shown = _grey(picture, header, number, wanted.window)
    else:
        shown = _colour(picture, header)
    if wanted.viewport is not None:
        shown = _fit(shown, *wanted.viewport)
    shown = np.ascontiguousarray(shown)
    if wanted.media_type == "image/png":
        # Level 1: half as fast again costs 5 % of size on CT.
        return bytes(imagecodecs.png_encode(shown, level=1))
    return bytes(imagecodecs.jpeg8_encode(shown, level=wanted.quality))


def _grey(picture: Picture, header: Dataset, number: int, window: Window | None) -> Array:
    slope, intercept = _rescale(header, number)
    window = window or _header_window(header, number)
    values = picture.array
    if window is None:
        low, high = float(values.min()) * slope + intercept, float(values.max()) * slope + intercept
        low, high = min(low, high), max(low, high)
        window = Window((low + high) / 2, max(high - low, 1e-9), "linear-exact")
    invert = picture.photometric == "MONOCHROME1"
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        # At most 65,536 different values: a table is faster than arithmetic on every pixel.
        info = np.iinfo(values.dtype)
        levels = np.arange(info.min, info.max + 1, dtype=np.float32)
        table = _windowed(levels * slope + intercept, window, invert)
        return table[values.astype(np.int32) - info.min]
    return _windowed(values.astype(np.float64) * slope + intercept, window, invert)


def _windowed(values: Array, window: Window, invert: bool) -> Array:
    center, width = window.center, window.width
    if window.function == "sigmoid":
        shown = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -60, 60)))
    elif window.function == "linear-exact" or width <= 1:
        shown = (values - center) / max(width, 1e-9) + 0.5
    else:
        shown = (values - (center - 0.5)) / (width - 1.0) + 0.5
    shown = np.clip(shown, 0.0, 1.0) * 255.0
    if invert:
        shown = 255.0 - shown
    return (shown + 0.5).astype(np.uint8)


def _group(header: Dataset, number: int, sequence: str) -> Dataset | None:
    """Return a functional group's item of a frame, or of all frames (PS3.3 C.7.6.16)."""
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    if per_frame and len(per_frame) >= number and per_frame[number - 1].get(sequence):
        return per_frame[number - 1][sequence].value[0]
    shared = header.get("SharedFunctionalGroupsSequence")
    if shared and shared[0].get(sequence):
        return shared[0][sequence].value[0]
    return None


def _rescale(header: Dataset, number: int) -> tuple[float, float]:
    source = _group(header, number, "PixelValueTransformationSequence") or header
    slope = _first(source.get("RescaleSlope"))
    intercept = _first(source.get("RescaleIntercept"))
    return (slope if slope else 1.0), (intercept if intercept is not None else 0.0)


def _header_window(header: Dataset, number: int) -> Window | None:
    source = _group(header, number, "FrameVOILUTSequence") or header
    center, width = _first(source.get("WindowCenter")), _first(source.get("WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = str(source.get("VOILUTFunction", "") or "LINEAR").lower().replace("_", "-")
    return Window(center, width, function if function in _FUNCTIONS else "linear")


def _first(value: Any) -> float | None:
    if isinstance(value, MultiValue | list | tuple):
        value = value[0] if value else None
    try:
        return float(value) if value is not None and value != "" else None
    except (TypeError, ValueError):
        return None


def _colour(picture: Picture, header: Dataset) -> Array:
    array = picture.array
    if picture.photometric == "PALETTE COLOR":
        try:
            array = apply_color_lut(array, header)[..., :3]
        except (ValueError, AttributeError) as exc:
            raise UnsupportedPixels(f"palette cannot be applied: {exc}") from exc
        return (array >> 8).astype(np.uint8) if array.dtype.itemsize == 2 else array
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype.kind not in "iu":
        raise UnsupportedPixels(f"{picture.photometric} cannot be rendered")
    if picture.bits_stored != 8 or array.dtype.kind == "i":
        # To the 8 bits of a picture; below zero is no colour (PS3.3 section C.7.6.3.1.2).
        most = (1 << max(picture.bits_stored, 1)) - 1
        scaled = np.clip(array.astype(np.float64), 0, most) * (255 / most)
        array = (scaled + 0.5).astype(np.uint8)
    if picture.photometric.startswith("YBR_FULL"):
        rgb = (array.astype(np.float32) - (0, 128, 128)) @ _YBR_TO_RGB
        return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)
    return array.astype(np.uint8)


def _fit(image: Array, columns: int, rows: int) -> Array:
    """Scale into columns x rows, aspect kept, bilinear on an image first halved as often as fits.

    Averaging by halves keeps fine structure from turning into noise.
    """
    scale = min(columns / image.shape[1], rows / image.shape[0])
    values: Array = image.astype(np.float32)
    while scale <= 0.5 and min(values.shape[:2]) >= 2:
        even = values[: values.shape[0] // 2 * 2, : values.shape[1] // 2 * 2]
        values = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
        scale *= 2
    out_rows = max(1, round(values.shape[0] * scale))
    out_columns = max(1, round(values.shape[1] * scale))
    values = _resample(_resample(values, out_rows, 0), out_columns, 1)
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _resample(values: Array, size: int, axis: int) -> Array:
    old = values.shape[axis]
    where = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(where).astype(int)
    high = np.minimum(low + 1, old - 1)
    weight = (where - low).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
