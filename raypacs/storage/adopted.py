"""An archive that others wrote, where it lies: files are listed and read, and nothing else.

As a tier it has no objects of raypacs' own: :meth:`AdoptedTier.walk` lists none (so no folder there
is ever taken for one of raypacs'), and whatever would write, delete or make a folder is refused.
An instance's record keeps the size and time of its file (``received_at_s``): a file that has others
is not the one that was adopted, and is not served.
"""

from __future__ import annotations

import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NoReturn
from urllib.parse import unquote

from raypacs.config import TierSettings
from raypacs.errors import NotFound, ObjectChanged, TierUnavailable
from raypacs.records import InstanceRecord
from raypacs.storage.extents import GAP_BYTES, Extent
from raypacs.storage.local import LocalTier
from raypacs.storage.objects import Buffer, ObjectInfo, ObjectWriter, is_path, split_url
from raypacs.storage.remote import FsspecTier
from raypacs.storage.s3 import SCHEMES, S3Tier

# A file server is asked for so many folders at once; a disk of this host is no slower for it.
_LISTERS = 8
_AHEAD = 64
_NO_PATH = "its key is no path: a part between slashes is empty, . or .."
_ORTHANC = re.compile(
    r"(?:.*/)?([0-9a-f]{2})/([0-9a-f]{2})/"
    r"(\1\2[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
)
# Names of Orthanc's object storage plug-in: https://orthanc.uclouvain.be/book/plugins/object-storage.html
_ORTHANC_OBJECT = re.compile(
    r"(?:.*/)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(\.[a-z.]+)"
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file, or folder, of an adopted archive that was left out, and why."""

    path: str
    why: str
    folder: bool = False


class AdoptedTier:
    """A read-only view of an archive; the contract of ``Tier``, with nothing but reads."""

    def __init__(self, settings: TierSettings) -> None:
        """Raises ConfigError, TierUnavailable (also for a folder that is not there)."""
        url = split_url(settings)
        self._inner: LocalTier | S3Tier | FsspecTier
        if url.scheme in ("", "file"):
            root = unquote(url.path)
            if not os.path.isdir(root):
                why = f"tier {settings.name}: there is no folder {root!r}"
                raise TierUnavailable(why, tier=settings.name)
            self._inner = LocalTier(settings)
        elif url.scheme in SCHEMES:
            self._inner = S3Tier(settings)
        else:
            self._inner = FsspecTier(settings)
        self.settings = settings
        self.name = settings.name
        self.role = settings.role

    # What there is

    def files(self) -> Iterator[ObjectInfo | Skipped]:
        """Yield every file, in no order; what cannot be one of the archive's images, as skipped.

        Symbolic links are not followed: they may lead out of the archive, or in circles.

        Raises:
            TierUnavailable: it cannot be listed at all.
        """
        inner = self._inner
        found: Iterator[ObjectInfo | Skipped]
        if isinstance(inner, LocalTier):
            found = _walk(inner.root)
        elif isinstance(inner, S3Tier):
            found = (one for one in inner.listed() if one.path)  # '': the "folder" of the archive
        else:
            found = iter(inner.walk())
        for one in found:
            wanted = one if isinstance(one, Skipped) else self._wanted(one)
            # A name that is not UTF-8 can be in no index, report or message.
            yield replace(wanted, path=_shown(one.path)) if isinstance(wanted, Skipped) else wanted

    def answers(self) -> bool:
        """Whether the archive itself can be listed just now: what a file says is of it alone then.

        Of what is neither a folder nor a bucket that is not asked for: False.
        """
        inner = self._inner
        try:
            if isinstance(inner, LocalTier):
                with os.scandir(inner.root) as entries:
                    next(entries, None)
            elif isinstance(inner, S3Tier):
                next(inner.walk(), None)
            else:
                return False
        except (OSError, TierUnavailable):
            return False
        return True

    def _wanted(self, info: ObjectInfo) -> ObjectInfo | Skipped:
        if _shown(info.path) != info.path:
            return Skipped(info.path, "its name is not UTF-8")
        if not is_path(info.path):
            empty = info.path.endswith("/") and not info.size_bytes
            return Skipped(info.path, "the key of a folder" if empty else _NO_PATH)
        if self.settings.adopted != "orthanc" or _ORTHANC.fullmatch(info.path):
            return info
        named = _ORTHANC_OBJECT.fullmatch(info.path)
        if named is None:
            return Skipped(info.path, "not an attachment of Orthanc's storage")
        if named[1] != ".dcm":
            return Skipped(info.path, f"an attachment of Orthanc that is no image ({named[1]})")
        return info

    def stat(self, path: str) -> ObjectInfo:
        """Return size and time of one file. Raises NotFound, TierUnavailable."""
        return self._inner.stat(path)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Tier.read`."""
        return self._inner.read(path, start, length)

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = GAP_BYTES
    ) -> list[bytes]:
        """See :meth:`Tier.read_ranges`."""
        return self._inner.read_ranges(path, extents, gap_bytes=gap_bytes)

    def size(self, path: str) -> int:
        """See :meth:`Tier.size`."""
        return self._inner.size(path)

    def exists(self, path: str) -> bool:
        """See :meth:`Tier.exists`."""
        return self._inner.exists(path)

    def local_path(self, path: str) -> str | None:
        """See :meth:`Tier.local_path`."""
        return self._inner.local_path(path)

    # Nothing of raypacs' own

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield nothing: raypacs has no objects here (:meth:`files` lists those there are)."""
        return iter(())

    def prune(self, prefix: str) -> None:
        """Do nothing: these folders are not raypacs'."""

    def capacity_bytes(self) -> int:
        """Return 0: nothing may be used here."""
        return 0

    def free_bytes(self) -> int:
        """Return 0: nothing may be written."""
        return 0

    def recount_bytes(self) -> int:
        """Return 0: none of the bytes are raypacs'."""
        return 0

    def put_durable(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """Refuse. Raises TierUnavailable."""
        self._refuse()

    def put_transient(self, path: str, chunks: Iterable[Buffer] | Buffer) -> int:
        """Refuse. Raises TierUnavailable."""
        self._refuse()

    def create(self, path: str) -> AbstractContextManager[ObjectWriter]:
        """Refuse. Raises TierUnavailable."""
        self._refuse()

    def delete(self, path: str) -> None:
        """Refuse. Raises TierUnavailable."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TierUnavailable(f"tier {self.name} is adopted: nothing changes there", tier=self.name)


def check_unchanged(tier: object, record: InstanceRecord) -> None:
    """See that the file of an adopted instance is the one that was adopted.

    Raises:
        NotFound: it is gone. ObjectChanged: it has another size or time.
        TierUnavailable: it cannot be asked for.
    """
    opened = getattr(tier, "opened", None)  # of one that is opened late
    archive = opened() if opened is not None else tier
    if not isinstance(archive, AdoptedTier):
        return
    found = archive.stat(record.path)
    if (found.size_bytes, found.modified_s) != (record.size_bytes, record.received_at_s):
        raise ObjectChanged(
            f"{record.path} on {archive.name} changed since it was adopted",
            tier=archive.name,
            path=record.path,
        )


def is_unchanged(tier: object, record: InstanceRecord) -> bool:
    """Whether :func:`check_unchanged` finds nothing. Raises TierUnavailable."""
    try:
        check_unchanged(tier, record)
    except NotFound:
        return False
    return True


def _shown(path: str) -> str:
    """Return a path as text: bytes of a name that are not UTF-8 as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _walk(root: str) -> Iterator[ObjectInfo | Skipped]:
    """List folders in threads, those found first; at most so many are held as are being listed."""
    waiting: deque[str] = deque([""])
    listing: deque[Future[tuple[list[ObjectInfo | Skipped], list[str]]]] = deque()
    with ThreadPoolExecutor(_LISTERS, thread_name_prefix="list") as pool:
        while waiting or listing:
            while waiting and len(listing) < _AHEAD:
                # The deepest first: what waits stays as small as the tree is deep.
                listing.append(pool.submit(_list, root, waiting.pop()))
            found, folders = listing.popleft().result()
            yield from found
            waiting.extend(folders)


def _list(root: str, folder: str) -> tuple[list[ObjectInfo | Skipped], list[str]]:
    found: list[ObjectInfo | Skipped] = []
    folders: list[str] = []
    prefix = f"{folder}/" if folder else ""
    try:
        with os.scandir(f"{root}/{folder}" if folder else root) as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                    continue
                try:
                    state = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted while we list
                    continue
                found.append(_entry(path, state))
    except OSError as exc:
        if not folder:
            raise TierUnavailable(f"{root}: {exc.strerror}") from exc
        found.append(Skipped(folder, f"cannot be listed: {exc.strerror}", folder=True))
    return found, folders


def _entry(path: str, state: os.stat_result) -> ObjectInfo | Skipped:
    if stat.S_ISREG(state.st_mode):
        return ObjectInfo(path, state.st_size, state.st_mtime)
    if stat.S_ISLNK(state.st_mode):
        return Skipped(path, "a symbolic link; not followed")
    return Skipped(path, "no regular file")
