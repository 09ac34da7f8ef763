"""Which frames of a series make a volume, and how its voxels lie in the patient: pure.

A volume is 16 or more frames of one size, orientation and pixel spacing whose positions follow
each other evenly along a line. The line may run oblique to the slices (gantry tilt): the affine
then has a shear. Frames of other orientations (localizers) are left out. Where several frames lie
at each place (time, echo, diffusion weight), the first complete stack is taken; where only a few
places have more than one (a slice that was sent again), the first frame of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.codec.frame_geometry import FrameGeometry, Vector
from raypacs.errors import UnsupportedPixels

Array = NDArray[Any]

FEWEST_FRAMES = 16
MOST_FRAMES = 4096
EVEN_TOLERANCE = 0.1
"""A slice may lie this part of a slice distance beside its place (positions are rounded)."""
MOST_TILT_DEGREES = 60.0
_SAME_DIRECTION = 2e-3  # of direction cosines: a tenth of a degree
_SAME_SPACING = 1e-3
_SAME_PLACE_MM = 1e-3
_LEAST_SLACK_MM = 0.01
_MOST_AGAIN = 0.1  # of the places: more is no accident, but a second stack with gaps


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames of a volume in order along the normal of the slices.

    ``affine`` (4 x 4) maps (column, row, slice, 1) to patient mm (LPS: x to the left, y to the
    back, z to the head; PS3.3 section C.7.6.2.1.1). ``tilt_degrees`` is the angle between the
    line of the positions and the normal. ``left_out`` frames of the series are not in it, and
    ``repeats`` says how many lie at each place. ``pack_order`` holds the indices of ``frames`` in
    the order of the pack, which is that of cheap reading.
    """

    frames: tuple[FrameGeometry, ...]
    pack_order: tuple[int, ...]
    affine: Array
    tilt_degrees: float
    left_out: int
    repeats: int


def find_stack(frames: Iterable[FrameGeometry]) -> Stack:
    """Return the volume among the frames of a series, given in the order of the pack.

    Raises:
        UnsupportedPixels: they are no volume; the message is the reason.
    """
    every = list(frames)
    usable = [frame for frame in every if not _obstacle(frame)]
    if len(usable) < FEWEST_FRAMES:
        reasons = [reason for frame in every if (reason := _obstacle(frame))]
        most = f" ({max(set(reasons), key=reasons.count)})" if reasons else ""
        raise UnsupportedPixels(
            f"{len(usable)} frames could be slices, a volume has {FEWEST_FRAMES} or more{most}"
        )
    groups = _alike(usable)
    largest = max(groups, key=len)  # the first of equals
    if len(largest) < FEWEST_FRAMES:
        raise UnsupportedPixels(
            f"at most {len(largest)} of {len(usable)} frames share size, orientation and spacing, "
            f"a volume has {FEWEST_FRAMES} or more"
        )
    return _stack(largest, len(every))


def _obstacle(frame: FrameGeometry) -> str:
    """Return why a frame cannot be a slice, or ''."""
    look = frame.look
    if look.samples != 1 or not look.photometric.startswith("MONOCHROME"):
        return f"{look.photometric} is not grey" if look.photometric else "no pixels"
    if look.label_map:
        return "labels have no averages"
    if not look.linear:
        return "the modality transform is a table"
    if frame.position is None:
        return "no Image Position (Patient)"
    if frame.orientation is None or not _is_rotation(frame.orientation):
        return "no valid Image Orientation (Patient)"
    if frame.spacing is None or min(frame.spacing) <= 0:
        return "no Pixel Spacing"
    return ""


def _is_rotation(orientation: Sequence[float]) -> bool:
    row, column = orientation[:3], orientation[3:]
    slack = 0.01
    return (
        abs(math.hypot(*row) - 1) < slack
        and abs(math.hypot(*column) - 1) < slack
        and abs(sum(a * b for a, b in zip(row, column, strict=True))) < slack
    )


def _alike(frames: Sequence[FrameGeometry]) -> list[list[FrameGeometry]]:
    """Divide frames into groups of one look, size, spacing and orientation."""
    by_value: dict[tuple[Any, ...], list[FrameGeometry]] = {}
    for frame in frames:
        key = (frame.orientation, frame.spacing, frame.rows, frame.columns, frame.look)
        by_value.setdefault(key, []).append(frame)
    groups: list[list[FrameGeometry]] = []
    for found in by_value.values():
        group = next((group for group in groups if _are_alike(group[0], found[0])), None)
        if group is None:
            groups.append(found)
        else:
            group += found
    if len(by_value) > 1:
        order = {id(frame): number for number, frame in enumerate(frames)}
        for group in groups:
            group.sort(key=lambda frame: order[id(frame)])
    return groups


def _are_alike(first: FrameGeometry, second: FrameGeometry) -> bool:
    orientation, spacing = _plane(first)
    others = _plane(second)
    same = (first.rows, first.columns) == (second.rows, second.columns)
    # The value that pads may differ from slice to slice.
    one, other = first.look, second.look
    return (
        same
        and (one.modality, one.units, one.photometric, one.frame_of_reference_uid)
        == (other.modality, other.units, other.photometric, other.frame_of_reference_uid)
        and _close(orientation, others[0], _SAME_DIRECTION)
        and _close(spacing, others[1], _SAME_SPACING * spacing[0])
    )


def _plane(frame: FrameGeometry) -> tuple[Vector, Vector]:
    """Return (orientation, spacing) of a frame without obstacle."""
    assert frame.orientation is not None
    assert frame.spacing is not None
    return frame.orientation, frame.spacing


def _close(first: Sequence[float], second: Sequence[float], slack: float) -> bool:
    return all(abs(a - b) <= slack for a, b in zip(first, second, strict=True))


def _stack(group: list[FrameGeometry], total: int) -> Stack:
    """Return the stack of a group, or of its first part that is complete and even."""
    places, where = _places(group)
    counts = np.bincount(where, minlength=places)
    if counts.max() == 1:
        try:
            return _even(group, total, 1)
        except UnsupportedPixels as exc:
            refused = exc
    elif places < FEWEST_FRAMES:
        refused = UnsupportedPixels(f"{len(group)} frames lie at {places} places only")
    else:
        refused = UnsupportedPixels(
            f"some places have {counts.min()} frames and others {counts.max()}"
        )
    for part in _variants(group):
        repeats = int(counts.max()) if len(part) == places else 1
        try:
            return _even(part, total, repeats)
        except UnsupportedPixels:
            continue
    if places >= FEWEST_FRAMES and counts.min() == counts.max() > 1:
        return _even(_first_of_each(group, where), total, int(counts[0]))
    if places >= FEWEST_FRAMES and len(group) - places <= _MOST_AGAIN * places:
        return _even(_first_of_each(group, where), total, 1)
    raise refused


def _first_of_each(group: Sequence[FrameGeometry], where: NDArray[np.intp]) -> list[FrameGeometry]:
    _, first = np.unique(where, return_index=True)
    return [group[index] for index in sorted(first)]


def _places(group: Sequence[FrameGeometry]) -> tuple[int, NDArray[np.intp]]:
    """Return how many places along the normal there are, and that of each frame."""
    along = _positions(group) @ _normal(group[0])
    order = np.argsort(along, kind="stable")
    new = np.diff(along[order]) > _SAME_PLACE_MM
    where = np.empty(len(group), np.intp)
    where[order] = np.concatenate([[0], np.cumsum(new)])
    return int(where.max()) + 1, where


def _variants(group: Sequence[FrameGeometry]) -> list[list[FrameGeometry]]:
    """Return the parts of a group with one variant and no place twice, largest first."""
    parts: dict[tuple[str, ...], list[FrameGeometry]] = {}
    for frame in group:
        parts.setdefault(frame.variant, []).append(frame)
    if len(parts) == 1:
        return []
    found = [part for part in parts.values() if len(part) >= FEWEST_FRAMES]
    found = [part for part in found if _places(part)[0] == len(part)]
    return sorted(found, key=len, reverse=True)


def _even(group: Sequence[FrameGeometry], total: int, repeats: int) -> Stack:
    """Return the stack of frames that lie at one place each.

    Raises:
        UnsupportedPixels: too many, not evenly spaced, or shifted along the slices.
    """
    if len(group) > MOST_FRAMES:
        raise UnsupportedPixels(f"{len(group)} slices, at most {MOST_FRAMES} are taken")
    normal = _normal(group[0])
    positions = _positions(group)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    count = len(group)
    # The line through all positions: the ends alone may be rounded.
    number = np.arange(count) - (count - 1) / 2
    middle = positions.mean(axis=0)
    step = number @ (positions - middle) / (number @ number)
    origin = middle + number[0] * step
    distance = float(step @ normal)
    gaps = np.diff(along)
    slack = max(EVEN_TOLERANCE * distance, _LEAST_SLACK_MM)
    beside = positions - (middle + number[:, None] * step)
    if np.abs(beside).max() > slack:
        raise UnsupportedPixels(_uneven(gaps, beside @ normal, slack))
    tilt = math.degrees(math.acos(min(1.0, distance / float(np.linalg.norm(step)))))
    if tilt > MOST_TILT_DEGREES:
        raise UnsupportedPixels(f"positions run {tilt:.0f} degrees oblique to the slices")
    orientation, spacing = _plane(group[int(order[0])])
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[:3]) * spacing[1]
    affine[:3, 1] = np.array(orientation[3:]) * spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    frames = tuple(group[int(index)] for index in order)
    pack_order = tuple(int(index) for index in np.argsort(order, kind="stable"))
    return Stack(frames, pack_order, affine, tilt, total - count, repeats)


def _uneven(gaps: Array, beside: Array, slack: float) -> str:
    usual = float(np.median(gaps))
    worst = int(np.argmax(np.abs(gaps - usual)))
    if np.abs(beside).max() <= slack:
        return "slices are shifted against each other along their planes"
    missing = " (a slice is missing)" if gaps[worst] > 1.5 * usual else ""
    return (
        f"slices are not evenly spaced: {usual:.4g} mm apart, but {gaps[worst]:.4g} mm between "
        f"slice {worst + 1} and {worst + 2}{missing}"
    )


def _positions(group: Sequence[FrameGeometry]) -> Array:
    return np.array([frame.position for frame in group], np.float64)


def _normal(frame: FrameGeometry) -> Array:
    orientation, _ = _plane(frame)
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal))
