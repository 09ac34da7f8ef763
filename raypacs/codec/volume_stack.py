"""From a stack of frames at low resolution to a coded 3-D overview: scale, window, affine. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.codec import volume
from raypacs.codec.frame_geometry import FrameGeometry
from raypacs.codec.geometry import Stack
from raypacs.errors import UnsupportedPixels

Array = NDArray[Any]
DecodeFrames = Callable[[Sequence[FrameGeometry], int], Iterable[Array]]
"""Gives frames in their order, rows x columns of stored values, sides halved so many times; asked
once, in the order of the pack."""

_LEAST_SIDE = 16  # rows and columns are not halved below
_DARKEST, _BRIGHTEST = 1.0, 99.5  # per cent of the voxels, where the headers give no one window


def make_volume(stack: Stack, decode: DecodeFrames, *, levels: int, frame_bytes: int) -> bytes:
    """Return the coded 3-D overview of a stack.

    ``levels``: how often the sides of each frame can be halved; ``frame_bytes``: raw bytes of one.

    Raises:
        UnsupportedPixels: the values cannot be coded, or not in half a per cent of the raw bytes
            however often they are halved (noise); and what ``decode`` raises.
    """
    first = stack.frames[0]
    steps = [float(np.linalg.norm(stack.affine[:3, axis])) for axis in range(3)]
    reduction = volume.plan_reduction(
        (len(stack.frames), first.rows, first.columns), levels, min(steps[:2]), steps[2]
    )
    samples, (slope, intercept), integers = _samples(stack, decode, reduction.halvings)
    window = _window(stack, samples, slope, intercept)
    samples = volume.halve_slices(samples, reduction.slice_halvings)
    grow = np.array([1 << reduction.halvings] * 2 + [1 << reduction.slice_halvings, 1])
    facts = volume.VolumeFacts(
        affine=tuple(tuple(map(float, row)) for row in stack.affine * grow),
        frames=len(stack.frames),
        instances=len({frame.sop_instance_uid for frame in stack.frames}),
        left_out=stack.left_out,
        repeats=stack.repeats,
        source_rows=first.rows,
        source_columns=first.columns,
        halvings=reduction.halvings,
        slice_halvings=reduction.slice_halvings,
        raw_bytes=frame_bytes * len(stack.frames),
        tilt_degrees=stack.tilt_degrees,
        modality=first.look.modality,
        units=first.look.units,
        photometric=first.look.photometric,
        frame_of_reference_uid=first.look.frame_of_reference_uid,
        slope=slope,
        intercept=intercept,
        integers=integers,
        window=window,
    )
    return _within_budget(samples, facts)


def _within_budget(samples: Array, facts: volume.VolumeFacts) -> bytes:
    """Code samples, halved as often as it takes to keep the budget. Raises UnsupportedPixels."""
    budget = volume.budget_of(facts)
    while len(data := volume.encode_volume(samples, facts)) > budget:
        affine = np.array(facts.affine)
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        can_sides = min(samples.shape[1:]) >= 2 * _LEAST_SIDE
        can_slices = len(samples) >= 2 * volume.FEWEST_SLICES
        if can_slices and (steps[2] < min(steps[:2]) or not can_sides):
            samples, grow = volume.halve_slices(samples, 1), np.array([1, 1, 2, 1])
            facts = replace(facts, slice_halvings=facts.slice_halvings + 1)
        elif can_sides:
            samples, grow = volume.halve_sides(samples), np.array([2, 2, 1, 1])
            facts = replace(facts, halvings=facts.halvings + 1)
        else:
            raise UnsupportedPixels(
                f"noise: {len(data)} bytes at the coarsest, a volume may take {budget}"
            )
        facts = replace(facts, affine=tuple(tuple(map(float, row)) for row in affine * grow))
    return data


def _samples(
    stack: Stack, decode: DecodeFrames, halvings: int
) -> tuple[Array, tuple[float, float], bool]:
    """Return slices x rows x columns, (slope, intercept) to modality units, whether integers.

    Where slices differ in scale (PET), they are brought to modality units first.
    """
    scales = {frame.scale for frame in stack.frames}
    slices: list[Array] = [np.empty(0)] * len(stack.frames)
    ordered = [stack.frames[index] for index in stack.pack_order]
    decoded = decode(ordered, halvings)
    for index, frame, pixels in zip(stack.pack_order, ordered, decoded, strict=True):
        if len(scales) > 1:
            pixels = pixels * np.float32(frame.scale[0]) + np.float32(frame.scale[1])
        slices[index] = pixels
    if len(scales) > 1:
        return np.stack(slices), (1.0, 0.0), False
    return np.stack(slices), scales.pop(), True


def _window(stack: Stack, samples: Array, slope: float, intercept: float) -> tuple[float, float]:
    """Return (center, width): that of all headers, else from the values that are no padding."""
    windows = {frame.window for frame in stack.frames}
    if len(windows) == 1 and (only := windows.pop()) is not None:
        return only
    values = samples[::2, ::2, ::2].astype(np.float64) * slope + intercept
    padding = stack.frames[0].look.padding
    if padding is not None:
        scale = stack.frames[0].scale
        ends = sorted(end * scale[0] + scale[1] for end in padding)
        kept = values[(values < ends[0]) | (values > ends[1])]
        values = kept if kept.size else values
    dark, bright = (float(end) for end in np.percentile(values, (_DARKEST, _BRIGHTEST)))
    return (dark + bright) / 2, max(bright - dark, 1e-6)
