"""A tier in a bucket of an S3 store: an object becomes visible with the request that completes it.

Durable means what the store means by it: it has confirmed the object. Exclusive creation is the
store's own, by a condition (``If-None-Match: *``) that goes with the request.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import ConfigError, NotFound, RaypacsError, TierFull, TierUnavailable
from raypacs.storage.extents import GAP_BYTES, Extent, read_joined
from raypacs.storage.objects import (
    UNLIMITED_BYTES,
    Buffer,
    ObjectInfo,
    as_chunks,
    checked_path,
    is_path,
    split_prefix,
    split_url,
)
from raypacs.storage.s3_client import PIECE_BYTES, SMALL_BYTES, S3Client
from raypacs.storage.s3_writer import PARTS_AT_ONCE, S3Writer
from raypacs.storage.used import UsedBytes

log = logging.getLogger(__name__)

SCHEMES = ("s3", "s3a")
# An upload this old has no writer any more: even a large pack is written within hours.
STALE_UPLOAD_S = 24 * 3600.0
SWEEP_EVERY_S = 3600.0
# One request reads no more: what breaks off is read again from there.
_STREAM_BYTES = 128 * 1024 * 1024


class S3Tier:
    """Objects below one ``s3://bucket/prefix``. No files: :meth:`local_path` is always None."""

    def __init__(self, settings: TierSettings) -> None:
        """Ask for the bucket. Raises ConfigError, TierUnavailable."""
        url = split_url(settings)
        if url.scheme not in SCHEMES or not url.hostname or "@" in url.netloc or url.query:
            raise ConfigError(
                f"tier {settings.name}: {settings.shown_url!r} is not s3://bucket/prefix",
                hint="the store's address goes into [tiers.s3], keys into the node's environment",
            )
        self.settings = settings
        self.name = settings.name
        self.role = settings.role
        root = unquote(url.path).strip("/")
        if root:
            _checked_root(root, settings)
        self._prefix = f"{root}/" if root else ""
        self.used = UsedBytes(self.name, settings.capacity_bytes, self.walk)
        self._client = S3Client(settings.name, url.netloc, settings.s3)
        self._pools: dict[int, ThreadPoolExecutor] = {}
        self._swept_s: float | None = None
        self._sweeping = threading.Lock()
        self._client.check()

    # ---- writing -------------------------------------------------------------------------------
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

    def create(self, path: str) -> S3Writer:
        """Return a writer for a new object; nothing is visible unless it is committed."""
        return S3Writer(self._client, self._key(path), path, self.used, self._submit)

    def _submit(self, call: Callable[[], dict[str, Any]]) -> Future[dict[str, Any]]:
        pool = self._pools.get(os.getpid())  # threads do not survive a fork
        if pool is None:
            made = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix=f"upload {self.name}")
            pool = self._pools.setdefault(os.getpid(), made)
        return pool.submit(call)

    def delete(self, path: str) -> None:
        """Remove one object. Raises NotFound, TierUnavailable."""
        size = self.size(path)
        self._client.request("delete_object", path, Key=self._key(path))
        self.used.deleted(path, size)

    # ---- reading -------------------------------------------------------------------------------
    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """Return ``length`` bytes from ``start`` (default: to the end; fewer at the end).

        One request up to 128 MiB; two where the length is not given and the object is not small.
        """
        key = self._key(path)
        if length is not None and length <= 0:
            self.size(path)
            return b""
        wanted = SMALL_BYTES if length is None else length
        data, size = self._client.get(key, start, min(wanted, _STREAM_BYTES))
        end = size if length is None else min(size, start + length)
        parts = [data]
        while (start := start + len(parts[-1])) < end:
            more, _ = self._client.get(key, start, min(end - start, _STREAM_BYTES))
            if not more:
                raise TierUnavailable(f"tier {self.name}: {path!r} ends too early", tier=self.name)
            parts.append(more)
        return data if len(parts) == 1 else b"".join(parts)

    def read_ranges(
        self, path: str, extents: Sequence[Extent], *, gap_bytes: int = GAP_BYTES
    ) -> list[bytes]:
        """Return the bytes of each extent; those close together are read by one request."""
        key = self._key(path)

        def read_all(wanted: list[Extent]) -> list[bytes]:
            pieces = [_pieces(start, start + length) for start, length in wanted]
            found = iter(self._client.get_many(key, [one for each in pieces for one in each]))
            return [
                next(found) if len(each) == 1 else b"".join(next(found) for _ in each)
                for each in pieces
            ]

        return read_joined(read_all, extents, gap_bytes=gap_bytes, most_bytes=PIECE_BYTES)

    def size(self, path: str) -> int:
        """Return the size in bytes. Raises NotFound, TierUnavailable."""
        return self.stat(path).size_bytes

    def stat(self, path: str) -> ObjectInfo:
        """Return size and time of one object. Raises NotFound, TierUnavailable."""
        found = self._client.head(self._key(path))
        return ObjectInfo(path, int(found["ContentLength"]), found["LastModified"].timestamp())

    def exists(self, path: str) -> bool:
        """Whether an object with this path is there. Raises TierUnavailable."""
        key = self._key(path)
        try:
            self._client.head(key)
        except NotFound:
            return False
        return True

    def local_path(self, path: str) -> str | None:
        """None: there is no file to open."""
        checked_path(path)
        return None

    def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose path starts with ``prefix``, in order of their paths.

        Keys that are no paths of objects (the "folders" that some tools make) are left out.
        """
        split_prefix(prefix)
        yield from (one for one in self.listed(prefix) if is_path(one.path))

    def listed(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key goes on with ``prefix``, also where that is no path."""
        for one in self._client.list(self._prefix + prefix):
            yield ObjectInfo(one.key.removeprefix(self._prefix), one.size_bytes, one.modified_s)

    # ---- upkeep --------------------------------------------------------------------------------
    def prune(self, prefix: str) -> None:
        """Abort uploads that were begun a day ago and never ended; asked for once an hour.

        There are no folders to remove. The parts of such an upload are in no listing, but take
        room and are paid for.
        """
        with self._sweeping:
            now_s = time.monotonic()
            if self._swept_s is not None and now_s - self._swept_s < SWEEP_EVERY_S:
                return
            self._swept_s = now_s
        try:
            self.sweep_uploads()
        except RaypacsError as exc:
            # Some stores cannot list uploads; the prefix has no other need of pruning.
            log.warning("uploads cannot be swept: %s", exc, extra={"tier": self.name})

    def sweep_uploads(self) -> int:
        """Abort raypacs' uploads below this tier that are older than a day; return how many.

        Those of other programs stay: a tier at the root of a bucket may not be alone there.

        Raises:
            TierUnavailable.
        """
        before_s = time.time() - STALE_UPLOAD_S
        count = 0
        marks: dict[str, str] = {}
        while True:
            page = self._client.request("list_multipart_uploads", "", Prefix=self._prefix, **marks)
            for one in page.get("Uploads", ()):
                ours = layout.is_object(one["Key"].removeprefix(self._prefix))
                if ours and one["Initiated"].timestamp() < before_s:
                    count += self._abort(one["Key"], one["UploadId"])
            if not page.get("IsTruncated"):
                return count
            marks = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def _abort(self, key: str, upload: str) -> int:
        try:
            self._client.request("abort_multipart_upload", key, Key=key, UploadId=upload)
        except (NotFound, TierFull, TierUnavailable) as exc:
            log.warning("an upload cannot be aborted: %s", exc, extra={"tier": self.name})
            return 0
        log.info("stale upload aborted", extra={"tier": self.name, "path": key})
        return 1

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

    def _key(self, path: str) -> str:
        return self._prefix + checked_path(path)


def _checked_root(root: str, settings: TierSettings) -> None:
    try:
        checked_path(root)
    except NotFound as exc:
        raise ConfigError(f"tier {settings.name}: {settings.shown_url!r}: {exc}") from exc


def _pieces(start: int, end: int) -> list[Extent]:
    return [(begin, min(PIECE_BYTES, end - begin)) for begin in range(start, end, PIECE_BYTES)]
