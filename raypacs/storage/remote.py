"""A tier on any fsspec URL: an object becomes visible with the PUT that makes it durable."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from fsspec.core import url_to_fs

from raypacs.config import TierSettings
from raypacs.errors import AlreadyExists, ConfigError, NotFound, TierFull, TierUnavailable
from raypacs.storage.extents import GAP_BYTES, Extent, read_joined
from raypacs.storage.objects import (
    UNLIMITED_BYTES,
    Buffer,
    ObjectInfo,
    as_chunks,
    checked_path,
    split_prefix,
)
from raypacs.storage.used import UsedBytes

# Stores where a finished PUT is durable by their own word. "memory" is the reference of the tests:
# as durable as its process.
_DURABLE = frozenset({"memory", "gs", "gcs", "abfs", "abfss", "az", "oss", "swift"})
# What fsspec and its stores answer to a URL that they cannot make sense of.
_NO_STORE = (ValueError, ImportError, TypeError, LookupError, AttributeError, RuntimeError)
_SPOOL_BYTES = 16 * 1024 * 1024
_COPY_BYTES = 8 * 1024 * 1024


class FsspecTier:
    """Objects below one fsspec URL. No file descriptors: :meth:`local_path` is always None."""

    def __init__(self, settings: TierSettings) -> None:
        self.settings = settings
        self.name = settings.name
        self.role = settings.role
        try:
            self._fs, root = url_to_fs(settings.url)
        except OSError as exc:
            why = f"tier {settings.name}: {settings.shown_url!r}: {exc}"
            raise TierUnavailable(why, tier=settings.name) from exc
        except _NO_STORE as exc:
            raise ConfigError(f"tier {settings.name}: {settings.shown_url!r}: {exc}") from exc
        protocol = self._fs.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        if settings.role != "web" and not settings.read_only and not names & _DURABLE:
            raise ConfigError(
                f"tier {settings.name}: {settings.shown_url!r} cannot store durably, so it cannot "
                f"have the role {settings.role!r}",
                hint="use a mounted folder (file://) or an object store, or the role 'web'",
            )
        self.root = root.rstrip("/")
        self.used = UsedBytes(self.name, settings.capacity_bytes, self.walk)

    def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """Create ``path``; return its size once the store has confirmed it.

        Raises:
            AlreadyExists, TierFull, TierUnavailable.
        """
        with self.create(path) as writer:
            for chunk in as_chunks(chunks):
                writer.write(chunk)
            return writer.commit()

    def put_transient(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """The same as :meth:`put_durable`: a store knows no weaker PUT."""
        return self.put_durable(path, chunks)

    def create(self, path: str) -> RemoteWriter:
        """Return a writer for a new object; nothing is visible unless it is committed."""
        return RemoteWriter(self, path)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return ``length`` bytes from ``start`` (default: to the end; fewer at the end)."""
        end = self.size(path)
        end = end if length is None else min(end, start + length)
        if start >= end:
            return b""
        try:
            return bytes(self._fs.cat_file(self._full(path), start=start, end=end))
        except OSError as exc:
            raise self.error(exc, path) from exc

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = GAP_BYTES
    ) -> list[bytes]:
        """Return the bytes of each extent; those close together are read by one request."""
        return read_joined(
            lambda wanted: [self.read(path, start, length) for start, length in wanted],
            extents,
            gap_bytes=gap_bytes,
            most_bytes=_COPY_BYTES,
        )

    def size(self, path: str) -> int:
        """Return the size in bytes. Raises NotFound, TierUnavailable."""
        return self.stat(path).size_bytes

    def stat(self, path: str) -> ObjectInfo:
        """Return size and time of one object. Raises NotFound, TierUnavailable."""
        try:
            info = self._fs.info(self._full(path))
        except OSError as exc:
            raise self.error(exc, path) from exc
        if info["type"] != "file":
            raise NotFound(f"tier {self.name} has no object {path!r}", path=path)
        return ObjectInfo(path, int(info["size"]), _modified_s(info))

    def exists(self, path: str) -> bool:
        """Whether an object with this path is there."""
        try:
            return bool(self._fs.isfile(self._full(path)))
        except OSError as exc:
            raise self.error(exc, path) from exc

    def local_path(self, path: str) -> str | None:
        """None: there is no file to open."""
        checked_path(path)
        return None

    def delete(self, path: str) -> None:
        """Remove one object. Raises NotFound, TierUnavailable."""
        size = self.size(path)
        try:
            self._fs.rm_file(self._full(path))
        except OSError as exc:
            raise self.error(exc, path) from exc
        self.used.deleted(path, size)

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose path starts with ``prefix``, in order of their paths."""
        folder, _ = split_prefix(prefix)
        base = f"{self.root}/{folder}" if folder else self.root
        self._fs.invalidate_cache(base)  # other processes write and delete, too
        try:
            found: dict[str, Any] = self._fs.find(base, detail=True)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise self.error(exc, prefix) from exc
        for name in sorted(found):
            path = name.removeprefix(self.root + "/")
            if path.startswith(prefix):
                yield ObjectInfo(path, int(found[name]["size"]), _modified_s(found[name]))

    def prune(self, prefix: str) -> None:
        """Nothing to do: a store has no folders of its own."""

    def capacity_bytes(self) -> int:
        """Bytes raypacs may use here: as set, else without limit."""
        return self.settings.capacity_bytes or UNLIMITED_BYTES

    def free_bytes(self) -> int:
        """Bytes that may still be written."""
        if not self.settings.capacity_bytes:
            return UNLIMITED_BYTES
        return max(0, self.settings.capacity_bytes - self.used.now())

    def recount_bytes(self) -> int:
        """Count the bytes of all objects by listing; corrects this process's own count."""
        return self.used.recount()

    def upload(self, path: str, spool: tempfile.SpooledTemporaryFile[bytes], size: int) -> None:
        """Store the spooled bytes under ``path``, which must not exist."""
        full = self._full(path)
        try:
            if self._fs.exists(full):
                raise FileExistsError(errno.EEXIST, "exists", path)
            spool.seek(0)
            if size <= _SPOOL_BYTES:
                # One PUT; stores with conditional writes refuse an existing object themselves.
                self._fs.pipe_file(full, spool.read(), mode="create")
                return
            with self._fs.open(full, "wb") as out:
                while block := spool.read(_COPY_BYTES):
                    out.write(block)
        except FileExistsError as exc:
            raise AlreadyExists(f"tier {self.name} has {path!r} already", path=path) from exc
        except OSError as exc:
            raise self.error(exc, path) from exc

    def _full(self, path: str) -> str:
        return f"{self.root}/{checked_path(path)}"

    def error(self, exc: OSError, path: str) -> NotFound | TierFull | TierUnavailable:
        """The raypacs error for an error of the store."""
        if isinstance(exc, FileNotFoundError | IsADirectoryError | NotADirectoryError):
            return NotFound(f"tier {self.name} has no object {path!r}", tier=self.name, path=path)
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return TierFull(f"tier {self.name} is full", tier=self.name)
        return TierUnavailable(f"tier {self.name}: {exc}", tier=self.name, path=path)


def _modified_s(info: dict[str, Any]) -> float:
    """When a listed object was written; stores use different keys and types for it."""
    for key in ("LastModified", "last_modified", "updated", "mtime", "created"):
        value = info.get(key)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return 0.0


class RemoteWriter:
    """Collects one new object (in memory, past 16 MiB on local disk) and uploads it at commit."""

    def __init__(self, tier: FsspecTier, path: str) -> None:
        self._tier = tier
        self._path = checked_path(path)
        self._size_bytes = 0
        self._committed = False

    def __enter__(self) -> Self:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spool.close()
        self._tier.used.end(self._path, self._size_bytes, committed=self._committed)

    def write(self, data: Buffer) -> int:
        """Append ``data``."""
        view = memoryview(data).cast("B")
        self._tier.used.begin(len(view))
        self._size_bytes += len(view)
        self._spool.write(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size_bytes

    def commit(self) -> int:
        """Upload; return the size in bytes once the store has confirmed it."""
        self._tier.upload(self._path, self._spool, self._size_bytes)
        self._committed = True
        return self._size_bytes
