"""SHA-256 of a stored data set, read when it is asked for: what was adopted came without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from raypacs.errors import ObjectChanged
from raypacs.records import InstanceRecord
from raypacs.storage.adopted import check_unchanged
from raypacs.storage.tier import Tier

_PIECE_BYTES = 4 * 1024 * 1024


def dataset_sha256(tier: Tier, record: InstanceRecord) -> str:
    """Return the SHA-256 of a stored data set, without preamble and file meta.

    Raises:
        NotFound: it is gone. ObjectChanged: it is not what it was.
        TierUnavailable: it cannot be read.
    """
    check_unchanged(tier, record)
    digest = hashlib.sha256()
    count = record.dataset_offset_bytes
    for piece in pieces(tier, record.path, count, record.size_bytes):
        digest.update(piece)
        count += len(piece)
    check_unchanged(tier, record)  # not while it was read, either
    if count != record.size_bytes:
        why = f"{record.path} on {tier.name} has {count} bytes instead of {record.size_bytes}"
        raise ObjectChanged(why, tier=tier.name, path=record.path)
    return digest.hexdigest()


def pieces(tier: Tier, path: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the bytes of an object from ``start`` to ``end``, less where it is shorter."""
    while start < end:
        data = tier.read(path, start, min(_PIECE_BYTES, end - start))
        if not data:
            return
        yield data
        start += len(data)
