"""From a decoded frame, whole or at a smaller resolution, to an encoded picture. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from raypacs.web.pixels import Picture
from raypacs.web.rendering.asked import Wanted, Window
from raypacs.web.rendering.colour import (
    has_supplemental,
    in_profile,
    profile_of,
    show_colour,
    show_palette,
    show_supplemental,
)
from raypacs.web.rendering.encoding import encode
from raypacs.web.rendering.grey import has_own_range, range_window, show_grey
from raypacs.web.rendering.header import value
from raypacs.web.rendering.overlays import draw_mask, overlay_planes
from raypacs.web.rendering.scaling import Grid, Target, covered, nearest, smooth, target_of

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Level:
    """A frame at some resolution: ``picture`` has one sample every ``grid.step`` pixels.

    ``rows`` x ``columns`` is its full size. ``cells`` are the samples with the bits around them, if
    they are known and the frame is at full size. ``window`` stands in where neither request nor
    header has one: that of the frame at full size.
    """

    picture: Picture
    rows: int
    columns: int
    grid: Grid = field(default_factory=Grid)
    cells: Array | None = None
    window: Window | None = None

    @classmethod
    def full(cls, picture: Picture) -> Level:
        """Return the frame itself."""
        return cls(picture, *picture.array.shape[:2])


def render(picture: Picture, header: Dataset, number: int, wanted: Wanted) -> bytes:
    """Return frame ``number`` (from 1), decoded at full size, as an encoded image.

    Raises:
        UnsupportedPixels: it cannot be shown. Problem: 400, the region lies outside the frame.
    """
    return render_level(Level.full(picture), header, number, wanted)


def render_level(level: Level, header: Dataset, number: int, wanted: Wanted) -> bytes:
    """Return frame ``number`` (from 1), decoded at some resolution, as an encoded image.

    Raises:
        UnsupportedPixels: it cannot be shown. Problem: 400, the region lies outside the frame.
    """
    target = target_of(wanted.viewport, level.rows, level.columns)
    shown = _shown(level, header, number, wanted, target)
    profile = None
    if shown.ndim == 3:
        shown, profile = in_profile(shown, profile_of(header), wanted.profile)
    planes = wanted.overlays & overlay_planes(header)
    if planes:
        size = (level.rows, level.columns)
        mask = draw_mask(header, number, planes, size, level.cells)
        if mask is not None:
            shown = np.array(shown)
            shown[covered(mask, target)] = 255
    return encode(shown, wanted.media_type, wanted.quality, profile)


def is_index(header: Dataset, photometric: str) -> bool:
    """Whether samples are numbers of colours or segments, which have no mean."""
    return (
        photometric == "PALETTE COLOR"
        or value(header, "SegmentationType") is not None
        or value(header, "PixelPresentation") in ("COLOR", "MIXED", "COLOR_RANGE")
    )


def _shown(level: Level, header: Dataset, number: int, wanted: Wanted, target: Target) -> Array:
    """Return the picture in 8 bits, grey or RGB, at the size of ``target``."""
    picture = level.picture
    index = is_index(header, picture.photometric)
    rows, columns = picture.array.shape[:2]
    # The smaller of the two is coloured.
    enlarged = target.rows * target.columns > rows * columns
    window = wanted.window or level.window
    if index and not enlarged:
        if window is None and has_own_range(
            header, number, picture.photometric, picture.bits_stored
        ):
            window = range_window(picture, header, number)
        picture = replace(picture, array=nearest(picture.array, level.grid, target))
    if picture.photometric.startswith("MONOCHROME"):
        shown = show_grey(picture, header, number, window, invert=wanted.invert)
        if has_supplemental(picture, header):
            shown = show_supplemental(picture, header, shown)
    elif picture.photometric == "PALETTE COLOR":
        shown = show_palette(picture, header)
    else:
        shown = show_colour(picture)
    if not index:
        return smooth(shown, level.grid, target)
    return nearest(shown, level.grid, target) if enlarged else shown
