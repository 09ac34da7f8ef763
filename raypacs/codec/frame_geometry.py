"""Where each frame of an instance lies in the patient, read from its DICOM JSON.

Single-frame instances say it at the top (Image Plane Module, PS3.3 section C.7.6.2), enhanced
multi-frame ones in functional groups (C.7.6.16), dose grids by Grid Frame Offset Vector
(C.8.8.3.2), tomographic NM images by Spacing Between Slices (C.8.4.15). What is not there stays
None; nothing here judges whether frames make a volume: :mod:`raypacs.codec.geometry` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Vector = tuple[float, ...]

LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
_MOST_FRAMES = 1 << 16
_NONE: list[Any] = []

_IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _MODALITY = "00080008", "00080016", "00080018", "00080060"
_FRAME_OF_REFERENCE = "00200052"
_POSITION, _ORIENTATION, _SPACING = "00200032", "00200037", "00280030"
_SAMPLES, _PHOTOMETRIC, _FRAMES = "00280002", "00280004", "00280008"
_ROWS, _COLUMNS, _BITS_ALLOCATED, _SIGNED = "00280010", "00280011", "00280100", "00280103"
_PADDING, _PADDING_LIMIT = "00280120", "00280121"
_CENTER, _WIDTH, _INTERCEPT, _SLOPE = "00281050", "00281051", "00281052", "00281053"
_RESCALE_TYPE, _MODALITY_LUT, _PET_UNITS = "00281054", "00283000", "00541001"
_SHARED, _PER_FRAME = "52009229", "52009230"
_DOSE_OFFSETS, _DOSE_SCALING, _DOSE_UNITS = "3004000C", "3004000E", "30040002"
_DETECTOR, _STEP = "00540022", "00180088"

# Functional groups: sequence, then the attribute inside (PS3.3 section C.7.6.16.2).
_PLANE_POSITION, _PLANE_ORIENTATION, _PIXEL_MEASURES = "00209113", "00209116", "00289110"
_VALUE_TRANSFORM, _FRAME_WINDOW = "00289145", "00289132"
# What tells frames at one place apart: time, echo, diffusion weight, kind of image.
_VARIANTS = (
    *(("", _IMAGE_TYPE), ("", "00180081"), ("", "00189087"), ("", "00200100"), ("", "00200012")),
    *(("00189226", "00089007"), ("00189114", "00189082"), ("00189117", "00189087")),
    *(("00209111", "00209128"), ("00189329", "00089007")),
)
GEOMETRY_TAGS = frozenset(
    {
        *(_IMAGE_TYPE, _SOP_CLASS, _SOP_INSTANCE, _MODALITY, _FRAME_OF_REFERENCE),
        *(_POSITION, _ORIENTATION, _SPACING, _SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS),
        *(_BITS_ALLOCATED, _SIGNED, _PADDING, _PADDING_LIMIT),
        *(_CENTER, _WIDTH, _INTERCEPT, _SLOPE, _RESCALE_TYPE, _MODALITY_LUT, _PET_UNITS),
        *(_SHARED, _PER_FRAME, _DOSE_OFFSETS, _DOSE_SCALING, _DOSE_UNITS, _DETECTOR, _STEP),
        *(tag for sequence, tag in _VARIANTS if not sequence),
    }
)
"""All that :func:`frames_of` looks at, at the top of a data set."""


@dataclass(frozen=True, slots=True)
class Look:
    """What frames must share to be of one volume, besides place and size.

    ``padding`` is the inclusive range of stored values that mean "no image" (Pixel Padding Value
    and its Range Limit, PS3.3 section C.7.5.1.1.2), in the sign of the samples.
    """

    modality: str
    units: str
    photometric: str
    samples: int
    frame_of_reference_uid: str
    padding: tuple[int, int] | None
    label_map: bool = False
    linear: bool = True
    """The modality transform is slope and intercept, not a table."""


@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """One frame: position and orientation in patient coordinates (mm, LPS).

    ``orientation`` holds the direction cosines of rows, then of columns; ``spacing`` the distance
    between rows, then between columns, in mm. ``scale`` is (slope, intercept) from stored to
    modality units, ``window`` (center, width) in modality units. ``variant`` tells frames at the
    same place apart.
    """

    sop_instance_uid: str
    frame_number: int
    rows: int
    columns: int
    position: Vector | None
    orientation: Vector | None
    spacing: Vector | None
    scale: tuple[float, float]
    window: tuple[float, float] | None
    variant: tuple[str, ...]
    look: Look


def frames_of(instance: Json) -> list[FrameGeometry]:
    """Return the frames of one instance from its DICOM JSON object (PS3.18 annex F)."""
    count = int(_number(instance, _FRAMES) or 1)
    if not 1 <= count <= _MOST_FRAMES:
        return []
    look = _look(instance)
    places = list(_places(instance, count))
    shared = _item(instance, _SHARED) or {}
    per_frame = _items(instance, _PER_FRAME)
    uid = str(_first(instance, _SOP_INSTANCE) or "")
    rows, columns = (int(_number(instance, tag) or 0) for tag in (_ROWS, _COLUMNS))
    frames = []
    for number in range(count):
        own = per_frame[number] if number < len(per_frame) else {}
        groups = (own, shared, instance)
        frames.append(
            FrameGeometry(
                sop_instance_uid=uid,
                frame_number=number + 1,
                rows=rows,
                columns=columns,
                position=_group_vector(groups, _PLANE_POSITION, _POSITION, 3) or places[number],
                orientation=_group_vector(groups, _PLANE_ORIENTATION, _ORIENTATION, 6)
                or _detector_vector(instance, _ORIENTATION, 6),
                spacing=_group_vector(groups, _PIXEL_MEASURES, _SPACING, 2),
                scale=_scale(groups),
                window=_window(groups),
                variant=_variant(groups),
                look=look,
            )
        )
    return frames


def _look(instance: Json) -> Look:
    units = next(
        (str(found) for tag in (_PET_UNITS, _DOSE_UNITS) if (found := _first(instance, tag))), ""
    )
    shared = _item(instance, _SHARED) or {}
    groups = (_item(instance, _PER_FRAME) or {}, shared, instance)
    units = units or str(_first(_group(groups, _VALUE_TRANSFORM), _RESCALE_TYPE) or "")
    modality = str(_first(instance, _MODALITY) or "")
    return Look(
        modality=modality,
        # Rescale Type of CT is HU where it is not given (PS3.3 section C.8.2.1.1.2).
        units=units if units or modality != "CT" else "HU",
        photometric=str(_first(instance, _PHOTOMETRIC) or ""),
        samples=int(_number(instance, _SAMPLES) or 1),
        frame_of_reference_uid=str(_first(instance, _FRAME_OF_REFERENCE) or ""),
        padding=_padding(instance),
        label_map=_first(instance, _SOP_CLASS) == LABEL_MAP_STORAGE,
        linear=not _items(instance, _MODALITY_LUT),
    )


def _padding(instance: Json) -> tuple[int, int] | None:
    first, limit = _number(instance, _PADDING), _number(instance, _PADDING_LIMIT)
    if first is None:
        return None
    bits = int(_number(instance, _BITS_ALLOCATED) or 16)
    signed = _number(instance, _SIGNED) == 1

    def stored(value: float) -> int:
        # Real series hold it unsigned beside signed samples, and the other way round.
        if signed and value >= 1 << (bits - 1):
            return int(value) - (1 << bits)
        return int(value) + (1 << bits) if not signed and value < 0 else int(value)

    ends = stored(first), stored(first if limit is None else limit)
    return min(ends), max(ends)


def _places(instance: Json, count: int) -> Iterator[Vector | None]:
    """Yield positions of frames that have no functional group: at the top, plus offsets."""
    position = _vector(instance, _POSITION, 3) or _detector_vector(instance, _POSITION, 3)
    if position is None or count == 1:
        yield from [position] * count
        return
    orientation = _vector(instance, _ORIENTATION, 6) or _detector_vector(instance, _ORIENTATION, 6)
    offsets = _offsets(instance, count)
    if orientation is None or offsets is None:
        yield from [None] * count
        return
    a, b = orientation[:3], orientation[3:]
    normal = (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )
    for offset in offsets:
        yield tuple(at + offset * along for at, along in zip(position, normal, strict=True))


def _offsets(instance: Json, count: int) -> list[float] | None:
    """Return how far along the normal each frame lies from the position at the top."""
    found = _vector(instance, _DOSE_OFFSETS, count)
    if found is not None:
        # Either relative, beginning with 0, or patient z, beginning with that of the position.
        return [offset - found[0] for offset in found]
    step = _number(instance, _STEP)
    is_tomographic = _items(instance, _DETECTOR) and step
    return [number * step for number in range(count)] if is_tomographic and step else None


def _scale(groups: Sequence[Json]) -> tuple[float, float]:
    dose = _number(groups[-1], _DOSE_SCALING)
    if dose:
        return dose, 0.0
    source = _group(groups, _VALUE_TRANSFORM)
    slope, intercept = _number(source, _SLOPE), _number(source, _INTERCEPT)
    return (slope if slope else 1.0), (intercept if intercept is not None else 0.0)


def _window(groups: Sequence[Json]) -> tuple[float, float] | None:
    source = _group(groups, _FRAME_WINDOW)
    center, width = _number(source, _CENTER), _number(source, _WIDTH)
    if center is None or width is None or width < 1:
        return None
    return center, width


def _variant(groups: Sequence[Json]) -> tuple[str, ...]:
    own, shared, top = groups
    values = []
    for sequence, tag in _VARIANTS:
        source = (_item(own, sequence) or _item(shared, sequence) or {}) if sequence else top
        # Number of the slice, in some makers' Image Type, is no variant: values beyond the fourth.
        values.append(str(found[:4]) if (found := _values(source, tag)) else "")
    return tuple(values)


# ---- DICOM JSON ---------------------------------------------------------------------------------
def _values(source: Json, tag: str) -> list[Any]:
    found = source.get(tag)
    values = found.get("Value") if type(found) is dict else None
    return values if type(values) is list else _NONE


def _first(source: Json, tag: str) -> Any:
    values = _values(source, tag)
    return values[0] if values else None


def _items(source: Json, tag: str) -> list[Json]:
    return [item if type(item) is dict else {} for item in _values(source, tag)]


def _item(source: Json, tag: str) -> Json | None:
    if tag not in source:
        return None
    found = _items(source, tag)
    return found[0] if found else None


def _group(groups: Sequence[Json], sequence: str) -> Json:
    """Return the functional group of the frame, else of all frames, else the top of the header."""
    for group in groups[:-1]:
        found = _item(group, sequence)
        if found is not None:
            return found
    return groups[-1]


def _group_vector(groups: Sequence[Json], sequence: str, tag: str, length: int) -> Vector | None:
    source = _group(groups, sequence)
    if source is groups[-1] and tag == _POSITION:
        return None  # frames without a group have positions of their own, see _places
    return _vector(source, tag, length)


def _detector_vector(instance: Json, tag: str, length: int) -> Vector | None:
    return _vector(_item(instance, _DETECTOR) or {}, tag, length)


def _vector(source: Json, tag: str, length: int) -> Vector | None:
    values = _values(source, tag)
    if len(values) != length:
        return None
    numbers = [_float(value) for value in values]
    return None if None in numbers else tuple(n for n in numbers if n is not None)


def _number(source: Json, tag: str) -> float | None:
    return _float(_first(source, tag))


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
