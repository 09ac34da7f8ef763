"""The grey pipeline (PS3.3 section C.11, PS3.4 section N.2): stored values to 8 bits.

Modality transform, VOI transform, inversion. Where samples have at most 16 bits all of it is
computed once a value, not once a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from raypacs.codec.htj2k import check_range
from raypacs.web.pixels import Picture
from raypacs.web.rendering.asked import FUNCTIONS, Window
from raypacs.web.rendering.header import functional_group, integers, is_little, items, value
from raypacs.web.rendering.header import number as number_of
from raypacs.web.rendering.luts import Lut, read_lut, within

Array = NDArray[Any]
_ANGIOGRAPHY = frozenset({"1.2.840.10008.5.1.4.1.1.12.1", "1.2.840.10008.5.1.4.1.1.12.2"})
_TABLE_BITS = 16
_PADDED = ("", "Float", "DoubleFloat")


@dataclass(frozen=True)
class Modality:
    """Stored values to modality values: a table, or slope and intercept (PS3.3 section C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0
    lut: Lut | None = None

    def apply(self, stored: Array) -> Array:
        """Return modality values as float64."""
        if self.lut is not None:
            return self.lut.apply(stored).astype(np.float64)
        return stored.astype(np.float64) * self.slope + self.intercept

    def outputs(self, low: float, high: float) -> tuple[float, float]:
        """Return the least and the greatest output of stored values ``low`` to ``high``."""
        if self.lut is not None:
            return 0.0, float(self.lut.most)
        ends = (low * self.slope + self.intercept, high * self.slope + self.intercept)
        return min(ends), max(ends)


def show_grey(
    picture: Picture, header: Dataset, number: int, window: Window | None, *, invert: bool = False
) -> Array:
    """Return frame ``number`` (from 1) as 8-bit grey.

    ``window`` of the request comes before the VOI LUT and the window of the header; without any,
    the range of ``picture`` is shown, padding left out: give that of the whole frame
    (:func:`range_window`) where it is but part of it. ``invert`` turns black and white.
    """
    values = picture.array
    little = is_little(header)
    low, high = _limits(picture)
    modality = _modality(header, number, low, high, little=little)
    voi: Window | Lut | None = window
    if voi is None:
        voi = _header_voi(header, number, modality.outputs(low, high), little=little)
    if voi is None:
        voi = _whole_range(picture, header, modality)
    flip = invert != _is_inverse(picture, header)
    if values.dtype.kind in "iu" and high - low < 1 << _TABLE_BITS:
        # A table is faster than arithmetic on every pixel, and exact.
        table = _shown(modality.apply(np.arange(low, high + 1)), voi, invert=flip)
        return table[np.subtract(values, low, dtype=np.intp)]
    return _shown(modality.apply(values), voi, invert=flip)


def has_own_range(header: Dataset, number: int, photometric: str, bits_stored: int) -> bool:
    """Whether a frame is shown by the range of its values: nothing in the header says which."""
    if not photometric.startswith("MONOCHROME") or _mask_range(bits_stored, header) is not None:
        return False
    return _header_voi(header, number, (0.0, 0.0), little=is_little(header)) is None


def has_padding(header: Dataset) -> bool:
    """Whether some values are no part of the picture, so that no mean may be taken with them."""
    return any(value(header, f"{kind}PixelPaddingValue") is not None for kind in _PADDED)


def range_window(picture: Picture, header: Dataset, number: int) -> Window:
    """Return the window that shows all values of frame ``number`` (from 1), at full size."""
    little = is_little(header)
    modality = _modality(header, number, *_limits(picture), little=little)
    return _whole_range(picture, header, modality)


def stored_values(picture: Picture, shift: int = 0) -> Picture:
    """Return the picture with Bits Stored alone: the rest is no value (PS3.5 section 8.1.1).

    ``shift``: unused bits below the samples. Signed values get their sign, wherever the sender
    left it.
    """
    array, bits = picture.array, picture.bits_stored
    if array.dtype.kind not in "iu" or not 0 < bits < 8 * array.dtype.itemsize:
        return picture
    array = array >> shift if shift else array
    if not check_range(array, bits_stored=bits, signed=picture.signed):
        return replace(picture, array=array)
    unused = 8 * array.dtype.itemsize - bits
    kind = np.dtype(f"{'i' if picture.signed else 'u'}{array.dtype.itemsize}")
    # Shifted out to the left; back from there with sign.
    moved = (array.view(kind) << unused) >> unused
    return replace(picture, array=moved)


def _limits(picture: Picture) -> tuple[int, int]:
    """Return the least and the greatest stored value there can be, of floats that of 16 bits."""
    array, bits = picture.array, picture.bits_stored
    if array.dtype.kind not in "iu":
        return 0, 0xFFFF
    if not 0 < bits <= 8 * array.itemsize or check_range(
        array, bits_stored=bits, signed=picture.signed
    ):
        # Not what the header says.
        info = np.iinfo(array.dtype)
        return int(info.min), int(info.max)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if picture.signed else (0, (1 << bits) - 1)


def _modality(header: Dataset, number: int, low: int, high: int, *, little: bool) -> Modality:
    source = functional_group(header, number, "PixelValueTransformationSequence") or header
    tables = items(source, "ModalityLUTSequence")
    if tables and not _is_angiography(header):
        lut = read_lut(tables[0], low, high, little=little)
        if lut is not None:
            return Modality(lut=lut)
    slope, intercept = number_of(source, "RescaleSlope"), number_of(source, "RescaleIntercept")
    return Modality(slope or 1.0, intercept or 0.0)


def _is_angiography(header: Dataset) -> bool:
    """Whether the Modality LUT leads to X-ray intensities, which are not for display.

    PS3.3 section C.8.7.1.1.2: so it is where Pixel Intensity Relationship is LOG or DISP.
    """
    return value(header, "SOPClassUID") in _ANGIOGRAPHY and value(
        header, "PixelIntensityRelationship"
    ) in ("LOG", "DISP")


def _header_voi(
    header: Dataset, number: int, outputs: tuple[float, float], *, little: bool
) -> Window | Lut | None:
    """Return the first VOI LUT, else the first window (PS3.3 section C.11.2)."""
    source = functional_group(header, number, "FrameVOILUTSequence") or header
    tables = items(source, "VOILUTSequence")
    if tables:
        lut = read_lut(tables[0], *outputs, little=little)
        if lut is not None:
            return lut
    center, width = number_of(source, "WindowCenter"), number_of(source, "WindowWidth")
    if center is None or width is None or width <= 0:
        return None
    function = str(value(source, "VOILUTFunction") or "LINEAR").lower().replace("_", "-")
    return Window(center, width, function if function in FUNCTIONS else "linear")


def _whole_range(picture: Picture, header: Dataset, modality: Modality) -> Window:
    """Return the window that shows all there is: of a mask all its values, else of the frame."""
    low, high = _mask_range(picture.bits_stored, header) or _frame_range(picture.array, header)
    low, high = modality.outputs(low, high)
    if modality.lut is not None:
        shown = modality.lut.apply(_without_padding(picture.array, header))
        low, high = float(shown.min()), float(shown.max())
    return Window((low + high) / 2, max(high - low, 1e-9), "linear-exact")


def _mask_range(bits_stored: int, header: Dataset) -> tuple[float, float] | None:
    """Return the range of a mask, which is the same for all its frames: an empty one is black."""
    kind = value(header, "SegmentationType")
    if kind == "LABELMAP":
        numbers = [number_of(one, "SegmentNumber") for one in items(header, "SegmentSequence")]
        return 0.0, max([1.0, *(number for number in numbers if number is not None)])
    if kind == "FRACTIONAL":
        return 0.0, number_of(header, "MaximumFractionalValue") or 255.0
    return (0.0, 1.0) if kind or bits_stored == 1 else None


def _frame_range(values: Array, header: Dataset) -> tuple[float, float]:
    shown = _without_padding(values, header)
    return float(shown.min()), float(shown.max())


def _without_padding(values: Array, header: Dataset) -> Array:
    """Return the values that are neither padding nor no numbers (PS3.3 section C.7.5.1.1.2).

    All of them where nothing else is left; at least one.
    """
    floating = values.dtype.kind == "f"
    prefix = ("DoubleFloat" if values.dtype.itemsize == 8 else "Float") if floating else ""
    kept = np.isfinite(values) if floating else np.True_
    padding = _number(header, f"{prefix}PixelPaddingValue", values.dtype)
    limit = _number(header, f"{prefix}PixelPaddingRangeLimit", values.dtype)
    if padding is not None:
        ends = sorted((padding, padding if limit is None else limit))
        kept = kept & ((values < ends[0]) | (values > ends[1]))
    shown = values[kept] if np.ndim(kept) else values
    if not shown.size and floating:
        shown = values[np.isfinite(values)]
        return shown if shown.size else np.zeros(1)
    return shown if shown.size else values


def _number(header: Dataset, keyword: str, dtype: np.dtype[Any]) -> float | None:
    """Return a padding value as samples of ``dtype`` have it: its sign may be written wrongly."""
    if dtype.kind == "f":
        return number_of(header, keyword)
    found = integers(value(header, keyword))
    if not found:
        return None
    info = np.iinfo(dtype)
    return within(found[0], info.min, info.max)


def _is_inverse(picture: Picture, header: Dataset) -> bool:
    """Whether the least value is white.

    MONOCHROME1 goes with the Presentation LUT Shape INVERSE (PS3.3 section C.8.11.3.1.2): together
    they invert once.
    """
    shape = value(header, "PresentationLUTShape")
    return picture.photometric == "MONOCHROME1" or shape == "INVERSE"


def _shown(values: Array, voi: Window | Lut, *, invert: bool) -> Array:
    """Return modality values as 8 bits; what is no number is black."""
    if isinstance(voi, Lut):
        shown = voi.apply(np.nan_to_num(values)) * (255.0 / voi.most)
    else:
        shown = _windowed(values, voi) * 255.0
    if invert:
        shown = 255.0 - shown
    if np.isnan(shown).any():
        shown = np.nan_to_num(shown, nan=0.0)
    return (shown + 0.5).astype(np.uint8)


def _windowed(values: Array, window: Window) -> Array:
    """Return 0 to 1 (PS3.3 section C.11.2.1.2 and .3)."""
    center, width = window.center, window.width
    if window.function == "sigmoid":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -60, 60)))
    if window.function == "linear" and width == 1:
        # A threshold: nothing lies between the ends. What is no number stays so.
        return np.heaviside(values - (center - 0.5), 0.0)
    if window.function == "linear-exact" or width < 1:
        shown = (values - center) / width + 0.5
    else:
        shown = (values - (center - 0.5)) / (width - 1.0) + 0.5
    return np.clip(shown, 0.0, 1.0)
