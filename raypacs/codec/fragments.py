"""Where the frames of encapsulated Pixel Data lie (PS3.5 section A.4), found by item headers only.

Nothing of the pixels is read: the walk asks its reader for eight bytes an item, so a multi-frame
object of any size costs the same memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from raypacs.errors import UnsupportedPixels

Extent = tuple[int, int]
ReadRange = Callable[[int, int], bytes]

_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
_SEQUENCE_END = struct.pack("<HH", 0xFFFE, 0xE0DD)
_MOST_ITEMS = 10_000_000


def frame_fragments(
    read: ReadRange, value_offset: int, frames: int, extended_offsets: Sequence[int] = ()
) -> list[list[Extent]]:
    """Return, for each frame, the (offset, length) of its fragments in the file.

    ``read(offset, length)`` returns bytes of the file, fewer at its end. ``value_offset`` is where
    the Basic Offset Table's item begins; ``extended_offsets`` is the Extended Offset Table
    (7FE0,0001), if there is one.

    Raises:
        UnsupportedPixels: damaged fragments, or no way to tell which belong to which frame.
    """
    table, fragments, origin = _walk(read, value_offset)
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    if frames == 1 and fragments:
        return [fragments]
    starts = list(extended_offsets) or table
    if len(starts) != frames or len(fragments) < frames:
        raise UnsupportedPixels(
            f"{len(fragments)} fragments for {frames} frames and no offset table that tells them "
            "apart"
        )
    return _grouped(fragments, [origin + start for start in starts])


def _walk(read: ReadRange, offset: int) -> tuple[list[int], list[Extent], int]:
    """Return the Basic Offset Table, the fragments, and the origin of the table's offsets."""
    head = read(offset, 8)
    if len(head) < 8 or head[:4] != _ITEM:
        raise UnsupportedPixels("encapsulated Pixel Data does not begin with an item")
    size = struct.unpack_from("<I", head, 4)[0]
    raw = read(offset + 8, size)
    table = list(struct.unpack_from(f"<{len(raw) // 4}I", raw))
    offset += 8 + size
    origin = offset
    fragments: list[Extent] = []
    while len(fragments) < _MOST_ITEMS:
        head = read(offset, 8)
        if len(head) < 8 or head[:4] == _SEQUENCE_END:
            # Some writers end the file without the delimiter; what is there is whole.
            return table, fragments, origin
        if head[:4] != _ITEM:
            break
        size = struct.unpack_from("<I", head, 4)[0]
        fragments.append((offset + 8, size))
        offset += 8 + size
    raise UnsupportedPixels("encapsulated Pixel Data is not a sequence of items")


def _grouped(fragments: list[Extent], starts: list[int]) -> list[list[Extent]]:
    """Split ``fragments`` where the item header of one lies at the next of ``starts``."""
    frames: list[list[Extent]] = []
    for fragment in fragments:
        if len(frames) < len(starts) and fragment[0] - 8 == starts[len(frames)]:
            frames.append([])
        elif not frames:
            raise UnsupportedPixels("the offset table does not point at the first fragment")
        frames[-1].append(fragment)
    if len(frames) != len(starts):
        raise UnsupportedPixels("the offset table does not point at items")
    return frames
