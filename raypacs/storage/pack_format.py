"""Layout of a pack and of its header sidecar, as ``docs/pack-format.md`` specifies it: no I/O."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from raypacs.errors import PackCorrupt

PACK_MAGIC = b"RPCK"
SIDECAR_MAGIC = b"RPHD"
VERSIONS = {PACK_MAGIC: 2, SIDECAR_MAGIC: 1}
"""The versions that are written."""
_KNOWN = {PACK_MAGIC: (1, 2), SIDECAR_MAGIC: (1,)}
HEAD = struct.Struct("<4sHH16s8x")  # magic, version, 0, token
FOOTER = struct.Struct("<QQQQIIIIHH4s")
FRAME = struct.Struct("<IIII")  # prepared: low length, rest length, CRC of low, CRC of rest
COPIED_FRAME = struct.Struct("<QII")  # copied: offset in the object, length, CRC
assert HEAD.size == 32
assert FOOTER.size == 56
assert FRAME.size == COPIED_FRAME.size == 16

HTJ2K = "htj2k"
WAVELET = "wavelet"
BITS = "bits"
COPIED = "copied"


@dataclass(frozen=True, slots=True)
class PackInstance:
    """One instance of a pack.

    ``form`` is 'htj2k', 'wavelet' (floating point), 'bits' (one bit a sample) or 'copied',
    ``reason`` why (empty: by default). ``low_own``: the low part is a code of its own, and the rest
    alone the frame; else low part + rest are the frame. The pixel fields describe
    the decoded samples; ``photometric`` is their Photometric Interpretation, which is YBR_RCT in
    the prepared header where it is RGB here and ``colour_transform`` is set. ``first_frame`` is
    the row of the frame table; ``table_rows`` is 0 for copied objects whose frames were not found.
    ``levels`` are the decompositions of a codestream; the low part holds it down from
    ``low_halvings`` of them. ``object_*`` say where a copied Part 10 file lies.
    """

    sop_instance_uid: str
    sop_class_uid: str
    form: str
    reason: str = ""
    transfer_syntax_uid: str = ""
    frames: int = 0
    rows: int = 0
    columns: int = 0
    samples: int = 0
    bits_allocated: int = 0
    bits_stored: int = 0
    pixel_representation: int = 0
    photometric: str = ""
    colour_transform: bool = False
    pixel_vr: str = ""
    levels: int = 0
    low_halvings: int = 0
    low_own: bool = False
    first_frame: int = 0
    table_rows: int = 0
    low_offset: int = 0
    rest_offset: int = 0
    object_offset: int = 0
    object_length: int = 0
    object_crc32: int = 0
    raw_bytes: int = 0
    lossless_proven: bool = False


@dataclass(frozen=True, slots=True)
class PackIndex:
    """The index of a pack: whose it is, its instances in order, and its frame table.

    ``volume`` is (offset, length, CRC-32) of the 3-D overview in the pack, if it has one.
    """

    study_uid: str
    series_uid: str
    token: str
    instances: tuple[PackInstance, ...]
    table: bytes
    volume: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class PackFooter:
    """The last 56 bytes of a pack: where low parts, rests, copied objects and the index lie."""

    low_offset: int
    low_length: int
    rest_offset: int
    index_offset: int
    index_length: int
    index_crc32: int
    table_rows: int

    @property
    def table_length(self) -> int:
        """Bytes of the frame table."""
        return self.table_rows * FRAME.size


@dataclass(frozen=True, slots=True)
class Span:
    """A range of an inflated block: its number, the offset in it, and the length."""

    block: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Block:
    """A raw deflate block that is readable on its own: where it lies, and what it inflates to."""

    offset: int
    length: int
    raw_length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SidecarInstance:
    """Where one instance's JSON lies in its metadata block, and its header in its header block.

    ``header`` ends with ``trailer_length`` bytes of elements that come after Pixel Data; it is
    None for copied objects, whose header lies in the object itself.
    """

    sop_instance_uid: str
    metadata: Span
    header: Span | None = None
    trailer_length: int = 0


@dataclass(frozen=True, slots=True)
class SidecarIndex:
    """The index of a header sidecar."""

    token: str
    gzip_offset: int
    gzip_length: int
    metadata_blocks: tuple[Block, ...]
    header_blocks: tuple[Block, ...]
    instances: tuple[SidecarInstance, ...]


def head(magic: bytes, token: str) -> bytes:
    """Return the first 32 bytes of a pack or sidecar."""
    return HEAD.pack(magic, VERSIONS[magic], 0, token.encode("ascii"))


def check_head(data: bytes, magic: bytes, what: str) -> str:
    """Return the token in the first 32 bytes.

    Raises:
        PackCorrupt: not such a file, or of a version this code does not know.
    """
    if len(data) < HEAD.size:
        raise PackCorrupt(f"{what} is cut off")
    found, version, _, token = HEAD.unpack_from(data)
    if found != magic:
        raise PackCorrupt(f"{what} does not begin with {magic.decode()}")
    _check_version(version, magic, what)
    return str(token.decode("ascii", "replace"))


def _check_version(version: int, magic: bytes, what: str) -> None:
    known = _KNOWN[magic]
    if version not in known:
        raise PackCorrupt(f"{what} has format version {version}, this reader knows {known[-1]}")


def encode_pack_index(index: PackIndex) -> bytes:
    """Return the index section: the frame table, then the compressed JSON."""
    default = PackInstance("", "", "")
    names = [(field.name, getattr(default, field.name)) for field in fields(PackInstance)]
    entries = [
        {name: value for name, usual in names if (value := getattr(one, name)) != usual}
        for one in index.instances
    ]
    text: dict[str, Any] = {
        "study_uid": index.study_uid,
        "series_uid": index.series_uid,
        "token": index.token,
        "instances": entries,
    }
    if index.volume is not None:
        text["volume"] = list(index.volume)
    return index.table + zlib.compress(json.dumps(text, separators=(",", ":")).encode(), 6)


def encode_pack_footer(footer: PackFooter) -> bytes:
    """Return the last bytes of a pack; the CRC covers the footer before it."""
    body = FOOTER.pack(
        footer.low_offset,
        footer.low_length,
        footer.rest_offset,
        footer.index_offset,
        footer.index_length,
        footer.index_crc32,
        footer.table_rows,
        0,
        VERSIONS[PACK_MAGIC],
        0,
        PACK_MAGIC,
    )
    crc = zlib.crc32(body[: FOOTER.size - 12])
    return body[: FOOTER.size - 12] + struct.pack("<I", crc) + body[-8:]


def decode_pack_footer(data: bytes, size_bytes: int) -> PackFooter:
    """Parse the last 56 bytes of a pack of ``size_bytes``.

    Raises:
        PackCorrupt: not a pack, another version, or damaged.
    """
    if len(data) < FOOTER.size:
        raise PackCorrupt("pack is cut off")
    values = FOOTER.unpack(data[-FOOTER.size :])
    crc, version, reserved, magic = values[7:]
    intact = magic == PACK_MAGIC and reserved == 0
    if not intact or crc != zlib.crc32(data[-FOOTER.size : -12]):
        raise PackCorrupt("pack has no intact footer: cut off or damaged")
    _check_version(version, PACK_MAGIC, "pack")
    footer = PackFooter(*values[:7])
    if footer.index_offset + footer.index_length + FOOTER.size != size_bytes:
        raise PackCorrupt("pack has another size than its footer says")
    return footer


def decode_pack_index(data: bytes, footer: PackFooter) -> PackIndex:
    """Parse the index section.

    Raises:
        PackCorrupt: damaged.
    """
    if len(data) != footer.index_length or zlib.crc32(data) != footer.index_crc32:
        raise PackCorrupt("index of the pack is damaged")
    table = data[: footer.table_length]
    try:
        text = json.loads(zlib.decompress(data[footer.table_length :]))
        known = {field.name for field in fields(PackInstance)}
        instances = tuple(
            PackInstance(**{key: value for key, value in entry.items() if key in known})
            for entry in text["instances"]
        )
        offset, length, crc = text.get("volume") or (0, 0, 0)
        return PackIndex(
            study_uid=text["study_uid"],
            series_uid=text["series_uid"],
            token=text["token"],
            instances=instances,
            table=table,
            volume=(offset, length, crc) if length else None,
        )
    except (zlib.error, ValueError, KeyError, TypeError) as exc:
        raise PackCorrupt(f"index of the pack cannot be read: {exc}") from exc


def encode_sidecar_tail(index: SidecarIndex, offset: int) -> bytes:
    """Return index and footer of a sidecar; the index begins at ``offset``."""
    text: dict[str, Any] = {
        "token": index.token,
        "gzip": [index.gzip_offset, index.gzip_length],
        "metadata_blocks": [_block_list(block) for block in index.metadata_blocks],
        "header_blocks": [_block_list(block) for block in index.header_blocks],
        "instances": [
            [
                one.sop_instance_uid,
                _span_list(one.metadata),
                _span_list(one.header) if one.header else None,
                one.trailer_length,
            ]
            for one in index.instances
        ],
    }
    data = zlib.compress(json.dumps(text, separators=(",", ":")).encode(), 6)
    version = VERSIONS[SIDECAR_MAGIC]
    tail = struct.pack("<QIIHH", offset, len(data), zlib.crc32(data), version, 0)
    return data + tail + struct.pack("<I", zlib.crc32(tail)) + SIDECAR_MAGIC


SIDECAR_FOOTER_BYTES = 28


def decode_sidecar_footer(data: bytes) -> tuple[int, int, int]:
    """Return (offset, length, CRC) of the index from the last 28 bytes of a sidecar.

    Raises:
        PackCorrupt: cut off, damaged, or another version.
    """
    tail = data[-SIDECAR_FOOTER_BYTES:]
    if len(tail) < SIDECAR_FOOTER_BYTES or tail[-4:] != SIDECAR_MAGIC:
        raise PackCorrupt("header sidecar is cut off")
    offset, length, crc, version, _, own = struct.unpack("<QIIHHI", tail[:-4])
    if own != zlib.crc32(tail[:-8]):
        raise PackCorrupt("footer of the header sidecar is damaged")
    _check_version(version, SIDECAR_MAGIC, "header sidecar")
    return offset, length, crc


def decode_sidecar_index(data: bytes, crc32: int) -> SidecarIndex:
    """Parse the index of a sidecar.

    Raises:
        PackCorrupt: damaged.
    """
    if zlib.crc32(data) != crc32:
        raise PackCorrupt("index of the header sidecar is damaged")
    try:
        text = json.loads(zlib.decompress(data))
        return SidecarIndex(
            text["token"],
            text["gzip"][0],
            text["gzip"][1],
            tuple(Block(*block) for block in text["metadata_blocks"]),
            tuple(Block(*block) for block in text["header_blocks"]),
            tuple(
                SidecarInstance(uid, Span(*metadata), Span(*header) if header else None, trailer)
                for uid, metadata, header, trailer in text["instances"]
            ),
        )
    except (zlib.error, ValueError, KeyError, TypeError) as exc:
        raise PackCorrupt(f"index of the header sidecar cannot be read: {exc}") from exc


def _block_list(block: Block) -> list[int]:
    return [block.offset, block.length, block.raw_length, block.crc32]


def _span_list(span: Span) -> list[int]:
    return [span.block, span.offset, span.length]


# ---- CRC-32 of joined pieces ------------------------------------------------------------------
_POLYNOMIAL = 0xEDB88320


def _multiply(a: int, b: int) -> int:
    """Product of two polynomials modulo that of CRC-32, bits reflected."""
    mask, product = 1 << 31, 0
    while True:
        if a & mask:
            product ^= b
            if not a & (mask - 1):
                return product
        mask >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1


def _squares() -> Sequence[int]:
    powers = [1 << 30]  # x to the power 1, 2, 4, 8 ...
    for _ in range(31):
        powers.append(_multiply(powers[-1], powers[-1]))
    return tuple(powers)


_POWERS = _squares()


def joined_crc32(pieces: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return (CRC-32, length) of pieces laid end to end, from the (CRC-32, length) of each."""
    crc, total = 0, 0
    for piece_crc, length in pieces:
        shift, power, left = 1 << 31, 3, length  # x to the power 8 * length
        while left:
            if left & 1:
                shift = _multiply(_POWERS[power & 31], shift)
            left >>= 1
            power += 1
        crc = (_multiply(shift, crc) if crc else 0) ^ piece_crc
        total += length
    return crc, total
