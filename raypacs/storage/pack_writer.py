"""Writes packs and header sidecars as streams; nothing is visible before :meth:`finish`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from raypacs.storage import pack_format as fmt
from raypacs.storage.objects import Buffer, ObjectWriter
from raypacs.storage.tier import Tier

_GZIP_HEAD = bytes.fromhex("1f8b08000000000000ff")  # deflate, no name, no time


@dataclass(frozen=True, slots=True)
class DeflatedBlock:
    """A raw deflate stream that ends with a full flush, with length and CRC-32 of its content."""

    data: bytes
    raw_length: int
    crc32: int

    @classmethod
    def of(cls, pieces: Sequence[bytes], *, level: int = 6) -> DeflatedBlock:
        """Compress ``pieces`` laid end to end."""
        packer = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
        crc = length = 0
        out = []
        for piece in pieces:
            out.append(packer.compress(piece))
            crc = zlib.crc32(piece, crc)
            length += len(piece)
        out.append(packer.flush(zlib.Z_FULL_FLUSH))
        return cls(b"".join(out), length, crc)


class _Streamed:
    """An object being written on a tier: counts bytes, commits at most once."""

    def __init__(self, tier: Tier, path: str, magic: bytes, token: str) -> None:
        self._opening: AbstractContextManager[ObjectWriter] = tier.create(path)
        self._head = fmt.head(magic, token)
        self.token = token

    def __enter__(self) -> Self:
        self._out = self._opening.__enter__()
        self._out.write(self._head)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opening.__exit__(kind, error, trace)


class PackWriter(_Streamed):
    """Writes one pack: all low parts, then all rests, then copied objects, then the index."""

    def __init__(self, tier: Tier, path: str, *, token: str) -> None:
        super().__init__(tier, path, fmt.PACK_MAGIC, token)
        self._low_length = 0
        self._rest_offset = 0

    def write_low(self, data: Buffer) -> None:
        """Append low parts of frames, in the order of the frame table."""
        if self._rest_offset:
            raise ValueError("low parts come before everything else")
        self._low_length += self._out.write(data)

    def write_rest(self, data: Buffer) -> None:
        """Append rests of frames, in the order of the frame table."""
        self._end_low()
        self._out.write(data)

    def write_object(self, chunks: Iterable[Buffer]) -> tuple[int, int, int]:
        """Append a copied Part 10 file; return its (offset, length, CRC-32)."""
        self._end_low()
        offset, crc = self._out.tell(), 0
        for chunk in chunks:
            crc = zlib.crc32(chunk, crc)
            self._out.write(chunk)
        return offset, self._out.tell() - offset, crc

    @property
    def low_offset(self) -> int:
        """Where the low parts begin."""
        return fmt.HEAD.size

    @property
    def rest_offset(self) -> int:
        """Where the rests begin; final once the first rest or object was written."""
        return self._rest_offset or self._out.tell()

    def finish(self, index: fmt.PackIndex) -> int:
        """Write index and footer, make the pack durable and visible; return its size in bytes.

        Raises:
            AlreadyExists, TierFull, TierUnavailable: nothing is visible then.
        """
        self._end_low()
        data = fmt.encode_pack_index(index)
        footer = fmt.PackFooter(
            low_offset=self.low_offset,
            low_length=self._low_length,
            rest_offset=self._rest_offset,
            index_offset=self._out.tell(),
            index_length=len(data),
            index_crc32=zlib.crc32(data),
            table_rows=len(index.table) // fmt.FRAME.size,
        )
        self._out.write(data + fmt.encode_pack_footer(footer))
        return self._out.commit()

    def _end_low(self) -> None:
        if not self._rest_offset:
            self._rest_offset = self._out.tell()


class SidecarWriter(_Streamed):
    """Writes one header sidecar from the blocks of its chunks."""

    def __init__(self, tier: Tier, path: str, *, token: str) -> None:
        super().__init__(tier, path, fmt.SIDECAR_MAGIC, token)

    def finish(
        self,
        metadata: Sequence[DeflatedBlock],
        headers: Sequence[DeflatedBlock],
        instances: Sequence[fmt.SidecarInstance],
    ) -> int:
        """Write everything, make it durable and visible; return its size in bytes.

        ``metadata`` blocks hold JSON objects joined by commas; together they become one gzip
        member holding one JSON array. ``headers`` blocks hold headers laid end to end.

        Raises:
            AlreadyExists, TierFull, TierUnavailable: nothing is visible then.
        """
        gzip_offset = self._out.tell()
        metadata_blocks = self._write_gzip(metadata)
        gzip_length = self._out.tell() - gzip_offset
        header_blocks = [self._write_block(block) for block in headers]
        index = fmt.SidecarIndex(
            token=self.token,
            gzip_offset=gzip_offset,
            gzip_length=gzip_length,
            metadata_blocks=tuple(metadata_blocks),
            header_blocks=tuple(header_blocks),
            instances=tuple(instances),
        )
        self._out.write(fmt.encode_sidecar_tail(index, self._out.tell()))
        return self._out.commit()

    def _write_gzip(self, blocks: Sequence[DeflatedBlock]) -> list[fmt.Block]:
        """Join the blocks to one gzip member (RFC 1952) without inflating them."""
        self._out.write(_GZIP_HEAD)
        pieces = [(zlib.crc32(b"["), 1)]
        self._out.write(_deflated(b"["))
        places = []
        for block in blocks:
            # A chunk inside a multi-frame instance has no header of its own: an empty block.
            if block.raw_length and len(pieces) > 1:
                self._out.write(_deflated(b","))
                pieces.append((zlib.crc32(b","), 1))
            places.append(self._write_block(block))
            if block.raw_length:
                pieces.append((block.crc32, block.raw_length))
        pieces.append((zlib.crc32(b"]"), 1))
        crc, length = fmt.joined_crc32(pieces)
        end = _deflated(b"]", last=True)
        self._out.write(end + crc.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little"))
        return places

    def _write_block(self, block: DeflatedBlock) -> fmt.Block:
        offset = self._out.tell()
        self._out.write(block.data)
        return fmt.Block(offset, len(block.data), block.raw_length, block.crc32)


def _deflated(text: bytes, *, last: bool = False) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(text) + packer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)
