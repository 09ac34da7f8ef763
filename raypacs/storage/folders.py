"""Open folders of a local tier: made durably when missing, noticed when they were removed."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from raypacs.errors import NotFound, TierFull, TierUnavailable
from raypacs.layout import new_token

FILE_MODE = 0o640  # patient data: owner writes, group reads
FOLDER_MODE = 0o750
TEMPORARY = ".tmp-"
MISSING = (errno.ENOENT, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT)
# What file systems without unnamed files answer to O_TMPFILE (open(2)).
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_KEPT_OPEN = 64


class Folder:
    """An open folder; closed when nobody uses it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def removed(self) -> bool:
        """Whether the folder was removed since it was opened.

        One that a file server does not know any more (ESTALE) was removed as well: opened anew, it
        may be there again.
        """
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError as exc:
            if exc.errno != errno.ESTALE:
                raise
            return True

    def __del__(self) -> None:
        with suppress(OSError):  # of a file server that is away
            os.close(self.fd)


class Folders:
    """The folders below ``root``, the last used ones kept open.

    Held by descriptor and not by name, because another process may remove an empty folder and
    make it again: its entry in the folder above is then a new one and must be flushed again.
    """

    def __init__(self, root: str, sync: Callable[[int], None]) -> None:
        self.root = root
        self.sync = sync
        self.unnamed_files = True
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Folder] = OrderedDict()

    def of(self, path: str) -> Folder:
        """Open the folder of object ``path``; made, and every new entry flushed, when missing."""
        parent = path.rpartition("/")[0]
        with self._lock:
            known = self._open.get(parent)
            if known is not None:
                self._open.move_to_end(parent)
        if known is not None and not known.removed():
            return known
        folder = self._walk_down(parent)
        with self._lock:
            self._open[parent] = folder
            while len(self._open) > _KEPT_OPEN:
                self._open.popitem(last=False)
        return folder

    def _walk_down(self, parent: str) -> Folder:
        """Walk down from the root; each folder's own entry is flushed in the one above it.

        Flushed even when it was there already: another process may have made it a moment ago and
        not flushed it yet. For a clean folder that costs next to nothing.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = Folder(os.open(self.root, flags))
        for segment in parent.split("/") if parent else ():
            try:
                os.mkdir(segment, FOLDER_MODE, dir_fd=folder.fd)
            except FileExistsError:
                pass
            inner = Folder(os.open(segment, flags, dir_fd=folder.fd))
            self.sync(folder.fd)
            folder = inner
        return folder

    def open_unnamed(self, folder: Folder) -> tuple[int, str]:
        """Open a new file in ``folder``: ``(descriptor, hidden name or '' if it has none)``."""
        if self.unnamed_files:
            flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
            try:
                return os.open(".", flags, FILE_MODE, dir_fd=folder.fd), ""
            except OSError as exc:
                if exc.errno not in _NO_TMPFILE:
                    raise
                self.unnamed_files = False
        hidden = TEMPORARY + new_token()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        return os.open(hidden, flags, FILE_MODE, dir_fd=folder.fd), hidden


def translated(exc: OSError, tier: str, path: str) -> NotFound | TierFull | TierUnavailable:
    """The raypacs error for an operating system error of ``tier``."""
    if exc.errno in MISSING or isinstance(exc, IsADirectoryError):
        return NotFound(f"tier {tier} has no object {path!r}", tier=tier, path=path)
    if exc.errno in _FULL:
        return TierFull(f"tier {tier} is full", tier=tier)
    return TierUnavailable(f"tier {tier}: {exc.strerror or exc}", tier=tier, path=path)
