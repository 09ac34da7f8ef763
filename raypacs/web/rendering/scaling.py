"""Which part of a frame is shown at which size, and how samples get there.

Coordinates are those of the frame at full size: pixel ``i`` covers ``i`` to ``i + 1``. Samples of a
smaller resolution lie on a :class:`Grid` in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.web.problem import Problem
from raypacs.web.rendering.asked import Viewport

Array = NDArray[Any]
MOST_PIXELS = 1 << 25
"""Pixels of an enlarged picture at most: an 8K screen, 7680 x 4320, and a little more."""
_STRIP_SAMPLES = 1 << 21


@dataclass(frozen=True, slots=True)
class Grid:
    """Where samples lie: the centre of sample ``i`` is at ``i * step + centre``.

    Those of resolution ``1/2^k`` of a wavelet transform lie at every 2^k-th pixel, not between
    (ISO/IEC 15444-1 annex F), so ``centre`` stays 0.5.
    """

    step: float = 1.0
    centre: float = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """The picture to make: its size, the region of the frame it shows, and its mirroring."""

    rows: int
    columns: int
    left: float
    top: float
    width: float
    height: float
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def scale(self) -> float:
        """Pixels of the picture to one of the frame."""
        return max(self.columns / self.width, self.rows / self.height)

    def halvings(self, levels: int) -> int:
        """Return how often a frame may be halved, at most ``levels``, and still be large enough."""
        count = 0
        while count < levels and self.scale * (2 << count) <= 1.0 + 1e-9:
            count += 1
        return count


def target_of(viewport: Viewport | None, rows: int, columns: int) -> Target:
    """Return the picture of a frame of ``rows`` x ``columns``.

    The region is cut at the edges of the frame, and fitted into the viewport, aspect kept.

    Raises:
        Problem: 400, the region lies outside the frame, or the picture would be larger than both
            the frame and ``MOST_PIXELS``.
    """
    if viewport is None:
        return Target(rows, columns, 0.0, 0.0, float(columns), float(rows))
    left, top = viewport.left, viewport.top
    width = min(abs(viewport.width or columns), columns - left)
    height = min(abs(viewport.height or rows), rows - top)
    if width <= 0 or height <= 0:
        raise Problem(400, f"the region lies outside the frame of {columns} x {rows} pixels")
    scale = min(viewport.columns / width, viewport.rows / height)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    if high * wide > max(MOST_PIXELS, rows * columns):
        raise Problem(400, f"enlarged pictures have at most {MOST_PIXELS} pixels")
    return Target(
        high,
        wide,
        left,
        top,
        width,
        height,
        (viewport.width or 0) < 0,
        (viewport.height or 0) < 0,
    )


def nearest(values: Array, grid: Grid, target: Target) -> Array:
    """Return the samples nearest to the pixels of the picture: for indices, which have no mean."""
    y = _positions(target.top, target.height, target.rows, grid, target.mirror_y)
    x = _positions(target.left, target.width, target.columns, grid, target.mirror_x)
    return values[_rounded(y, values.shape[0])][:, _rounded(x, values.shape[1])]


def smooth(image: Array, grid: Grid, target: Target) -> Array:
    """Return an 8-bit image scaled: down by the mean of what a pixel covers, up bilinearly."""
    rows, columns = image.shape[:2]
    whole = (target.top, target.left, target.height, target.width) == (0, 0, rows, columns)
    if grid.step == 1 and whole and (target.rows, target.columns) == (rows, columns):
        # Nothing to scale.
        flipped = image[:: -1 if target.mirror_y else 1, :: -1 if target.mirror_x else 1]
        return np.ascontiguousarray(flipped)
    result = np.empty((target.rows, target.columns, *image.shape[2:]), np.uint8)
    placed = result[:: -1 if target.mirror_y else 1, :: -1 if target.mirror_x else 1]
    line = max(target.columns, columns) * int(np.prod(image.shape[2:]))
    height = max(1, _STRIP_SAMPLES // line)
    # Strip by strip: in between samples take several times the bytes of the picture.
    for first in range(0, target.rows, height):
        last = min(first + height, target.rows)
        scale = target.height / target.rows
        values = _scaled(image, target.top, scale, (first, last), grid, 0)
        scale = target.width / target.columns
        values = _scaled(values, target.left, scale, (0, target.columns), grid, 1)
        placed[first:last] = np.clip(values + 0.5, 0, 255)
    return result


def _scaled(
    values: Array, begin: float, scale: float, part: tuple[int, int], grid: Grid, axis: int
) -> Array:
    """Return the pixels ``part`` (first, last) of one axis; ``scale``: pixels of the frame each."""
    first, last = part
    if scale > grid.step:
        return _averaged(values, begin + np.arange(first, last + 1) * scale, grid, axis)
    centres = begin + (np.arange(first, last) + 0.5) * scale
    return _blended(values, (centres - grid.centre) / grid.step, axis)


def covered(mask: Array, target: Target) -> Array:
    """Return, as bool, which pixels of the picture a full-size mask touches: thin lines stay."""
    result = mask.astype(np.uint8)
    for axis, begin, size, count in (
        (0, target.top, target.height, target.rows),
        (1, target.left, target.width, target.columns),
    ):
        edges = begin + np.arange(count + 1) * size / count
        first = np.clip(np.floor(edges[:-1] + 1e-6), 0, result.shape[axis] - 1).astype(int)
        last = np.maximum(np.ceil(edges[1:] - 1e-6).astype(int), first + 1)
        pairs = np.stack([first, np.minimum(last, result.shape[axis])], axis=1).ravel()
        # One more line, so that every range may end at the edge.
        padded = np.concatenate([result, np.zeros_like(result.take([0], axis))], axis)
        result = np.maximum.reduceat(padded, pairs, axis=axis).take(range(0, 2 * count, 2), axis)
    if target.mirror_y:
        result = result[::-1]
    if target.mirror_x:
        result = result[:, ::-1]
    return result.astype(bool)


def _positions(begin: float, size: float, count: int, grid: Grid, mirrored: bool) -> Array:
    """Return which sample (a fraction) each pixel of the picture falls on."""
    centres = begin + (np.arange(count) + 0.5) * (size / count)
    if mirrored:
        centres = centres[::-1]
    return (centres - grid.centre) / grid.step


def _rounded(positions: Array, size: int) -> Array:
    return np.clip(np.floor(positions + 0.5), 0, size - 1).astype(np.intp)


def _averaged(values: Array, edges: Array, grid: Grid, axis: int) -> Array:
    """Return the mean between each two ``edges``, samples at them in part; none is left out."""
    count = values.shape[axis]
    places = (edges - grid.centre) / grid.step + 0.5
    # What lies beyond the last sample takes its value.
    begins, ends = np.clip(places[:-1], 0, count - 1), np.clip(places[1:], 1, count)
    first, last = begins.astype(np.intp), ends.astype(np.intp)
    lines = np.moveaxis(values, axis, 0)
    # A sum of whole lines after the other: several times faster than any of numpy's own loops.
    pairs = zip(first.tolist(), last.tolist(), strict=True)
    sums = np.stack([lines[a:b].sum(0, dtype=np.float32) for a, b in pairs])
    shape = (-1,) + (1,) * (values.ndim - 1)
    before = lines[first] * (begins - first).astype(np.float32).reshape(shape)
    after = lines[np.minimum(last, count - 1)] * (ends - last).astype(np.float32).reshape(shape)
    width = (ends - begins).astype(np.float32).reshape(shape)
    return np.moveaxis((sums - before + after) / width, 0, axis)


def _blended(values: Array, where: Array, axis: int) -> Array:
    last = values.shape[axis] - 1
    where = np.clip(where, 0, last)
    low = np.floor(where).astype(np.intp)
    high = np.minimum(low + 1, last)
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    weight = (where - low).astype(np.float32).reshape(shape)
    below = values.take(low, axis).astype(np.float32)
    return below + (values.take(high, axis) - below) * weight
