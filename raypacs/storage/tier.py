"""The only door to bytes: one contract for a local disk, a NAS, an object store and memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from raypacs.config import TierSettings
from raypacs.storage.adopted import AdoptedTier
from raypacs.storage.extents import GAP_BYTES, Extent
from raypacs.storage.local import LocalTier
from raypacs.storage.objects import UNLIMITED_BYTES, Buffer, ObjectInfo, ObjectWriter, split_url
from raypacs.storage.remote import FsspecTier
from raypacs.storage.s3 import SCHEMES, S3Tier

__all__ = [
    "UNLIMITED_BYTES",
    "Buffer",
    "Extent",
    "FsspecTier",
    "LocalTier",
    "ObjectInfo",
    "ObjectWriter",
    "S3Tier",
    "Tier",
    "open_tier",
]


class Tier(Protocol):
    """One place for immutable objects.

    Paths are relative, with ``/``; :mod:`raypacs.layout` builds them. Every method may raise
    TierUnavailable; thread-safe.
    """

    @property
    def name(self) -> str:
        """Name of the tier, unique in the cluster."""

    @property
    def role(self) -> str:
        """`image`, `web` or `library`."""

    @property
    def settings(self) -> TierSettings:
        """What it was opened with."""

    def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """Create an object; return its size only when a power cut cannot take it away any more.

        Raises:
            AlreadyExists: the path is taken; the object there is left as it is.
            TierFull: no space, quota, or the capacity or reserve would be exceeded; nothing kept.
        """

    def put_transient(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """The same without durability: for the parts of a running attempt only."""

    def create(self, path: str) -> AbstractContextManager[ObjectWriter]:
        """Streaming :meth:`put_durable`: nothing is visible unless the writer's commit returned."""

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return up to ``length`` bytes from ``start``. Raises NotFound."""

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = GAP_BYTES
    ) -> list[bytes]:
        """Return the bytes of each (offset, length), in the order given; fewer at the end.

        On a store, ranges at most ``gap_bytes`` apart are read by one request, and requests go
        out together. Raises NotFound.
        """

    def size(self, path: str) -> int:
        """Return the size in bytes. Raises NotFound."""

    def exists(self, path: str) -> bool:
        """Whether an object with this path is there."""

    def local_path(self, path: str) -> str | None:
        """The absolute file name for ``os.pread``, or None where there is no file."""

    def delete(self, path: str) -> None:
        """Remove one object. Raises NotFound."""

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose path starts with ``prefix``."""

    def prune(self, prefix: str) -> None:
        """Remove empty folders below ``prefix``; makes removals there durable."""

    def capacity_bytes(self) -> int:
        """Bytes raypacs may use here in all."""

    def free_bytes(self) -> int:
        """Bytes that may still be written."""

    def recount_bytes(self) -> int:
        """Count the bytes of all objects by listing them."""


def open_tier(settings: TierSettings) -> Tier:
    """Open a tier; a local folder is made when it is missing (but never an adopted one).

    Raises:
        ConfigError: it can never be: no such kind of URL, one that cannot store durably for its
            role, a file where a folder should be.
        TierUnavailable: it cannot be reached just now. Nothing else is raised.
    """
    if settings.adopted:
        return AdoptedTier(settings)
    scheme = split_url(settings).scheme
    if scheme in ("", "file"):
        return LocalTier(settings)
    if scheme in SCHEMES:
        return S3Tier(settings)
    return FsspecTier(settings)
