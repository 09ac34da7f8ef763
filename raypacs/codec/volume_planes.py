"""Planes cut out of a decoded 3-D overview, in patient coordinates (mm, LPS): pure.

Whatever the orientation of the slices, and also where the gantry was tilted, planes are cut on a
square grid in the patient: the affine of the volume says where its voxels lie. Values between
voxels are interpolated trilinearly.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.codec.volume import Volume, VolumeHeader
from raypacs.errors import InvalidQuery

Array = NDArray[Any]
Vector = tuple[float, float, float]

MOST_SIDE = 1024
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
# Direction of rows (to the right of the picture) and of columns (downwards), as radiologists look:
# axial from the feet (patient's right on the left), coronal from the front, both with the head
# or the front up; sagittal with the front on the left.
_DIRECTIONS: dict[str, tuple[Vector, Vector]] = {
    "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
    "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
    "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
}


@dataclass(frozen=True, slots=True)
class Plane:
    """A picture's place: ``origin`` is the centre of its first pixel, ``row`` the direction of
    rows (columns grow along it), ``column`` that of columns; pixels are ``spacing_mm`` square.
    """

    origin: Vector
    row: Vector
    column: Vector
    spacing_mm: float
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Axis:
    """The planes of one direction: ``count`` of them, ``step_mm`` apart, centres from and to."""

    count: int
    step_mm: float
    from_mm: float
    to_mm: float
    rows: int
    columns: int


def axis(header: VolumeHeader, name: str) -> Axis:
    """Return what planes 'axial', 'coronal' or 'sagittal' there are.

    Raises:
        InvalidQuery: no such direction.
    """
    if name not in AXES:
        raise InvalidQuery(f"plane={name!r} is not {', '.join(sorted(AXES))}")
    low, high = _extent(header)
    step = _step(header)
    number = AXES[name]
    counts = [max(1, round((high[n] - low[n]) / step)) for n in range(3)]
    row, column = (int(np.argmax(np.abs(one))) for one in _DIRECTIONS[name])
    first = float(low[number] + high[number] - (counts[number] - 1) * step) / 2
    return Axis(
        count=counts[number],
        step_mm=step,
        from_mm=first,
        to_mm=first + (counts[number] - 1) * step,
        rows=counts[column],
        columns=counts[row],
    )


def standard_plane(header: VolumeHeader, name: str, mm: float) -> Plane:
    """Return the plane ``name`` through ``mm`` on its axis (x, y or z of the patient).

    Raises:
        InvalidQuery: no such direction, or ``mm`` is outside of the volume.
    """
    found = axis(header, name)
    low, high = _extent(header)
    number = AXES[name]
    if not low[number] <= mm <= high[number]:
        raise InvalidQuery(f"mm={mm:g} is not {low[number]:g} to {high[number]:g}")
    row, column = (np.array(one) for one in _DIRECTIONS[name])
    middle = (low + high) / 2
    middle[number] = mm
    origin = middle - found.step_mm * (
        row * (found.columns - 1) / 2 + column * (found.rows - 1) / 2
    )
    x, y, z = map(float, origin)
    directions = _DIRECTIONS[name]
    return Plane((x, y, z), *directions, found.step_mm, found.rows, found.columns)


def default_spacing_mm(header: VolumeHeader) -> float:
    """Return the pixel spacing of planes for which none is asked: that of the finest axis."""
    return _step(header)


def cut(volume: Volume, plane: Plane) -> tuple[Array, Array]:
    """Return (float32 values in modality units, which pixels lie in the volume), rows x columns.

    Outside, the value of the nearest voxel is given.
    """
    voxels = volume.voxels
    to_voxel = np.linalg.inv(np.array(volume.header.facts.affine))
    at = to_voxel @ np.array([*plane.origin, 1.0])
    along_row = to_voxel[:3, :3] @ np.array(plane.row) * plane.spacing_mm
    along_column = to_voxel[:3, :3] @ np.array(plane.column) * plane.spacing_mm
    down = np.arange(plane.rows)[:, None]
    right = np.arange(plane.columns)[None, :]
    inside = np.ones((plane.rows, plane.columns), bool)
    lower: list[Array] = []
    upper: list[Array] = []
    weights: list[Array] = []
    # Column, row, slice of the volume; its strides in the flat array.
    for number, size, stride in zip(range(3), voxels.shape[::-1], _strides(voxels), strict=True):
        where = at[number] + along_column[number] * down + along_row[number] * right
        inside &= (where >= -0.5) & (where <= size - 0.5)
        np.clip(where, 0, size - 1, out=where)
        floor = where.astype(np.int32)
        weights.append((where - floor).astype(np.float32))
        lower.append(floor * stride)
        upper.append(np.minimum(floor + 1, size - 1) * stride)
    flat = voxels.reshape(-1)
    result = np.zeros((plane.rows, plane.columns), np.float32)
    for corner in itertools.product((0, 1), repeat=3):
        index = sum((upper if up else lower)[n] for n, up in enumerate(corner))
        weight: Any = np.float32(1)
        for n, up in enumerate(corner):
            weight = weight * (weights[n] if up else 1 - weights[n])
        result += weight * flat[index]
    return result, inside


def shown(
    values: Array, inside: Array, window: tuple[float, float], *, inverted: bool = False
) -> Array:
    """Return 8-bit grey: the window (center, width) from black to white; black outside.

    Linear, exact (PS3.3 section C.11.2.1.3.2). ``inverted``: MONOCHROME1.
    """
    center, width = window
    grey = np.clip((values - np.float32(center)) / np.float32(width) + np.float32(0.5), 0, 1)
    if inverted:
        grey = 1 - grey
    result: Array = (grey * 255 + np.float32(0.5)).astype(np.uint8)
    result[~inside] = 0
    return result


def _strides(voxels: Array) -> tuple[int, int, int]:
    _, rows, columns = voxels.shape
    return 1, columns, rows * columns


def _extent(header: VolumeHeader) -> tuple[Array, Array]:
    """Return the corners of the box around all voxels, whole ones, in patient mm."""
    affine = np.array(header.facts.affine)
    ends = [(-0.5, size - 0.5) for size in header.shape[::-1]]
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*ends)])
    places = (corners @ affine.T)[:, :3]
    return places.min(axis=0), places.max(axis=0)


def _step(header: VolumeHeader) -> float:
    """Return the finest distance between voxels; coarser where planes would be too large."""
    affine = np.array(header.facts.affine)
    finest = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    low, high = _extent(header)
    return max(finest, math.ceil(float((high - low).max()) / MOST_SIDE * 1e6) / 1e6)
