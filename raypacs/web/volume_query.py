"""The query parameters of a 3-D overview; what is wrong with one is a 400 that names it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raypacs.codec import volume_planes as planes
from raypacs.codec.volume import VolumeHeader
from raypacs.codec.volume_planes import Plane, Vector
from raypacs.errors import InvalidQuery
from raypacs.web.problem import Problem

FORMATS = ("npy", "png", "json", "rpv3")
_WHERE = ("position", "index", "mm")
_OBLIQUE = ("origin", "row", "column")
_KNOWN = frozenset({"format", "plane", "window", "size", "spacing", "accept", *_WHERE, *_OBLIQUE})
_DEFAULT_SIDE = 256
_RIGHT_ANGLE = 0.01  # cosine that still counts as one; such directions are put right


@dataclass(frozen=True, slots=True)
class ObliqueAsked:
    """A plane anywhere: centre of the first pixel, directions of rows and columns."""

    origin: Vector
    row: Vector
    column: Vector


@dataclass(frozen=True, slots=True)
class PlaneAsked:
    """The plane of a request: one of the three directions, or oblique.

    One of ``position`` (0 to 1), ``index`` and ``mm`` may be given; none: the middle. ``size`` is
    columns, rows.
    """

    name: str = ""
    position: float | None = None
    index: int | None = None
    mm: float | None = None
    oblique: ObliqueAsked | None = None
    size: tuple[int, int] | None = None
    spacing_mm: float | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """What the parameters ask for; ``format`` '' if none is named."""

    format: str = ""
    plane: PlaneAsked | None = None
    window: tuple[float, float] | None = None


def read_query(params: Mapping[str, str]) -> Query:
    """Parse the parameters.

    Raises:
        Problem: 400, naming the parameter.
    """
    for name in params:
        if name not in _KNOWN:
            raise Problem(400, f"{name}: no such parameter; there are {', '.join(sorted(_KNOWN))}")
    chosen = params.get("format", "")
    if "format" in params and chosen not in FORMATS:
        raise Problem(400, f"format={chosen!r} is not {', '.join(FORMATS)}")
    plane = _plane(params)
    if plane is not None and chosen not in ("", "png"):
        raise Problem(400, f"format={chosen!r}: planes are png")
    window = None
    if "window" in params:
        center, width = _numbers(params, "window", 2)
        if width <= 0:
            raise Problem(400, f"window={params['window']!r}: the width is more than 0")
        window = center, width
    return Query(chosen, plane, window)


def _plane(params: Mapping[str, str]) -> PlaneAsked | None:
    oblique = [name for name in _OBLIQUE if name in params]
    where = [name for name in _WHERE if name in params]
    if not oblique and not where and "plane" not in params:
        for name in ("size", "spacing"):
            if name in params:
                raise Problem(400, f"{name}: goes with plane, or with origin, row and column")
        return None
    if oblique:
        missing = [name for name in _OBLIQUE if name not in params]
        if missing:
            raise Problem(400, f"{missing[0]}: origin, row and column go together")
        if "plane" in params or where:
            raise Problem(400, f"{(['plane'] * ('plane' in params) + where)[0]}: not with origin")
        return PlaneAsked(oblique=_oblique(params), size=_size(params), spacing_mm=_spacing(params))
    if len(where) > 1:
        raise Problem(400, f"{where[1]}: only one of {', '.join(_WHERE)}")
    name = params.get("plane", "axial")
    if name not in planes.AXES:
        raise Problem(400, f"plane={name!r} is not {', '.join(sorted(planes.AXES))}")
    return PlaneAsked(
        name,
        position=_position(params),
        index=_index(params),
        mm=_number(params, "mm"),
        size=_size(params),
        spacing_mm=_spacing(params),
    )


def plane_of(header: VolumeHeader, asked: PlaneAsked) -> Plane:
    """Return the plane of a volume that is asked for.

    Raises:
        Problem: 400, it is outside of the volume.
    """
    spacing = asked.spacing_mm or planes.default_spacing_mm(header)
    if asked.oblique is not None:
        columns, rows = asked.size or (_DEFAULT_SIDE, _DEFAULT_SIDE)
        one = asked.oblique
        return Plane(one.origin, one.row, one.column, spacing, rows, columns)
    axis = planes.axis(header, asked.name)
    mm = axis.from_mm + (axis.to_mm - axis.from_mm) * 0.5
    if asked.position is not None:
        mm = axis.from_mm + (axis.to_mm - axis.from_mm) * asked.position
    elif asked.index is not None:
        if asked.index >= axis.count:
            raise Problem(400, f"index={asked.index} is not 0 to {axis.count - 1}")
        mm = axis.from_mm + axis.step_mm * asked.index
    elif asked.mm is not None:
        mm = asked.mm
    try:
        plane = planes.standard_plane(header, asked.name, mm)
    except InvalidQuery as exc:
        raise Problem(400, str(exc)) from exc
    if asked.size is None and asked.spacing_mm is None:
        return plane
    return _resized(plane, asked.size, spacing)


def _resized(plane: Plane, size: tuple[int, int] | None, spacing: float) -> Plane:
    """Return the plane with other pixels around the same middle."""
    if size is None:
        scale = plane.spacing_mm / spacing
        size = _side(plane.columns * scale), _side(plane.rows * scale)
    columns, rows = size
    row, column = np.array(plane.row), np.array(plane.column)
    middle = np.array(plane.origin) + plane.spacing_mm * (
        row * (plane.columns - 1) / 2 + column * (plane.rows - 1) / 2
    )
    x, y, z = map(float, middle - spacing * (row * (columns - 1) / 2 + column * (rows - 1) / 2))
    return Plane((x, y, z), plane.row, plane.column, spacing, rows, columns)


def _side(size: float) -> int:
    return min(planes.MOST_SIDE, max(1, round(size)))


def _oblique(params: Mapping[str, str]) -> ObliqueAsked:
    origin = _numbers(params, "origin", 3)
    row, column = (np.array(_numbers(params, name, 3)) for name in ("row", "column"))
    for name, one in (("row", row), ("column", column)):
        if not np.linalg.norm(one) > 1e-6:
            raise Problem(400, f"{name}={params[name]!r} is no direction")
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    if abs(float(row @ column)) > _RIGHT_ANGLE:
        raise Problem(400, f"column={params['column']!r} is not at a right angle to row")
    column = column - row * (row @ column)
    column = column / np.linalg.norm(column)
    return ObliqueAsked(_vector(origin), _vector(row), _vector(column))


def _vector(values: tuple[float, ...] | np.ndarray) -> Vector:
    x, y, z = map(float, values)
    return x, y, z


def _position(params: Mapping[str, str]) -> float | None:
    value = _number(params, "position")
    if value is not None and not 0 <= value <= 1:
        raise Problem(400, f"position={params['position']!r} is not 0 to 1")
    return value


def _index(params: Mapping[str, str]) -> int | None:
    text = params.get("index")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Problem(400, f"index={text!r} is not a number from 0")
    return int(text)


def _size(params: Mapping[str, str]) -> tuple[int, int] | None:
    if "size" not in params:
        return None
    parts = params["size"].split(",")
    good = all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts)
    sides = tuple(int(part) for part in parts) if good and len(parts) in (1, 2) else ()
    if not sides or not all(1 <= side <= planes.MOST_SIDE for side in sides):
        raise Problem(
            400, f"size={params['size']!r} is not columns,rows, each 1 to {planes.MOST_SIDE}"
        )
    return sides[0], sides[-1]


def _spacing(params: Mapping[str, str]) -> float | None:
    value = _number(params, "spacing")
    if value is not None and not 1e-3 <= value <= 1e3:
        raise Problem(400, f"spacing={params['spacing']!r} is not 0.001 to 1000 mm")
    return value


def _number(params: Mapping[str, str], name: str) -> float | None:
    return _numbers(params, name, 1)[0] if name in params else None


def _numbers(params: Mapping[str, str], name: str, count: int) -> tuple[float, ...]:
    text = params[name]
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    # Beyond that no place in a patient is meant, and products would overflow.
    if len(values) != count or not all(math.isfinite(v) and abs(v) < 1e9 for v in values):
        what = "a number" if count == 1 else f"{count} numbers joined by commas"
        raise Problem(400, f"{name}={text!r} is not {what}")
    return values
