"""An object of a tier, open for reads at offsets: by file descriptor, else by range reads."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence

from raypacs.errors import InstanceAway, NotFound, ObjectChanged, PackCorrupt
from raypacs.records import InstanceRecord
from raypacs.storage.folders import translated
from raypacs.storage.tier import Extent, Tier

# Linux: read only what is in the page cache, so that the event loop never waits for a disk.
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)

Seen = tuple[str, str, int, float]
"""Tier, path, size and time of a stored instance: archives have files of the same names, and others
replace those of an adopted one, so a name alone does not tell whose bytes they are."""


def seen(record: InstanceRecord) -> Seen:
    """Return what tells the file of a record from every other."""
    return record.tier, record.path, record.size_bytes, record.received_at_s


class ObjectFile:
    """One immutable object. The descriptor is closed when the last user lets go of this value.

    So a reader in a thread never reads from a descriptor that was closed and given to another
    file, whatever the caches do meanwhile.
    """

    def __init__(self, tier: Tier, path: str, adopted: tuple[int, float] | None = None) -> None:
        """Open it. ``adopted``: size and time that a file of an adopted archive must have.

        Raises:
            NotFound: it is not there. ObjectChanged: it is not the file that was adopted.
            TierUnavailable: it cannot be opened just now.
        """
        self.stale = False
        """Others changed, replaced or removed it: to be opened anew."""
        self._tier = tier
        self._path = path
        self._nowait = _NOWAIT
        self.fd = -1
        self._state = (0, 0)  # size and time of a file that others may write to
        local = tier.local_path(path)
        if local is not None:
            try:
                self.fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as exc:
                raise translated(exc, tier.name, path) from exc
            weakref.finalize(self, os.close, self.fd)
            if tier.settings.adopted:
                self._state = self._now()
                if adopted is not None and adopted != (self._state[0], os.fstat(self.fd).st_mtime):
                    raise self._changed()

    def read_cached(self, extents: Sequence[Extent], out: memoryview) -> bool:
        """Fill ``out`` if that needs no disk; False: call :meth:`read_into` from a thread."""
        if self.fd < 0 or self._has_changed():
            return False
        start = 0
        for offset, length in extents:
            try:
                got = os.preadv(self.fd, [out[start : start + length]], offset, self._nowait)
            except BlockingIOError:
                return False
            except OSError:
                if not self._nowait:
                    raise
                # A file system without RWF_NOWAIT: reads go to a thread.
                self._nowait = 0
                return False
            if got != length:
                return False
            start += length
        return True

    def read_into(self, extents: Sequence[Extent], out: memoryview) -> None:
        """Fill ``out`` with the extents one after the other; may block.

        Raises:
            PackCorrupt: the object is shorter than its index says.
            InstanceAway: it is not there any more.
            ObjectChanged: others wrote to it since it was opened.
            TierUnavailable: it cannot be read just now.
        """
        if self.fd < 0:
            self._read_ranges(extents, out)
            return
        start = 0
        for offset, length in extents:
            self._read_one(offset, out[start : start + length])
            start += length
        if self._has_changed():
            raise self._changed()

    def _changed(self) -> ObjectChanged:
        return ObjectChanged(
            f"{self._path} on {self._tier.name} changed since it was adopted",
            tier=self._tier.name,
            path=self._path,
        )

    def _now(self) -> tuple[int, int]:
        """Return size and time, (-1, 0) for a file that lost its name or its file server."""
        try:
            state = os.fstat(self.fd)
        except OSError:
            return -1, 0
        return (state.st_size, state.st_mtime_ns) if state.st_nlink else (-1, 0)

    def _has_changed(self) -> bool:
        self.stale = self.stale or (self._state != (0, 0) and self._state != self._now())
        return self.stale

    def _read_ranges(self, extents: Sequence[Extent], out: memoryview) -> None:
        """Fill ``out`` by as few requests as the extents take, all at once."""
        start = 0
        try:
            found = self._tier.read_ranges(self._path, extents)
        except NotFound as exc:  # since it was opened, which asks a store nothing
            raise InstanceAway(f"{self._path} left {self._tier.name}") from exc
        for (offset, length), data in zip(extents, found, strict=True):
            if len(data) != length:
                raise self._too_short(offset)
            out[start : start + length] = data
            start += length

    def _read_one(self, offset: int, out: memoryview) -> None:
        done = 0
        while done < len(out):
            try:
                got = os.preadv(self.fd, [out[done:]], offset + done)
            except OSError as exc:
                raise translated(exc, self._tier.name, self._path) from exc
            if got == 0:
                raise self._too_short(offset)
            done += got

    def _too_short(self, offset: int) -> PackCorrupt:
        return PackCorrupt(f"{self._tier.name}: {self._path} is too short at {offset}")

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; may block. Raises PackCorrupt if too short."""
        buffer = bytearray(length)
        self.read_into(((offset, length),), memoryview(buffer))
        return bytes(buffer)


class ObjectFiles:
    """The least recently used open objects, at most ``most`` descriptors; thread-safe."""

    def __init__(self, most: int = 256) -> None:
        self._most = most
        self._open: OrderedDict[Seen, ObjectFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, tier: Tier, record: InstanceRecord) -> ObjectFile:
        """Return the open object of a record. Raises NotFound (of a file), TierUnavailable."""
        key = seen(record)
        with self._lock:
            found = self._open.get(key)
            if found is not None and not found.stale:
                self._open.move_to_end(key)
                return found
        opened = ObjectFile(tier, record.path, (record.size_bytes, record.received_at_s))
        with self._lock:
            self._open[key] = opened
            while len(self._open) > self._most:
                self._open.popitem(last=False)
        return opened

    def cached(self, record: InstanceRecord) -> ObjectFile | None:
        """Return the object of a record if it is open already."""
        found = self._open.get(seen(record))
        return None if found is None or found.stale else found
