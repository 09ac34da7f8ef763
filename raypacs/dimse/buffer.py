"""Room for one data set being received: memory first, a hidden file when it gets large."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO

_FIRST_BYTES = 1024 * 1024
_MEMORY_BYTES = 16 * 1024 * 1024
_FILE_STEP_BYTES = 64 * 1024 * 1024


class ReceiveBuffer:
    """Grows with the data set, used again for the next one.

    Up to 16 MiB it is memory; beyond, a mapped file without a name in ``spool_dir``, so that a
    4 GiB object does not become 4 GiB of memory per association.
    """

    def __init__(self, spool_dir: Path | None) -> None:
        self._spool_dir = spool_dir
        self._memory = bytearray(_FIRST_BYTES)
        self._file: IO[bytes] | None = None
        self._map: mmap.mmap | None = None
        self.size_bytes = 0

    def space(self, nr_bytes: int) -> memoryview:
        """Return the next ``nr_bytes`` to be filled; they count as received.

        Raises:
            OSError: the spool folder has no room.
        """
        end = self.size_bytes + nr_bytes
        if end > self._capacity():
            self._grow(end)
        view = memoryview(self._map if self._map is not None else self._memory)
        start, self.size_bytes = self.size_bytes, end
        return view[start:end]

    def view(self) -> memoryview:
        """Return everything received; release it before the next :meth:`space`."""
        whole = memoryview(self._map if self._map is not None else self._memory)
        return whole[: self.size_bytes]

    def reset(self) -> None:
        """Forget the content; a large one gives its room back."""
        self.size_bytes = 0
        if self._map is not None and self._file is not None:
            self._map.close()
            self._file.close()
            self._map = self._file = None

    def _capacity(self) -> int:
        return len(self._memory) if self._map is None else len(self._map)

    def _grow(self, needed: int) -> None:
        if self._map is None and needed <= _MEMORY_BYTES:
            larger = bytearray(min(max(needed, 2 * len(self._memory)), _MEMORY_BYTES))
            larger[: self.size_bytes] = memoryview(self._memory)[: self.size_bytes]
            self._memory = larger
            return
        capacity = -(-needed // _FILE_STEP_BYTES) * _FILE_STEP_BYTES
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._spool_dir)  # noqa: SIM115
        # Allocated, not only sized: a full disk must be an error here, not a signal at the write.
        os.posix_fallocate(self._file.fileno(), 0, capacity)
        mapped = mmap.mmap(self._file.fileno(), capacity)
        if self._map is None:
            mapped[: self.size_bytes] = memoryview(self._memory)[: self.size_bytes]
        else:
            self._map.close()
        self._map = mapped
