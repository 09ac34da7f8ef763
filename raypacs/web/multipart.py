"""multipart/related (RFC 2387, PS3.18 section 8.6.1.2): an incremental reader and part heads.

The reader holds one part at a time, so a STOW-RS request of any number of instances needs memory
for its largest instance only.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import dataclass

from raypacs.web.negotiate import parse_accept
from raypacs.web.problem import Problem

_MAX_HEAD_BYTES = 16 * 1024
BOUNDARY = secrets.token_hex(16)
"""One random boundary per process: 128 bits do not occur in pixel data by chance."""

TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


def part_head(content_type: str, *, first: bool, location: str = "") -> bytes:
    """Return delimiter and header of the next part."""
    start = "" if first else "\r\n"
    where = f"Content-Location: {location}\r\n" if location else ""
    return f"{start}--{BOUNDARY}\r\nContent-Type: {content_type}\r\n{where}\r\n".encode()


def content_type(part_type: str) -> str:
    """Return the Content-Type of a multipart/related response whose parts are ``part_type``."""
    return f'multipart/related; type="{part_type}"; boundary={BOUNDARY}'


@dataclass(frozen=True, slots=True)
class Part:
    """One received part; ``oversize``: longer than the limit, its body was dropped."""

    headers: dict[str, str]
    body: bytes
    oversize: bool = False


class PartReader:
    """Push parser: feed chunks, take the parts that are complete.

    Raises Problem (400) on anything that is not multipart.
    """

    def __init__(self, boundary: str, limit_bytes: int) -> None:
        self._delimiter = b"\r\n--" + boundary.encode("latin-1")
        self._limit = limit_bytes
        # The first delimiter may stand at the very start, without a line break before it.
        self._buffer = bytearray(b"\r\n")
        self._searched = 0
        self._headers: dict[str, str] | None = None
        self._in_preamble = True
        self._oversize = False
        self.finished = False

    def feed(self, data: bytes) -> Iterator[Part]:
        """Add ``data`` and yield every part that it completes."""
        if self.finished:
            return
        self._buffer += data
        while not self.finished:
            if self._headers is None and not self._in_preamble and not self._take_head():
                return
            part, more = self._take_body()
            if part is not None:
                yield part
            if not more:
                return

    def close(self) -> None:
        """Check that the last delimiter was seen.

        Raises:
            Problem: 400, the body ended inside a part.
        """
        if not self.finished:
            raise Problem(400, "multipart body ended without its closing delimiter")

    def _take_head(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer.startswith(b"--"):
            self.finished = True
            return False
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise Problem(400, "multipart part header is too long or not ended")
            return False
        headers: dict[str, str] = {}
        for line in bytes(self._buffer[:end]).decode("latin-1").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon:
                headers[name.strip().lower()] = value.strip()
        self._headers = headers
        # Keep the last line break: an empty body is followed by a delimiter at once.
        del self._buffer[: end + 2]
        self._searched = 0
        return True

    def _take_body(self) -> tuple[Part | None, bool]:
        """Return the part that ended, if any, and whether to go on."""
        found = self._buffer.find(self._delimiter, self._searched)
        if found < 0:
            self._searched = max(0, len(self._buffer) - len(self._delimiter))
            if not self._in_preamble and self._searched > self._limit + 2:
                self._oversize = True
            if self._in_preamble or self._oversize:
                del self._buffer[: self._searched]
                self._searched = 0
            return None, False
        part = None
        if self._headers is not None:
            oversize = self._oversize or found - 2 > self._limit
            body = b"" if oversize else bytes(memoryview(self._buffer)[2:found])
            part = Part(self._headers, body, oversize)
        del self._buffer[: found + len(self._delimiter)]
        self._headers, self._in_preamble, self._oversize = None, False, False
        self._searched = 0
        return part, True


async def read_parts(
    content_type: str, chunks: AsyncIterable[bytes], *, limit_bytes: int, types: tuple[str, ...]
) -> AsyncIterator[Part]:
    """Yield the parts of a request body, or the body itself if it is not multipart.

    Args:
        content_type: The request's Content-Type.
        chunks: The request's body.
        limit_bytes: Longest part kept.
        types: Part types that are understood; others are 415.

    Raises:
        Problem: 400 not multipart, 415 wrong type.
    """
    ranges = parse_accept(content_type) if content_type else ()
    if not ranges:
        raise Problem(415, f"no Content-Type; send {' or '.join(types)}")
    sent = ranges[0]
    if sent.media_type in types:
        yield await _single(content_type, chunks, limit_bytes)
        return
    kind = sent.param("type").partition(";")[0].lower()
    if sent.media_type != "multipart/related" or (kind and kind not in types):
        raise Problem(415, f"{content_type!r} is not multipart/related of {' or '.join(types)}")
    boundary = sent.param("boundary")
    if not boundary or len(boundary) > 70:
        raise Problem(400, "multipart/related without a boundary of 1 to 70 characters")
    reader = PartReader(boundary, limit_bytes)
    async for chunk in chunks:
        for part in reader.feed(chunk):
            yield part
    reader.close()


async def _single(content_type: str, chunks: AsyncIterable[bytes], limit_bytes: int) -> Part:
    body = bytearray()
    oversize = False
    async for chunk in chunks:
        if not oversize:
            body += chunk
        if len(body) > limit_bytes:
            oversize = True
            body.clear()
    return Part({"content-type": content_type}, bytes(body), oversize)
