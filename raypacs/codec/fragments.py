"""Where the frames of encapsulated Pixel Data lie (PS3.5 section A.4), found by item headers.

Next to nothing of the pixels is read: the walk asks its reader for eight bytes an item, and for a
few more where fragments have to be told apart, so a multi-frame object of any size costs the same
memory. In which order frames are looked for:

1. an Extended Offset Table (7FE0,0001), if each entry points at an item; its lengths cut off the
   padding of frames;
2. as many fragments as frames: one each;
3. one frame: all fragments, if they are not several codestreams;
4. the Basic Offset Table, or else the extended one, if its entries point at items where
   codestreams begin;
5. the codestreams themselves: a fragment begins a frame where it begins with the marker that every
   codestream of its kind begins with. The frames found have to be as many as the header says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise

from raypacs import dicom
from raypacs.errors import UnsupportedPixels

Extent = tuple[int, int]
ReadRange = Callable[[int, int], bytes]

_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
_SEQUENCE_END = struct.pack("<HH", 0xFFFE, 0xE0DD)
_MOST_ITEMS = 10_000_000
_EXTENDED_OFFSET_TABLE = 0x7FE00001
_EXTENDED_OFFSET_TABLE_LENGTHS = 0x7FE00002
_EXTENDED_OFFSET_TABLE_BYTES = struct.pack("<HH", 0x7FE0, 1)
# JPEG and JPEG-LS, JPEG 2000, JPEG XL bare and in its container, a JP2 file.
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ")
_LONGEST_START = max(map(len, _STARTS))
# Kinds that end with a marker: JPEG's and JPEG 2000's are the same.
_END = b"\xff\xd9"
_ENDED = _STARTS[:2]
_TAIL_BYTES = 4


def extended_offset_table(head: dicom.Buffer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the Extended Offset Table (7FE0,0001) and its lengths (7FE0,0002), empty if absent.

    ``head`` is the data set before encapsulated Pixel Data, which is always Explicit VR Little
    Endian (PS3.5 section A.4).

    Raises:
        MalformedInstance: it cannot be read.
    """
    if _EXTENDED_OFFSET_TABLE_BYTES not in bytes(head):
        return (), ()
    header = dicom.scan(head, dicom.EXPLICIT_VR_LE)
    offsets = _numbers(header.raw(_EXTENDED_OFFSET_TABLE))
    return offsets, _numbers(header.raw(_EXTENDED_OFFSET_TABLE_LENGTHS)) if offsets else ()


def _numbers(raw: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f"<{len(raw) // 8}Q", raw)


def frame_fragments(
    read: ReadRange,
    value_offset: int,
    frames: int,
    extended_offsets: Sequence[int] = (),
    extended_lengths: Sequence[int] = (),
) -> list[list[Extent]]:
    """Return, for each frame, the (offset, length) of its fragments in the file.

    ``read(offset, length)`` returns bytes of the file, fewer at its end. ``value_offset`` is where
    the Basic Offset Table's item begins; ``extended_offsets`` and ``extended_lengths`` are the
    Extended Offset Table (7FE0,0001) and its lengths (7FE0,0002), if there are such.

    Raises:
        UnsupportedPixels: damaged fragments, or no way to tell which belong to which frame.
    """
    table, fragments, origin = _walk(read, value_offset)
    if len(extended_offsets) == frames:
        found = _by_extended_table(fragments, origin, extended_offsets, extended_lengths)
        if found:
            return found
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    if len(fragments) > frames:
        begins = _beginnings(read, fragments)
        if frames == 1 and sum(begins) < 2:
            return [fragments]
        starts = [origin + start for start in table or extended_offsets]
        found = _by_table(fragments, begins, starts, frames)
        found = found or _by_beginnings(fragments, begins)
        if len(found) == frames:
            return found
    raise UnsupportedPixels(
        f"{len(fragments)} fragments for {frames} frames and no offset table that tells them apart"
    )


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
            # Some writers end the file without the delimiter; what is there has to be whole.
            _check_last(read, fragments)
            return table, fragments, origin
        if head[:4] != _ITEM:
            break
        size = struct.unpack_from("<I", head, 4)[0]
        fragments.append((offset + 8, size))
        offset += 8 + size
    raise UnsupportedPixels("encapsulated Pixel Data is not a sequence of items")


def _check_last(read: ReadRange, fragments: list[Extent]) -> None:
    if not fragments:
        return
    offset, size = fragments[-1]
    if size and not read(offset + size - 1, 1):
        raise UnsupportedPixels("the last fragment is cut off")


def _by_extended_table(
    fragments: list[Extent], origin: int, offsets: Sequence[int], lengths: Sequence[int]
) -> list[list[Extent]]:
    """Return frames of one fragment each, as PS3.5 section A.4 asks; empty if the table is wrong.

    A length is that of the frame without the byte that may pad it.
    """
    items = {offset - 8 - origin: (offset, size) for offset, size in fragments}
    frames = [items.get(offset) for offset in offsets]
    if len(set(offsets)) != len(offsets) or len(fragments) != len(offsets):
        return []
    found = [[frame] for frame in frames if frame is not None]
    if len(found) != len(offsets):
        return []
    if len(lengths) != len(offsets):
        return found
    sizes = [size for ((_, size),) in found]
    if any(not size - 1 <= length <= size for length, size in zip(lengths, sizes, strict=True)):
        return found
    return [[(at, length)] for ((at, _),), length in zip(found, lengths, strict=True)]


def _beginnings(read: ReadRange, fragments: list[Extent]) -> list[bool]:
    """Say of each fragment if a codestream begins with it.

    All have to begin as the first one does. Where the kind has an end marker, the fragment before
    has to end with it too: bytes inside a codestream may look like a beginning.
    """
    heads = (read(offset, min(size, _LONGEST_START)) for offset, size in fragments)
    first = next(heads, b"")
    kind = next((start for start in _STARTS if first.startswith(start)), None)
    if kind is None:
        return [False] * len(fragments)
    begins = [True, *(head.startswith(kind) for head in heads)]
    if kind in _ENDED:
        for number in range(1, len(fragments)):
            if begins[number]:
                offset, size = fragments[number - 1]
                tail = read(offset + max(0, size - _TAIL_BYTES), min(size, _TAIL_BYTES))
                begins[number] = _END in tail
    return begins


def _by_table(
    fragments: list[Extent], begins: list[bool], starts: list[int], frames: int
) -> list[list[Extent]]:
    """Group ``fragments`` where a Basic Offset Table says; empty if it is wrong or of no use."""
    numbers = {offset - 8: number for number, (offset, _) in enumerate(fragments)}
    cuts = [numbers.get(start, -1) for start in starts]
    ascend = all(a < b for a, b in pairwise(cuts))
    if len(cuts) != frames or not ascend or cuts[0] != 0:
        return []
    if any(begins) and not all(begins[cut] for cut in cuts):
        return []
    return _cut(fragments, cuts)


def _by_beginnings(fragments: list[Extent], begins: list[bool]) -> list[list[Extent]]:
    return _cut(fragments, [number for number, begin in enumerate(begins) if begin])


def _cut(fragments: list[Extent], cuts: list[int]) -> list[list[Extent]]:
    ends = [*cuts[1:], len(fragments)] if cuts else []
    return [fragments[a:b] for a, b in zip(cuts, ends, strict=True)]
