"""The 3-D overview of a series, made from its parts while they are being published.

Geometry comes from the element texts that pieces carry, else from the DICOM JSON in the parts;
pixels come from the beginnings of the codestreams: no instance is read again. A series that is no
volume has none; nothing that goes wrong here keeps a series from being published.
"""

from __future__ import annotations

import json
import logging
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypacs.codec import geometry, htj2k
from raypacs.codec.frame_geometry import FrameGeometry, frames_of
from raypacs.codec.volume import THREADS
from raypacs.codec.volume_stack import make_volume
from raypacs.errors import RaypacsError, UnsupportedPixels
from raypacs.policy import rules
from raypacs.storage import pack_format
from raypacs.storage.tier import Tier
from raypacs.work.parts import PartResult, PieceResult

Array = NDArray[Any]

_MOST_ELEMENTS = 512  # what slices share, of some series at a time; what they do not share goes
_log = logging.getLogger(__name__)
# What odd headers or a decoder may cause that nobody foresaw: it costs the overview only.
_UNFORESEEN = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError),
    *(BufferError, MemoryError, OSError, struct.error, zlib.error),
)


def series_volume(
    parts: Sequence[PartResult], web: Tier, is_kept: Callable[[PieceResult], bool]
) -> bytes | None:
    """Return the coded 3-D overview of a series; None where it is no volume (the log says why).

    ``is_kept`` says which pieces stay prepared. Never raises for what is wrong with the series.
    """
    if not parts or _could_be(parts, is_kept) < geometry.FEWEST_FRAMES:
        return None
    series_uid = parts[0].series_uid
    try:
        return _made(parts, web, is_kept)
    except UnsupportedPixels as exc:
        _log.info("no 3-D overview: %s", exc, extra={"series": series_uid})
    except (RaypacsError, *_UNFORESEEN):
        _log.exception("no 3-D overview", extra={"series": series_uid})
    return None


def _could_be(parts: Sequence[PartResult], is_kept: Callable[[PieceResult], bool]) -> int:
    """Return how many frames could be slices, from what is at hand without a read."""
    return sum(piece.count for _, piece in _grey(parts, is_kept))


def _grey(
    parts: Sequence[PartResult], is_kept: Callable[[PieceResult], bool]
) -> Iterator[tuple[PartResult, PieceResult]]:
    for part in parts:
        for piece in part.pieces:
            grey = piece.record.samples == 1 and piece.form == rules.HTJ2K
            if grey and not piece.low_own and is_kept(piece):
                yield part, piece


def _made(parts: Sequence[PartResult], web: Tier, is_kept: Callable[[PieceResult], bool]) -> bytes:
    frames: list[FrameGeometry] = []
    for part in parts:
        frames += _geometry(part, web, is_kept)
    stack = geometry.find_stack(frames)
    lows = _Lows(web)
    records = {}
    levels = []
    for part, piece in _grey(parts, is_kept):
        lows.add(part)
        records[piece.record.sop_instance_uid] = piece.record
        levels.append(piece.levels)
    record = records[stack.frames[0].sop_instance_uid]
    frame_bytes = record.rows * record.columns * record.bits_allocated // 8
    return make_volume(stack, lows.frames, levels=min(levels), frame_bytes=frame_bytes)


def _geometry(
    part: PartResult, web: Tier, is_kept: Callable[[PieceResult], bool]
) -> list[FrameGeometry]:
    """Return the frames of the instances whose header lies in a part."""
    text: bytes | None = None
    frames = []
    for _, piece in _grey([part], is_kept):
        if piece.metadata is None:
            continue
        if piece.geometry:
            instance = {}
            for element in piece.geometry:
                instance.update(_element(element))
        else:
            text = _metadata(part, web) if text is None else text
            offset, length = piece.metadata
            instance = json.loads(text[offset : offset + length])
        frames += frames_of(instance)
    return frames


@lru_cache(maxsize=_MOST_ELEMENTS)
def _element(text: str) -> dict[str, Any]:
    """Return `"ggggeeee":{...}` parsed. Most repeat from slice to slice: not to be changed."""
    return dict(json.loads("{" + text + "}"))


def _metadata(part: PartResult, web: Tier) -> bytes:
    block = part.metadata
    packed = web.read(part.path, block.offset, block.length)
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, block.raw_length)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a part object a frame lies: low part and rest; and its plane, if it has one.

    ``plane_offset`` counts from the first plane of the part; ``plane_halvings`` 0: there is none.
    """

    part: PartResult
    low_offset: int
    low_length: int
    rest_offset: int
    rest_length: int
    plane_offset: int
    plane_halvings: int
    plane_shape: tuple[int, int]
    plane_type: np.dtype[Any]


_Frames = Sequence[tuple[FrameGeometry, _Place | None]]


@dataclass
class _Lows:
    """Frames at low resolution, from the parts; those of one part are read together."""

    web: Tier
    _places: dict[tuple[str, int], _Place] = field(default_factory=dict)
    _by_part: dict[str, list[_Place]] = field(default_factory=dict)

    def add(self, part: PartResult) -> None:
        """Note where the frames of a part lie."""
        if part.path in self._by_part:
            return
        places = self._by_part[part.path] = []
        low, rest, plane = part.low_offset, 0, 0
        for piece in part.pieces:
            next_low, next_rest = low + piece.low_length, rest + piece.rest_length
            shape, dtype = _plane_of(piece)
            if piece.form == rules.HTJ2K and not piece.low_own:
                uid = piece.record.sop_instance_uid
                for number, row in enumerate(pack_format.FRAME.iter_unpack(piece.table), 1):
                    where = (low, row[0], rest, row[1], plane)
                    place = _Place(part, *where, piece.plane_halvings, shape, dtype)
                    self._places[uid, piece.first + number] = place
                    places.append(place)
                    low, rest = low + row[0], rest + row[1]
                    if piece.plane_halvings:
                        plane += shape[0] * shape[1] * dtype.itemsize
            low, rest = next_low, next_rest

    def frames(self, frames: Sequence[FrameGeometry], halvings: int) -> Iterator[Array]:
        """Yield frames with their sides halved so many times. Raises UnsupportedPixels."""
        found = [
            (frame, self._places.get((frame.sop_instance_uid, frame.frame_number)))
            for frame in frames
        ]
        with ThreadPoolExecutor(THREADS) as pool:
            for path, together in groupby(found, lambda one: one[1].part.path if one[1] else ""):
                if not path:
                    raise UnsupportedPixels("a frame of the volume was not prepared")
                if all(place.plane_halvings == halvings > 0 for place in self._by_part[path]):
                    yield from self._planes(path, [place for _, place in together])
                    continue
                prefixes = self._read(self._by_part[path][0].part, halvings)

                def decoded(share: _Frames, prefixes: dict[int, bytes] = prefixes) -> list[Array]:
                    return [_decoded(one, prefixes, halvings) for one in share]

                ones = list(together)
                # Few and long tasks: handing over one slice costs a fifth of its decoding.
                size = -(-len(ones) // THREADS)
                shares = [ones[start : start + size] for start in range(0, len(ones), size)]
                for slices in pool.map(decoded, shares):
                    yield from slices

    def _planes(self, path: str, places: Sequence[_Place | None]) -> Iterator[Array]:
        """Yield the planes that a part holds, as they were made beside the codestreams."""
        last = self._by_part[path][-1]
        rows, columns = last.plane_shape
        length = last.plane_offset + rows * columns * last.plane_type.itemsize
        headers = last.part.headers
        data = self.web.read(path, headers.offset + headers.length, length)
        for place in places:
            assert place is not None
            rows, columns = place.plane_shape
            samples = np.frombuffer(data, place.plane_type, rows * columns, place.plane_offset)
            yield samples.reshape(rows, columns)

    def _read(self, part: PartResult, halvings: int) -> dict[int, bytes]:
        """Return the beginning of each codestream of a part, by the offset of its low part."""
        places = self._by_part[part.path]
        start = part.low_offset
        lows = self.web.read(part.path, start, part.metadata.offset - start)
        found = {}
        longer: list[tuple[_Place, int]] = []
        for place in places:
            at = place.low_offset - start
            low = lows[at : at + place.low_length]
            header = htj2k.read_main_header(low)
            ends = header.resolution_ends
            whole = place.low_length + place.rest_length
            end = ends[max(0, header.levels - halvings)] if ends and halvings else whole
            found[place.low_offset] = low[:end]
            if end > place.low_length:
                longer.append((place, end - place.low_length))
        rests = self.web.read_ranges(
            part.path, [(place.rest_offset, length) for place, length in longer]
        )
        for (place, _), rest in zip(longer, rests, strict=True):
            found[place.low_offset] += rest
        return found


def _plane_of(piece: PieceResult) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return shape and type of the planes of a piece's frames."""
    record, times = piece.record, piece.plane_halvings
    bits = record.bits_stored if piece.form == rules.HTJ2K else 1
    dtype = htj2k.container(bits, signed=record.pixel_representation == 1)
    return (-(-record.rows >> times), -(-record.columns >> times)), dtype


def _decoded(
    one: tuple[FrameGeometry, _Place | None], prefixes: dict[int, bytes], halvings: int
) -> Array:
    frame, place = one
    assert place is not None
    pixels = htj2k.decode_frame(prefixes[place.low_offset], skip_resolutions=halvings)
    expected = tuple(-(-side >> halvings) for side in (frame.rows, frame.columns))
    if pixels.shape != expected:
        raise UnsupportedPixels(f"frame of {pixels.shape}, {expected} expected")
    return pixels
