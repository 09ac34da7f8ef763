"""Containers: a series as one object of a library (``docs/container-format.md``).

A ZIP file of stored Part 10 files that any tool opens, and last ``manifest.json``, which says what
each instance is, where it lies, and what the index knew of it: from libraries alone the index can
be made again. An instance is read by its range. The same series gives the same bytes.

Whether a recompressed instance gives the bytes that were received is for ``work.recompress``.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raypacs.errors import ContainerCorrupt, NotFound
from raypacs.storage import container_zip as zips
from raypacs.storage.container_zip import Entry
from raypacs.storage.tier import Buffer, Tier

MANIFEST = "manifest.json"
VERSION = 1
AS_RECEIVED, HTJ2K = "as received", "htj2k"
PIECE_BYTES = 4 * 1024 * 1024
_KIND = "raypacs container"
_LEVEL = 6
# One read finds the directory and the manifest of nearly all containers.
_END_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Original:
    """Of a recompressed instance: the file as received, before and after the Pixel Data value."""

    head: bytes
    tail: bytes
    pixel_bytes: int


@dataclass(frozen=True, slots=True)
class Member:
    """One instance of a container.

    ``offset`` and ``length``: where its Part 10 file lies in the object. ``sha256``: of the data
    set as received; ``stored_sha256``: of the file as it lies here. ``form``: ``as received`` (byte
    for byte) or ``htj2k``. ``row``: the instance as the index had it, by column.
    """

    sop_instance_uid: str
    name: str
    offset: int
    length: int
    crc32: int
    sha256: str
    stored_sha256: str
    form: str
    transfer_syntax_uid: str
    row: dict[str, Any]
    original: Original | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """An instance on its way into a container; ``chunks`` are its ``length`` bytes."""

    sop_instance_uid: str
    length: int
    crc32: int
    sha256: str
    stored_sha256: str
    form: str
    transfer_syntax_uid: str
    row: dict[str, Any]
    chunks: Iterable[Buffer]
    original: Original | None = None


@dataclass
class ContainerWriter:
    """Gives the bytes of a container piece by piece; knows size and SHA-256 at the end."""

    study_uid: str
    series_uid: str
    attributes: dict[str, str]
    members: list[Member] = field(default_factory=list)
    size_bytes: int = 0

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()
        self._entries: list[Entry] = []

    @property
    def sha256(self) -> str:
        """SHA-256 of what was given so far."""
        return self._digest.hexdigest()

    def chunks(self, instances: Iterable[Incoming]) -> Iterator[Buffer]:
        """Yield the container of ``instances``, each taken when its turn comes.

        Raises:
            ContainerCorrupt: an instance gave other bytes than it said: it changed meanwhile.
        """
        for one in instances:
            entry = Entry(
                f"{one.sop_instance_uid}.dcm", self.size_bytes, one.length, one.length, one.crc32
            )
            self._entries.append(entry)
            self.members.append(
                Member(
                    sop_instance_uid=one.sop_instance_uid,
                    name=entry.name,
                    offset=entry.data_offset,
                    length=one.length,
                    crc32=one.crc32,
                    sha256=one.sha256,
                    stored_sha256=one.stored_sha256,
                    form=one.form,
                    transfer_syntax_uid=one.transfer_syntax_uid,
                    row=one.row,
                    original=one.original,
                )
            )
            yield self._out(zips.local_header(entry))
            crc = 0
            for chunk in one.chunks:
                crc = zlib.crc32(chunk, crc)
                yield self._out(chunk)
            if self.size_bytes != entry.end or crc != one.crc32:
                raise ContainerCorrupt(f"{entry.name} changed while it was archived")
        yield from self._end()

    def _end(self) -> Iterator[Buffer]:
        data = encode_manifest(self.study_uid, self.series_uid, self.attributes, self.members)
        packed = _deflated(data)
        entry = Entry(
            *(MANIFEST, self.size_bytes, len(packed), len(data), zlib.crc32(data)), zips.DEFLATED
        )
        self._entries.append(entry)
        yield self._out(zips.local_header(entry))
        yield self._out(packed)
        yield self._out(zips.directory(self._entries, self.size_bytes))

    def _out(self, data: Buffer) -> Buffer:
        self._digest.update(data)
        self.size_bytes += len(data)
        return data


class Container:
    """An object of a library, open for reading: ``members`` by SOP Instance UID, in order."""

    def __init__(self, tier: Tier, path: str) -> None:
        """Read its directory and its manifest.

        Raises:
            NotFound: no such object. TierUnavailable: it cannot be read.
            ContainerCorrupt: it is none, or damaged.
        """
        self.tier, self.path = tier, path
        self.size_bytes = tier.size(path)
        start = max(0, self.size_bytes - _END_BYTES)
        end = tier.read(path, start, self.size_bytes - start)
        if len(end) != self.size_bytes - start:
            raise ContainerCorrupt("it is cut off", path=path)
        offset, length = zips.find_directory(end[-zips.TAIL_BYTES :], self.size_bytes)
        self.entries = zips.entries_of(self._from(end, start, offset, length))
        last = self.entries[-1] if self.entries else None
        if last is None or last.name != MANIFEST or last.end != offset:
            raise ContainerCorrupt("its last entry is no manifest.json", path=path)
        told = _decoded(self._from(end, start, last.data_offset, last.size), last)
        self.study_uid: str = told["study_uid"]
        self.series_uid: str = told["series_uid"]
        self.attributes: dict[str, str] = told["attributes"]
        self.members: dict[str, Member] = told["members"]
        self._check_entries()

    @classmethod
    def open(cls, tier: Tier, path: str) -> Container:
        """Open a container. Raises as the constructor."""
        return cls(tier, path)

    def member(self, sop_instance_uid: str) -> Member:
        """Return what is known of an instance. Raises NotFound."""
        try:
            return self.members[sop_instance_uid]
        except KeyError:
            raise NotFound(
                f"the container has no instance {sop_instance_uid}", path=self.path
            ) from None

    def read(self, sop_instance_uid: str, start: int = 0, length: int | None = None) -> bytes:
        """Return bytes of an instance's file as it lies here, from ``start`` on; not checked."""
        member = self.member(sop_instance_uid)
        left = max(0, member.length - start)
        size = left if length is None else min(left, length)
        return self.tier.read(self.path, member.offset + start, size)

    def pieces(self, sop_instance_uid: str) -> Iterator[bytes]:
        """Yield an instance's file as it lies here; after the last piece it is checked.

        Raises:
            ContainerCorrupt: it differs from its SHA-256.
        """
        member = self.member(sop_instance_uid)
        digest = hashlib.sha256()
        at = 0
        while at < member.length:
            piece = self.read(sop_instance_uid, at, PIECE_BYTES)
            if not piece:
                break
            digest.update(piece)
            at += len(piece)
            yield piece
        if digest.hexdigest() != member.stored_sha256:
            raise ContainerCorrupt(f"{member.name} differs from its SHA-256", path=self.path)

    def check(
        self,
        proof: Callable[[Member, bytes], str],
        sha256: str = "",
        pace: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Read the whole object and compare every byte of it with what it says of itself.

        ``proof`` is asked of each recompressed instance, with its file: why it does not give what
        was received ('': it does). ``sha256``: that of the object, as it was written. ``pace``
        is called with each number of bytes that is read.

        Raises:
            ContainerCorrupt: what is damaged. NotFound, TierUnavailable: it cannot be read.
        """
        reader = _Reader(self, pace)
        for entry, member in zip(self.entries[:-1], self.members.values(), strict=True):
            reader.expect(zips.local_header(entry), f"the header of {entry.name}")
            self._check_member(reader, member, proof)
        last = self.entries[-1]
        reader.expect(zips.local_header(last), "the header of manifest.json")
        for _ in reader.pieces(last.size):
            pass  # its checksum was compared when it was opened
        reader.expect(zips.directory(self.entries, last.end), "the central directory")
        if sha256 and reader.sha256 != sha256:
            raise ContainerCorrupt("it differs from the SHA-256 it was written with")

    def _check_member(
        self, reader: _Reader, member: Member, proof: Callable[[Member, bytes], str]
    ) -> None:
        whole, dataset = hashlib.sha256(), hashlib.sha256()
        crc, at = 0, 0
        kept: list[bytes] = []
        start = int(member.row.get("dataset_offset_bytes", 0))
        for piece in reader.pieces(member.length):
            whole.update(piece)
            crc = zlib.crc32(piece, crc)
            if member.form == AS_RECEIVED:
                dataset.update(piece[max(0, start - at) :])
            else:
                kept.append(piece)
            at += len(piece)
        if crc != member.crc32:
            raise ContainerCorrupt(f"{member.name} differs from its CRC-32")
        if whole.hexdigest() != member.stored_sha256:
            raise ContainerCorrupt(f"{member.name} differs from its SHA-256")
        if member.form == AS_RECEIVED:
            why = "" if dataset.hexdigest() == member.sha256 else "its data set differs"
        else:
            why = proof(member, b"".join(kept))
        if why:
            raise ContainerCorrupt(f"{member.name} is not what was received: {why}")

    def _from(self, end: bytes, start: int, offset: int, length: int) -> bytes:
        if offset >= start:
            return end[offset - start : offset - start + length]
        return self.tier.read(self.path, offset, length)

    def _check_entries(self) -> None:
        """Raise ContainerCorrupt unless directory and manifest speak of the same members."""
        at = 0
        members = list(self.members.values())
        if len(members) != len(self.entries) - 1:
            raise ContainerCorrupt("its directory and its manifest differ", path=self.path)
        for entry, member in zip(self.entries, members, strict=False):
            told = (member.name, member.offset, member.length, member.crc32)
            if entry.offset != at or told != (
                *(entry.name, entry.data_offset, entry.size, entry.crc32),
            ):
                raise ContainerCorrupt("its directory and its manifest differ", path=self.path)
            at = entry.end


class _Reader:
    """Reads a container from its first byte to its last."""

    def __init__(self, container: Container, pace: Callable[[int], None]) -> None:
        self._tier, self._path = container.tier, container.path
        self._pace = pace
        self._at = 0
        self._ahead = b""
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def pieces(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._ahead:
                self._ahead = self._tier.read(self._path, self._at, PIECE_BYTES)
                self._digest.update(self._ahead)
                self._pace(len(self._ahead))
                self._at += len(self._ahead)
                if not self._ahead:
                    raise ContainerCorrupt("it is cut off")
            piece, self._ahead = self._ahead[:length], self._ahead[length:]
            length -= len(piece)
            yield piece

    def expect(self, data: bytes, what: str) -> None:
        if b"".join(self.pieces(len(data))) != data:
            raise ContainerCorrupt(f"{what} is damaged")


def forget_cached(tier: Tier, path: str) -> None:
    """Let the next read of a local object come from the disk, not from the page cache."""
    local = tier.local_path(path)
    if local is None:
        return
    try:
        fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # whoever reads it is told what is wrong
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def encode_manifest(
    study_uid: str, series_uid: str, attributes: dict[str, str], members: Iterable[Member]
) -> bytes:
    """Return ``manifest.json``."""
    told = {
        "kind": _KIND,
        "version": VERSION,
        "study_uid": study_uid,
        "series_uid": series_uid,
        "attributes": attributes,
        "instances": [_as_json(member) for member in members],
    }
    return json.dumps(told, separators=(",", ":"), indent=None).encode() + b"\n"


def _as_json(member: Member) -> dict[str, Any]:
    told: dict[str, Any] = {
        name: getattr(member, name) for name in Member.__slots__ if name != "original"
    }
    if member.original is not None:
        told["original"] = {
            "head": _packed(member.original.head),
            "tail": _packed(member.original.tail),
            "pixel_bytes": member.original.pixel_bytes,
        }
    return told


def _packed(data: bytes) -> str:
    return b64encode(zlib.compress(data, 9)).decode()


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def _decoded(packed: bytes, entry: Entry) -> dict[str, Any]:
    """Read ``manifest.json``. Raises ContainerCorrupt."""
    try:
        data = zlib.decompress(packed, -zlib.MAX_WBITS)
        if len(data) != entry.raw_size or zlib.crc32(data) != entry.crc32:
            raise ContainerCorrupt("manifest.json differs from its CRC-32")
        told: dict[str, Any] = json.loads(data)
        if told["kind"] != _KIND or told["version"] != VERSION:
            raise ContainerCorrupt(f"manifest.json is of version {told['version']}, not {VERSION}")
        members = [_member(one) for one in told["instances"]]
    except (zlib.error, ValueError, LookupError, TypeError) as exc:
        if isinstance(exc, ContainerCorrupt):
            raise
        raise ContainerCorrupt(f"manifest.json cannot be read: {type(exc).__name__}") from exc
    return {**told, "members": {one.sop_instance_uid: one for one in members}}


def _member(told: dict[str, Any]) -> Member:
    original = told.pop("original", None)
    if original is None:
        return Member(**told)
    head, tail = (zlib.decompress(b64decode(original[name])) for name in ("head", "tail"))
    return Member(**told, original=Original(head, tail, int(original["pixel_bytes"])))
