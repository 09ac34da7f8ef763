"""A whole study as one zip stream, each instance as it was received; nothing is held in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, cast

from raypacs.errors import UnsupportedPixels
from raypacs.web.instances import Instances, choose
from raypacs.web.places import Place

MEDIA_TYPE = "application/zip"
_AS_RECEIVED = "application/dicom; transfer-syntax=*"
_LONGEST_PLAIN = 1 << 31  # above it, sizes of 64 bits
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that zip has: the same study gives the same bytes


class _Pipe:
    """What is written, until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        """Nothing is kept back."""

    def take(self) -> bytes:
        """Return what was written since."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def stream(instances: Instances, places: Sequence[Place]) -> Iterator[bytes]:
    """Yield the zip of ``{Series}/{SOP Instance UID}.dcm``; blocks.

    What left the image cache goes in the form it has in the web cache. Without its end no zip is
    whole, so one that broke off is never taken for a study.

    Raises:
        NotFound, UnsupportedPixels, PackCorrupt, TierUnavailable: an instance cannot be had.
    """
    pipe = _Pipe()
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_STORED) as packed:
        for place in places:
            record = place.stored.record
            choice = choose(place, _AS_RECEIVED)
            if choice is None:
                raise UnsupportedPixels(f"{record.sop_instance_uid} cannot be had as received")
            _, pieces = instances.open(place, choice)
            name = f"{record.series_uid}/{record.sop_instance_uid}.dcm"
            entry = zipfile.ZipInfo(name, _EPOCH)
            with packed.open(entry, "w", force_zip64=record.size_bytes > _LONGEST_PLAIN) as file:
                for piece in pieces:
                    file.write(piece)
                    yield pipe.take()
            yield pipe.take()
    yield pipe.take()
