"""What every kind of tier shares: the shape of an object, of a writer, and of a legal path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import SplitResult, urlsplit

from raypacs.config import TierSettings
from raypacs.errors import ConfigError, NotFound

Buffer = bytes | bytearray | memoryview

# What `capacity_bytes()` says of a store without a limit of its own: one exbibyte.
UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object on a tier: its path, its size and when it was written (UTC)."""

    path: str
    size_bytes: int
    modified_s: float


class ObjectWriter(Protocol):
    """Writes one new object; nothing is visible unless :meth:`commit` returned."""

    def __enter__(self) -> Self:
        """Return the writer itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop everything written, unless it was committed."""

    def write(self, data: Buffer) -> int:
        """Append; return the number of bytes. Raises TierFull, TierUnavailable."""

    def tell(self) -> int:
        """Bytes written so far."""

    def commit(self) -> int:
        """Make the object durable and visible; return its size in bytes.

        Raises:
            AlreadyExists: an object with this path is there; it is left as it is.
            TierFull: no room.
            TierUnavailable: the tier cannot be written.
        """


def checked_path(path: str) -> str:
    """Return ``path`` if it is a legal object path: relative, ``/`` between plain segments.

    Raises:
        NotFound: it is not (so that a path taken from a request never leaves the tier).
    """
    if not is_path(path):
        raise NotFound(f"{path!r} is not an object path", path=path)
    return path


def is_path(path: str) -> bool:
    """Whether ``path`` is a legal object path (``checked_path``)."""
    return "\0" not in path and not any(part in ("", ".", "..") for part in path.split("/"))


def split_url(settings: TierSettings) -> SplitResult:
    """Split a tier's URL. Raises ConfigError: it is none."""
    try:
        return urlsplit(settings.url)
    except ValueError as exc:
        raise ConfigError(f"tier {settings.name}: {settings.shown_url!r}: {exc}") from exc


def split_prefix(prefix: str) -> tuple[str, str]:
    """Split a prefix into the folder to list and the beginning of the names inside it."""
    folder, _, start = prefix.rpartition("/")
    if folder:
        checked_path(folder)
    return folder, start


def as_chunks(chunks: Iterable[Buffer] | Buffer) -> Iterable[Buffer]:
    """Return ``chunks`` as an iterable of buffers; one buffer counts as one chunk."""
    return (chunks,) if isinstance(chunks, bytes | bytearray | memoryview) else chunks
