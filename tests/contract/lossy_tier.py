"""A disk that loses at a power cut whatever was not flushed: file contents and folder entries.

A LocalTier is given :meth:`LossyDisk.sync` for ``os.fsync``. It remembers the content of each file
and the entries of each folder at their last flush. :meth:`LossyDisk.power_cut` builds from that
alone what a strict file system would show after the cut. kill -9 keeps the page cache and proves
nothing of the kind.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path


class LossyDisk:
    """Records what was flushed below ``root``; ``delay`` is called within each flush."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._pinned: list[int] = []  # duplicates, so that no inode number is used again
        self._files: dict[int, bytes] = {}
        self._folders: dict[int, dict[str, int]] = {}
        self._kinds: dict[int, bool] = {}  # inode -> is a folder
        self.syncs = 0
        self.fail_next: OSError | None = None

    def sync(self, fd: int) -> None:
        """Stand in for ``os.fsync``."""
        with self._lock:
            if self.fail_next is not None:
                error, self.fail_next = self.fail_next, None
                raise error
            self.syncs += 1
            self._pinned.append(os.dup(fd))
            state = os.fstat(fd)
            if stat.S_ISDIR(state.st_mode):
                self._folders[state.st_ino] = self._entries(fd)
            else:
                self._files[state.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def _entries(self, fd: int) -> dict[str, int]:
        entries = {}
        for name in os.listdir(fd):
            state = os.stat(name, dir_fd=fd, follow_symlinks=False)
            self._kinds[state.st_ino] = stat.S_ISDIR(state.st_mode)
            entries[name] = state.st_ino
        return entries

    def power_cut(self, survivors: Path) -> Path:
        """Write into ``survivors`` what is left after a power cut now; return that folder."""
        with self._lock:
            survivors.mkdir(parents=True)
            self._restore(self.root.stat().st_ino, survivors)
        return survivors

    def _restore(self, inode: int, target: Path) -> None:
        for name, child in self._folders.get(inode, {}).items():
            if self._kinds[child]:
                (target / name).mkdir()
                self._restore(child, target / name)
            else:  # an entry without flushed content is an empty file
                (target / name).write_bytes(self._files.get(child, b""))

    def close(self) -> None:
        """Let go of the pinned inodes."""
        for fd in self._pinned:
            os.close(fd)
        self._pinned.clear()
