"""A tier on a mounted file system: nothing visible before it is durable, nothing overwritten.

An object is written into an unnamed file (``O_TMPFILE``), flushed, linked to its name, and the
folder flushed: a power cut leaves either the whole object or none. Where the file system has no
unnamed files, a hidden name in the same folder takes that part. Folders are held open by
descriptor, so a folder removed and made again by another process is noticed, not written into.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from raypacs.config import TierSettings
from raypacs.errors import (
    AlreadyExists,
    ConfigError,
    NotFound,
    RaypacsError,
    TierFull,
    TierUnavailable,
)
from raypacs.storage.extents import GAP_BYTES, Extent
from raypacs.storage.folders import (
    FOLDER_MODE,
    MISSING,
    TEMPORARY,
    Folder,
    Folders,
    translated,
)
from raypacs.storage.objects import (
    Buffer,
    ObjectInfo,
    as_chunks,
    checked_path,
    split_prefix,
    split_url,
)
from raypacs.storage.used import UsedBytes

# Where a folder cannot be made whatever is mounted: a file is in its place or above it, or no such
# name is allowed.
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL)
_STALE_TEMPORARY_S = 24 * 3600.0


class LocalTier:
    """Objects as files below one folder of a mounted file system.

    ``sync`` flushes one open file or folder; tests give one that remembers what it was given and
    later takes away everything else.
    """

    def __init__(self, settings: TierSettings, *, sync: Callable[[int], None] = os.fsync) -> None:
        url = split_url(settings)
        if url.scheme not in ("", "file") or not url.path.startswith("/"):
            raise ConfigError(
                f"tier {settings.name}: {settings.shown_url!r} is not an absolute folder"
            )
        self.settings = settings
        self.name = settings.name
        self.role = settings.role
        self.root = unquote(url.path).rstrip("/") or "/"
        self.folders = Folders(self.root, sync)
        self.used = UsedBytes(self.name, settings.capacity_bytes, self.walk)
        try:
            os.makedirs(self.root, mode=FOLDER_MODE, exist_ok=True)
        except (OSError, ValueError) as exc:
            raise _not_opened(settings, exc) from exc

    def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """Create ``path`` and return its size once file and folder are flushed.

        Raises:
            AlreadyExists, TierFull, TierUnavailable.
        """
        with self.create(path) as writer:
            for chunk in as_chunks(chunks):
                writer.write(chunk)
            return writer.commit()

    def put_transient(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """Create ``path`` without flushing: for parts of running attempts only."""
        with LocalWriter(self, path, durable=False) as writer:
            for chunk in as_chunks(chunks):
                writer.write(chunk)
            return writer.commit()

    def create(self, path: str) -> LocalWriter:
        """Return a writer for a new object; nothing is visible unless it is committed."""
        return LocalWriter(self, path, durable=True)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return ``length`` bytes from ``start`` (default: to the end; fewer at the end)."""
        with self._opened(path) as (fd, size):
            return _read_at(
                fd, start, size - start if length is None else min(length, size - start)
            )

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = GAP_BYTES
    ) -> list[bytes]:
        """Return the bytes of each extent: by one read each, as nothing is gained by joining."""
        with self._opened(path) as (fd, size):
            return [_read_at(fd, offset, min(length, size - offset)) for offset, length in extents]

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[int, int]]:
        """Open an object for reading: descriptor and size."""
        try:
            fd = os.open(self.local_path(path), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            raise self._unavailable(exc, path) from exc
        try:
            yield fd, os.fstat(fd).st_size
        except OSError as exc:
            raise self._unavailable(exc, path) from exc
        finally:
            os.close(fd)

    def size(self, path: str) -> int:
        """Return the size in bytes. Raises NotFound, TierUnavailable."""
        return self.stat(path).size_bytes

    def stat(self, path: str) -> ObjectInfo:
        """Return size and time of one object. Raises NotFound, TierUnavailable."""
        try:
            state = os.stat(self.local_path(path))
        except OSError as exc:
            raise self._unavailable(exc, path) from exc
        if not stat.S_ISREG(state.st_mode):
            raise NotFound(f"tier {self.name} has no object {path!r}", tier=self.name, path=path)
        return ObjectInfo(path, state.st_size, state.st_mtime)

    def exists(self, path: str) -> bool:
        """Whether an object with this path is there. Raises TierUnavailable."""
        name = self.local_path(path)
        try:
            return stat.S_ISREG(os.stat(name).st_mode)
        except OSError as exc:
            if exc.errno in MISSING:
                return False
            raise self._unavailable(exc, path) from exc

    def local_path(self, path: str) -> str:
        """Return the absolute file name, for ``os.open`` and ``os.pread``."""
        return f"{self.root}/{checked_path(path)}"

    def delete(self, path: str) -> None:
        """Remove one object; :meth:`prune` makes removals durable. Raises NotFound."""
        try:
            size = self.size(path)
            os.unlink(self.local_path(path))
        except OSError as exc:
            raise self._unavailable(exc, path) from exc
        self.used.deleted(path, size)

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose path starts with ``prefix``, in order of names per folder."""
        folder, start = split_prefix(prefix)
        base = f"{self.root}/{folder}" if folder else self.root
        yield from self._walk(base, f"{folder}/" if folder else "", start)

    def _walk(self, base: str, prefix: str, start: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(base) as entries:
                found = sorted(
                    (e for e in entries if e.name.startswith(start)), key=lambda e: e.name
                )
        except OSError as exc:
            if exc.errno in MISSING:
                return
            raise self._unavailable(exc, prefix) from exc
        for entry in found:
            try:
                folder = entry.is_dir(follow_symlinks=False)
                info = None if folder else entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # deleted while we walk
                continue
            except OSError as exc:
                raise self._unavailable(exc, prefix + entry.name) from exc
            if info is None:
                yield from self._walk(entry.path, f"{prefix}{entry.name}/", "")
            elif stat.S_ISREG(info.st_mode) and not entry.name.startswith(TEMPORARY):
                yield ObjectInfo(prefix + entry.name, info.st_size, info.st_mtime)

    def prune(self, prefix: str) -> None:
        """Remove empty folders below ``prefix`` (a folder) and make removals there durable."""
        folder = prefix.strip("/")
        base = f"{self.root}/{checked_path(folder)}" if folder else self.root
        try:
            for parent, _, names in os.walk(base, topdown=False):
                self._drop_stale_temporaries(parent, names)
                if parent == self.root or not self._remove_folder(parent):
                    self._sync_folder(parent)
            self._sync_folder(os.path.dirname(base) if folder else base)
        except OSError as exc:
            raise self._unavailable(exc, prefix) from exc

    def _remove_folder(self, folder: str) -> bool:
        try:
            os.rmdir(folder)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, *MISSING):
                raise
            return exc.errno in MISSING
        return True

    def _drop_stale_temporaries(self, folder: str, names: list[str]) -> None:
        """Remove what a killed writer left under a hidden name (no object, never acknowledged)."""
        for name in names:
            if not name.startswith(TEMPORARY):
                continue
            try:
                if time.time() - os.stat(f"{folder}/{name}").st_mtime > _STALE_TEMPORARY_S:
                    os.unlink(f"{folder}/{name}")
            except FileNotFoundError:
                continue

    def _sync_folder(self, folder: str) -> None:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            self.folders.sync(fd)
        finally:
            os.close(fd)

    def capacity_bytes(self) -> int:
        """Bytes raypacs may use here: as set, or what is free now plus what it already uses."""
        if self.settings.capacity_bytes:
            return self.settings.capacity_bytes
        return self.recount_bytes() + self.free_bytes()

    def free_bytes(self) -> int:
        """Bytes that may still be written: never more than the file system has."""
        free = self._file_system_free()
        if not self.settings.capacity_bytes:
            return free
        return max(0, min(free, self.settings.capacity_bytes - self.used.now()))

    def _file_system_free(self) -> int:
        """Bytes the file system has left, above the reserve where no capacity is set."""
        try:
            state = os.statvfs(self.root)
        except OSError as exc:
            raise self._unavailable(exc, self.root) from exc
        free = state.f_bavail * state.f_frsize
        return free if self.settings.capacity_bytes else max(0, free - self.settings.reserve_bytes)

    def recount_bytes(self) -> int:
        """Count the bytes of all objects by listing; corrects this process's own count."""
        return self.used.recount()

    def take(self, size_bytes: int) -> None:
        """Count bytes that are about to be written. Raises TierFull; then nothing is counted."""
        free = self._file_system_free()
        if size_bytes > 0 and free < size_bytes:
            raise TierFull(f"tier {self.name} is full", tier=self.name, size_bytes=size_bytes)
        self.used.begin(size_bytes)

    def _unavailable(self, exc: OSError, path: str) -> NotFound | TierFull | TierUnavailable:
        return translated(exc, self.name, path)


def _not_opened(settings: TierSettings, exc: OSError | ValueError) -> RaypacsError:
    """Tell a folder that can never be from one that is away."""
    why = f"tier {settings.name}: {settings.shown_url!r}: {getattr(exc, 'strerror', None) or exc}"
    if isinstance(exc, ValueError) or exc.errno in _NO_FOLDER:
        return ConfigError(why, hint="give the URL of a folder", tier=settings.name)
    return TierUnavailable(why, tier=settings.name)


def _read_at(fd: int, start: int, wanted: int) -> bytes:
    parts = []
    while wanted > 0 and (part := os.pread(fd, wanted, start)):
        parts.append(part)
        start += len(part)
        wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class LocalWriter:
    """Writes one new file of a :class:`LocalTier`."""

    def __init__(self, tier: LocalTier, path: str, *, durable: bool) -> None:
        self._tier = tier
        self._path = checked_path(path)
        self._durable = durable
        self._size_bytes = 0
        self._fd = -1
        self._hidden = ""
        self._committed = False

    def __enter__(self) -> Self:
        for attempt in (1, 2, 3):
            self._folder = self._tier_folder()
            try:
                self._fd, self._hidden = self._tier.folders.open_unnamed(self._folder)
                return self
            except OSError as exc:
                # Removed by a prune between opening it and now: make it again.
                if not self._folder.removed() or attempt == 3:
                    raise self._error(exc) from exc
        raise AssertionError("unreachable")

    def _tier_folder(self) -> Folder:
        for attempt in (1, 2, 3):
            try:
                return self._tier.folders.of(self._path)
            except FileNotFoundError as exc:  # pruned between mkdir and open
                if attempt == 3:
                    raise self._error(exc) from exc
            except OSError as exc:
                raise self._error(exc) from exc
        raise AssertionError("unreachable")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What fails here changes nothing any more: the object was flushed and named, or is none. A
        # hidden name that stays is removed by a later prune.
        with suppress(OSError):
            os.close(self._fd)
        if self._hidden:
            with suppress(OSError):
                os.unlink(self._hidden, dir_fd=self._folder.fd)
        self._tier.used.end(self._path, self._size_bytes, committed=self._committed)

    def write(self, data: Buffer) -> int:
        """Append ``data`` (copied to the file system when this returns)."""
        view = memoryview(data).cast("B")
        self._tier.take(len(view))
        self._size_bytes += len(view)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except OSError as exc:
            raise self._error(exc) from exc
        return done

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size_bytes

    def commit(self) -> int:
        """Flush the file, give it its name, flush the folder; return the size in bytes."""
        try:
            if self._durable:
                self._tier.folders.sync(self._fd)
            else:
                # A file server may refuse what it took (no space, quota) as late as at a close
                # (close(2)); a copy of the descriptor is closed while nothing is visible yet.
                os.close(os.dup(self._fd))
            self._link()
            self._sync_name()
        except FileExistsError as exc:
            raise AlreadyExists(
                f"tier {self._tier.name} has {self._path!r} already", path=self._path
            ) from exc
        except OSError as exc:
            raise self._error(exc) from exc
        self._committed = True
        return self._size_bytes

    def _link(self) -> None:
        name = self._path.rpartition("/")[2]
        source = f"/proc/self/fd/{self._fd}"
        for attempt in (1, 2, 3):
            try:
                if self._hidden:
                    folder = self._folder.fd
                    os.link(self._hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
                else:
                    os.link(source, name, dst_dir_fd=self._folder.fd, follow_symlinks=True)
                return
            except FileExistsError:
                # A file server that links, and whose answer is lost, is asked again by the kernel
                # and finds the name taken: by us (NFS; open(2) has it under O_EXCL).
                if not self._is_ours(name):
                    raise
                return
            except FileNotFoundError:
                # The folder was pruned while it was still empty. An unnamed file can be linked
                # into its successor; a hidden one keeps its folder from being empty.
                if self._hidden or not self._folder.removed() or attempt == 3:
                    raise
                self._folder = self._tier_folder()

    def _is_ours(self, name: str) -> bool:
        found, ours = os.stat(name, dir_fd=self._folder.fd), os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def _sync_name(self) -> None:
        if not self._durable:
            return
        try:
            self._tier.folders.sync(self._folder.fd)
        except OSError:
            # Not durable, so it must not stay visible either.
            os.unlink(self._path.rpartition("/")[2], dir_fd=self._folder.fd)
            raise

    def _error(self, exc: OSError) -> NotFound | TierFull | TierUnavailable:
        error = translated(exc, self._tier.name, self._path)
        if isinstance(error, NotFound):  # a folder that should be there is not: not the caller's
            return TierUnavailable(str(error), tier=self._tier.name, path=self._path)
        return error
