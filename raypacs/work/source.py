"""Reads one stored instance: whole where it is small, by ranges where it is not."""

from __future__ import annotations

import os
from functools import lru_cache
from types import TracebackType
from typing import Literal, Self

from raypacs import dicom
from raypacs.config import TierSettings
from raypacs.dicom import Header
from raypacs.errors import MalformedInstance, NotFound, TierUnavailable
from raypacs.records import InstanceRecord
from raypacs.storage.adopted import check_unchanged
from raypacs.storage.tier import Tier, open_tier


@lru_cache(maxsize=16)
def tier_of(settings: TierSettings) -> Tier:
    """Return an open tier; kept, since a worker opens the same few again and again."""
    return open_tier(settings)


def find_tier(tiers: tuple[TierSettings, ...], name: str) -> Tier:
    """Return the tier of a name. Raises TierUnavailable."""
    for settings in tiers:
        if settings.name == name:
            return tier_of(settings)
    raise TierUnavailable(f"no tier {name!r} in the settings", tier=name)


class Scratch:
    """Memory that one instance after another is read into; grows to the largest."""

    def __init__(self) -> None:
        self._data = bytearray()

    def room(self, size: int, *, aligned_at: int = 0) -> memoryview:
        """Return ``size`` bytes; what was returned before is overwritten.

        Byte ``aligned_at`` of them begins a word of 64 bits, so that pixels are fast to look at.
        """
        skip = -aligned_at % 8
        if len(self._data) < size + skip:
            self._data = bytearray(size + 8)  # not extended: the old one may still be looked at
        return memoryview(self._data)[skip : skip + size]


class Source:
    """An instance open for reading.

    An object of at most ``whole_bytes`` is read once into ``scratch``, which may be used again for
    the next instance: what :meth:`read` returns is only valid until then. A deflated one is
    inflated; where that cannot be done, it can be opened but not read. Larger ones are read range
    by range.
    """

    def __init__(
        self, tier: Tier, record: InstanceRecord, scratch: Scratch, *, whole_bytes: int
    ) -> None:
        self.record = record
        self.transfer_syntax_uid = record.transfer_syntax_uid
        self.pixel_offset = record.pixel_offset_bytes
        self.pixel_length = record.pixel_length_bytes
        self._tier, self._scratch, self._whole_bytes = tier, scratch, whole_bytes
        self._whole: memoryview | None = None
        self._header: Header | None = None
        self._fd = -1
        self._damage: MalformedInstance | None = None

    def __enter__(self) -> Self:
        check_unchanged(self._tier, self.record)
        local = self._tier.local_path(self.record.path)
        if local is not None:
            try:
                self._fd = os.open(local, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as exc:
                raise NotFound(f"no object {self.record.path!r}", path=self.record.path) from exc
            except OSError as exc:
                raise TierUnavailable(f"{self.record.path}: {exc.strerror}") from exc
        if self.transfer_syntax_uid in dicom.DEFLATED:
            self._inflate()
        elif self.record.size_bytes <= self._whole_bytes:
            self._read_whole()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._whole = None
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def size(self) -> int:
        """Bytes of the object, inflated if it was deflated."""
        return self.record.size_bytes if self._whole is None else len(self._whole)

    def read(self, offset: int, length: int) -> memoryview:
        """Return ``length`` bytes from ``offset``, fewer at the end.

        Raises:
            MalformedInstance: a deflated data set that cannot be inflated.
        """
        if self._damage is not None:
            raise self._damage
        if self._whole is not None:
            return self._whole[offset : offset + length]
        length = max(0, min(length, self.record.size_bytes - offset))
        if self._fd < 0:
            return memoryview(self._tier.read(self.record.path, offset, length))
        data = bytearray(length)
        self._fill(memoryview(data), offset)
        return memoryview(data)

    def header(self) -> Header:
        """Return the scanned header; of a large object only what comes before Pixel Data is read.

        Raises:
            MalformedInstance: it cannot be parsed.
        """
        if self._header is None:
            self._header = self._scanned()
        return self._header

    def _scanned(self) -> Header:
        start = 0 if self._inflated else self.record.dataset_offset_bytes
        if self._whole is not None:
            header = dicom.scan(self._whole, self._syntax, start)
            if header.pixel is not None:
                self.pixel_offset = header.pixel.value_offset
                self.pixel_length = header.pixel.length
            return header
        end = self.size
        if self.pixel_offset >= 0:
            # Without the Pixel Data element itself: its value is not in the buffer.
            end = self.pixel_offset - (8 if self._syntax == dicom.IMPLICIT_VR_LE else 12)
        return dicom.scan(self.read(0, end), self._syntax, start)

    def plain_header(self, most_bytes: int = 2**32) -> bytes:
        """Return the bytes before Pixel Data if they are Explicit VR Little Endian, else b''.

        At most ``most_bytes`` of them. Nothing is scanned: where Pixel Data begins is known from
        when the instance was received.
        """
        start, end = self.record.dataset_offset_bytes, self.pixel_offset - 12
        if self.transfer_syntax_uid != dicom.EXPLICIT_VR_LE or end <= start:
            return b""
        return bytes(self.read(start, min(end - start, most_bytes)))

    def pixel_tag(self) -> int:
        """Return the tag of the element whose value lies at ``pixel_offset``."""
        head = 8 if self._syntax == dicom.IMPLICIT_VR_LE else 12
        order: Literal["big", "little"]
        order = "big" if self._syntax == dicom.EXPLICIT_VR_BE else "little"
        tag = self.read(self.pixel_offset - head, 4)
        return int.from_bytes(tag[:2], order) << 16 | int.from_bytes(tag[2:], order)

    def pixel_vr(self) -> str:
        """Return the VR of native Pixel Data: OW in implicit VR and above 8 bits (PS3.5 A.1, A.2).

        Encapsulated Pixel Data is always OB, which says nothing of its samples.
        """
        if self._syntax == dicom.IMPLICIT_VR_LE or self.pixel_offset < 12:
            return "OW"
        vr = bytes(self.read(self.pixel_offset - 8, 2))
        return "OB" if vr == b"OB" and self.record.bits_allocated <= 8 else "OW"

    @property
    def _inflated(self) -> bool:
        return self.transfer_syntax_uid in dicom.DEFLATED

    @property
    def _syntax(self) -> str:
        return dicom.EXPLICIT_VR_LE if self._inflated else self.transfer_syntax_uid

    def _inflate(self) -> None:
        packed = self.read(0, self.record.size_bytes)
        try:
            data = dicom.inflate(packed, self.record.dataset_offset_bytes)
        except MalformedInstance as exc:
            self._damage = exc
            return
        self._whole = memoryview(data)
        self.header()  # sets where Pixel Data lies in the inflated data set

    def _read_whole(self) -> None:
        size = self.record.size_bytes
        if self._fd < 0:
            self._whole = memoryview(self._tier.read(self.record.path, 0, size))
            return
        whole = self._scratch.room(size, aligned_at=max(0, self.pixel_offset))
        self._fill(whole, 0)
        self._whole = whole

    def _fill(self, into: memoryview, offset: int) -> None:
        done = 0
        while done < len(into):
            try:
                count = os.preadv(self._fd, [into[done:]], offset + done)
            except OSError as exc:
                raise TierUnavailable(f"{self.record.path}: {exc.strerror}") from exc
            if count == 0:
                raise MalformedInstance(f"{self.record.path} is shorter than it was when stored")
            done += count
