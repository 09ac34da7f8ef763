"""Writes one new object of an S3 tier: one request where it is small, else parts, four at a time.

Nothing is visible before the store has all of it. What was begun and not committed is aborted;
where the process died, :meth:`S3Tier.prune` aborts it a day later.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

from raypacs.errors import NotFound, TierFull, TierUnavailable
from raypacs.layout import new_token
from raypacs.storage.objects import Buffer
from raypacs.storage.s3_client import WRITER, S3Client
from raypacs.storage.used import UsedBytes

log = logging.getLogger(__name__)

PARTS_AT_ONCE = 4
_AT_ONCE = 1024 * 1024
MOST_PARTS = 10_000  # of one upload, by the store's rules
# After so many parts they double, so that no object is too large; below 32 GiB all are alike.
_PARTS_OF_ONE_SIZE = 2_000


class Chunks:
    """Buffers one after the other as a file, for sending them without joining them."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._chunks: list[memoryview] = []
        self._at = self._place = self._inside = 0

    def append(self, view: memoryview) -> int:
        """Add a buffer that nobody changes any more; return its size."""
        self._chunks.append(view)
        self.size_bytes += len(view)
        return len(view)

    def joined(self) -> bytes:
        """Return all of it; not copied where it is one ``bytes``."""
        if len(self._chunks) == 1 and isinstance(self._chunks[0].obj, bytes):
            whole = self._chunks[0].obj
            if len(whole) == self.size_bytes:
                return whole
        return b"".join(self._chunks)

    def read(self, size: int = -1) -> memoryview | bytes:
        """Return what is left of the current buffer, at most 1 MiB, whatever ``size`` says.

        Readers loop until nothing comes, and each call costs more than its bytes.
        """
        if self._place == len(self._chunks):
            return b""
        chunk = self._chunks[self._place]
        piece = chunk[self._inside : self._inside + _AT_ONCE]
        self._at += len(piece)
        self._inside += len(piece)
        if self._inside == len(chunk):
            self._place, self._inside = self._place + 1, 0
        return piece

    def tell(self) -> int:
        """Return the place in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to the beginning or the end (no other place is asked for)."""
        if (offset, whence) == (0, os.SEEK_END):
            self._at, self._place, self._inside = self.size_bytes, len(self._chunks), 0
        elif offset == 0:
            self._at = self._place = self._inside = 0
        elif offset != self._at:
            raise OSError(errno.ESPIPE, "only the beginning and the end")
        return self._at

    def __len__(self) -> int:
        return self.size_bytes


class Submit(Protocol):
    """Runs a call in another thread."""

    def __call__(self, call: Callable[[], dict[str, Any]], /) -> Future[dict[str, Any]]:
        """Return its future."""


class S3Writer:
    """Writer of one object; at most six parts of it are in memory."""

    def __init__(
        self, client: S3Client, key: str, path: str, used: UsedBytes, submit: Submit
    ) -> None:
        self._client, self._key, self._path = client, key, path
        self._used = used
        self._submit = submit
        self._token = new_token()
        self._part = Chunks()
        self._parts = 0
        self._size_bytes = 0
        self._upload = ""
        self._sending: deque[Future[dict[str, Any]]] = deque()
        self._sent: list[dict[str, Any]] = []
        self._committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._upload and not self._committed:
                self._abort()
        finally:
            self._used.end(self._path, self._size_bytes, committed=self._committed)

    def write(self, data: Buffer) -> int:
        """Append ``data``. Raises TierFull, TierUnavailable (also of parts sent before).

        What cannot change any more (bytes) is kept and not copied.
        """
        view = memoryview(data if isinstance(data, bytes) else bytes(data))
        self._used.begin(len(view))
        self._size_bytes += len(view)
        done = 0
        while done < len(view):
            room = self._part_bytes() - self._part.size_bytes
            if room == 0:  # only now: an object of one part is written by one request
                self._send_part()
                continue
            done += self._part.append(view[done : done + room])
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size_bytes

    def commit(self) -> int:
        """Make it visible; return the size in bytes once the store has confirmed it.

        Raises:
            AlreadyExists, TierFull, TierUnavailable.
        """
        if self._upload:
            self._send_part()
            while self._sending:
                self._sent.append(self._sending.popleft().result())
            self._complete()
        else:
            self._client.put(self._key, self._part.joined(), self._token)
        self._committed = True
        return self._size_bytes

    def _part_bytes(self) -> int:
        return self._client.access.part_bytes << (self._parts // _PARTS_OF_ONE_SIZE)

    def _send_part(self) -> None:
        if self._parts == MOST_PARTS:
            raise TierFull(f"tier {self._client.tier}: {self._path!r} has too many parts")
        if not self._upload:
            answer = self._client.request(
                "create_multipart_upload",
                self._path,
                Key=self._key,
                Metadata={WRITER: self._token},
            )
            self._upload = answer["UploadId"]
        while len(self._sending) >= PARTS_AT_ONCE:
            self._sent.append(self._sending.popleft().result())
        self._parts += 1
        number, data, self._part = self._parts, self._part, Chunks()
        self._sending.append(self._submit(lambda: self._send(number, data)))

    def _send(self, number: int, data: Chunks) -> dict[str, Any]:
        answer = self._client.request(
            "upload_part",
            self._path,
            Key=self._key,
            UploadId=self._upload,
            PartNumber=number,
            Body=data,
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _complete(self) -> None:
        def once(condition: dict[str, str]) -> None:
            self._client.ask_once(
                "complete_multipart_upload",
                Key=self._key,
                UploadId=self._upload,
                MultipartUpload={"Parts": self._sent},
                **condition,
            )

        self._client.create_once(self._key, self._token, once)

    def _abort(self) -> None:
        """Drop the parts; a part that still arrives would stay, so all have to end first."""
        for sending in self._sending:
            sending.cancel()
        for sending in self._sending:
            if not sending.cancelled():
                sending.exception()
        try:
            self._client.request(
                "abort_multipart_upload", self._path, Key=self._key, UploadId=self._upload
            )
        except (NotFound, TierUnavailable, TierFull) as exc:
            log.warning("parts stay until they are swept: %s", exc, extra={"path": self._path})
