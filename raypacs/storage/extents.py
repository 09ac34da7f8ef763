"""Many small ranges of one object as few reads: those that lie close together become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Extent = tuple[int, int]
"""Offset and length in bytes."""

GAP_BYTES = 256 * 1024
"""How far apart two ranges may lie to be read as one: about what a request to a store costs."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One read that covers several extents, given by their places in the list."""

    start: int
    length: int
    members: tuple[int, ...]


def joined(extents: Sequence[Extent], *, gap_bytes: int, most_bytes: int) -> list[Joined]:
    """Join extents (in any order, overlapping or not) that lie at most ``gap_bytes`` apart.

    No join grows beyond ``most_bytes``; one extent that is longer stays one. Empty extents are in
    none.
    """
    reads: list[Joined] = []
    start = end = 0
    members: list[int] = []
    for place in sorted(range(len(extents)), key=lambda one: extents[one]):
        offset, length = extents[place]
        if length <= 0:
            continue
        reach = max(end, offset + length)
        if members and offset - end <= gap_bytes and reach - start <= most_bytes:
            end = reach
            members.append(place)
            continue
        if members:
            reads.append(Joined(start, end - start, tuple(members)))
        start, end, members = offset, offset + length, [place]
    if members:
        reads.append(Joined(start, end - start, tuple(members)))
    return reads


def read_joined(
    read_all: Callable[[list[Extent]], Sequence[bytes]],
    extents: Sequence[Extent],
    *,
    gap_bytes: int,
    most_bytes: int,
) -> list[bytes]:
    """Return the bytes of each extent, in the order given, by as few reads as that takes.

    ``read_all`` returns the bytes of each of its extents, fewer where the object ends.
    """
    reads = joined(extents, gap_bytes=gap_bytes, most_bytes=most_bytes)
    found = [b""] * len(extents)
    for read, data in zip(reads, read_all([(one.start, one.length) for one in reads]), strict=True):
        view = memoryview(data)
        for place in read.members:
            offset, length = extents[place]
            if len(read.members) == 1:
                found[place] = data
            else:
                found[place] = bytes(view[offset - read.start :][:length])
    return found
