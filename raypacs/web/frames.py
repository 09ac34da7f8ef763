"""The bytes of one frame in one form: where they lie, or how they are made.

A frame that lies somewhere as it is asked for is read by offset (:meth:`Frames.locate`); the
others are made in a thread (:meth:`Frames.load`), once however many ask at the same moment.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from raypacs import dicom
from raypacs.codec.htj2k import check_range
from raypacs.errors import (
    InstanceAway,
    NotFound,
    ObjectChanged,
    TierUnavailable,
    UnsupportedPixels,
)
from raypacs.records import InstanceRecord
from raypacs.storage.adopted import check_unchanged, is_unchanged
from raypacs.web import pixels
from raypacs.web.negotiate import Form
from raypacs.web.object_file import Extent, ObjectFile, ObjectFiles, Seen, seen
from raypacs.web.places import Place
from raypacs.web.received import Received, fragments_of
from raypacs.web.services import Services

_MOST_FRAGMENT_LISTS = 512
_AS_IT_LIES = frozenset({dicom.IMPLICIT_VR_LE, dicom.EXPLICIT_VR_LE})


def native_extent(record: InstanceRecord, number: int) -> Extent | None:
    """Return where frame ``number`` (from 1) lies uncompressed, little endian, in the stored file.

    None where the stored bytes are not what is asked for: encapsulated, big endian of more than
    a byte, frames that do not begin at a byte, or sub-sampled colour.
    """
    if record.pixel_offset_bytes < 0 or record.pixel_length_bytes <= 0:
        return None
    if record.transfer_syntax_uid not in _AS_IT_LIES or record.photometric == "YBR_FULL_422":
        return None
    count = record.rows * record.columns * record.samples * record.bits_allocated
    if count == 0 or count % 8 or number * (count // 8) > record.pixel_length_bytes:
        return None
    return record.pixel_offset_bytes + (number - 1) * (count // 8), count // 8


def _unused_bits_of_signed(record: InstanceRecord) -> bool:
    """Whether samples are signed and leave bits of their cells unused: copies of the sign, or 0."""
    return record.pixel_representation == 1 and 0 < record.bits_stored < record.bits_allocated


def native_possible(place: Place) -> bool:
    """Whether uncompressed pixels can be had at all."""
    record = place.stored.record
    if place.frames == 0:
        return False
    return place.is_coded or native_extent(record, 1) is not None or pixels.decodable(record)


def _in_copy(place: Place, extent: Extent) -> tuple[ObjectFile, tuple[Extent, ...]] | None:
    """Return where an extent of a copied instance lies in the pack, which stays; None: not copied.

    So a frame has the same bytes whether or not the original left the image cache.
    """
    if place.pack is None or place.prepared is None or place.is_coded:
        return None
    return place.pack.file, ((place.prepared.object_offset + extent[0], extent[1]),)


class OriginalAway(NotFound):
    """An instance as received left the image cache; the web cache has it in another form."""


def away(place: Place) -> InstanceAway:
    """Return the error for an instance whose bytes are not on its tier."""
    record = place.stored.record
    return InstanceAway(
        f"instance {record.sop_instance_uid} left tier {record.tier}".rstrip(),
        study_uid=record.study_uid,
    )


def _read(file: ObjectFile, extents: tuple[Extent, ...]) -> bytes:
    data = bytearray(sum(length for _, length in extents))
    file.read_into(extents, memoryview(data))
    return bytes(data)


@dataclass
class Frames:
    """Reads frames of places; the made ones are kept for a moment (bounded in bytes)."""

    services: Services
    files: ObjectFiles
    most_bytes: int = 64 * 1024 * 1024
    _fragments: OrderedDict[Seen, list[list[Extent]]] = field(default_factory=OrderedDict)
    _made: OrderedDict[tuple[str, str, int], bytes] = field(default_factory=OrderedDict)
    _made_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: dict[tuple[str, str, int], threading.Lock] = field(default_factory=dict)
    _received: Received = field(init=False)

    def __post_init__(self) -> None:
        self._received = Received(self.services, self.files, self.original)

    def locate(
        self, place: Place, form: Form, number: int
    ) -> tuple[ObjectFile, tuple[Extent, ...]] | None:
        """Return open object and extents if the frame lies ready; never blocks, never decodes."""
        record = place.stored.record
        if form != "native" and place.pack is not None and place.lies_in_pack(form):
            return place.pack.file, place.pack.reader.frame_extents(record.sop_instance_uid, number)
        extents: tuple[Extent, ...] | None = None
        if form == "native":
            extent = self._native_extent(place, number)
            if extent is not None and (copy := _in_copy(place, extent)) is not None:
                return copy
            extents = (extent,) if extent is not None else None
        else:
            fragments = self._fragments.get(seen(record))
            extents = tuple(fragments[number - 1]) if fragments is not None else None
        opened = self.files.cached(record) if extents is not None else None
        return (opened, extents) if opened is not None and extents is not None else None

    def load(self, place: Place, form: Form, number: int) -> bytes:
        """Return the frame's bytes; blocks.

        Raises:
            NotFound: no such frame. UnsupportedPixels: it cannot be had in this form.
            PackCorrupt: its bytes are damaged.
        """
        if not 1 <= number <= place.frames:
            raise NotFound(f"no frame {number}; the instance has {place.frames}")
        found = self.locate(place, form, number) or self._open(place, form, number)
        if found is not None:
            return _read(*found)
        if form != "native":
            return self._copied_frame(place, number)
        key = (place.token + place.stored.record.sop_instance_uid, form, number)
        return self._once(key, lambda: self.array(place, number).native_bytes())

    def array(self, place: Place, number: int) -> pixels.Picture:
        """Return the frame as an array, decoded; blocks. Raises as :meth:`load`."""
        if not 1 <= number <= place.frames:
            raise NotFound(f"no frame {number}; the instance has {place.frames}")
        record = place.stored.record
        # Never by load(form="native"): that ends here when the stored file is gone.
        found = self.locate(place, "native", number) or self._open(place, "native", number)
        if found is not None:
            return pixels.from_native(record, _read(*found))
        if (extended := self._sign_extended(place, number)) is not None:
            return pixels.from_native(record, extended)
        if place.is_coded and place.pack is not None and place.prepared is not None:
            data = place.pack.reader.read_frame(record.sop_instance_uid, number)
            return pixels.from_pack(record, data, place.prepared)
        if dicom.is_encapsulated(record.transfer_syntax_uid):
            return pixels.from_encapsulated(record, self.load(place, "original", number))
        return self._received.picture(place, number)

    def original(self, place: Place) -> io.BufferedIOBase:
        """Open the instance as received for reading: from the image cache, else the pack's copy.

        Raises:
            InstanceAway: neither has it. OriginalAway: the pack has it in another form.
        """
        record = place.stored.record
        try:
            tier = self.services.tier(record.tier)
            local = tier.local_path(record.path)
            check_unchanged(tier, record)
            if local is not None:
                return open(local, "rb")
            return io.BytesIO(tier.read(record.path))
        except (FileNotFoundError, NotFound, TierUnavailable) as exc:
            if place.pack is not None and not place.is_coded:
                return io.BytesIO(place.pack.reader.read_object(record.sop_instance_uid))
            if isinstance(exc, ObjectChanged | TierUnavailable):
                raise
            if place.pack is None:
                raise away(place) from exc
            raise OriginalAway(f"the instance as received left tier {record.tier}") from exc

    def has_original(self, place: Place) -> bool:
        """Whether the instance as received is still in the image cache; blocks."""
        record = place.stored.record
        try:
            tier = self.services.tier(record.tier)
        except NotFound:  # it lies nowhere but in libraries
            return False
        return tier.exists(record.path) and is_unchanged(tier, record)

    def _native_extent(self, place: Place, number: int) -> Extent | None:
        record = place.stored.record
        # Metadata of prepared frames says colour by pixel, and samples in the lowest bits.
        planes = record.planar_configuration == 1 and record.samples > 1
        shifted = record.bits_stored > 0 and record.high_bit != record.bits_stored - 1
        if place.is_coded and (planes or shifted or _unused_bits_of_signed(record)):
            return None
        return native_extent(record, number)

    def _sign_extended(self, place: Place, number: int) -> bytes | None:
        """Return a prepared signed frame from the instance as received; blocks.

        Decoded, its unused bits repeat the sign. Where they do as received as well, which is quick
        to see, nothing has to be decoded. None: they do not, or it left the image cache.
        """
        record = place.stored.record
        extent = native_extent(record, number)
        ready = self._native_extent(place, number) is not None
        if ready or extent is None or not _unused_bits_of_signed(record):
            return None
        if record.planar_configuration == 1 or record.high_bit != record.bits_stored - 1:
            return None
        file = self._open_original(place)
        if file is None:
            return None
        data = _read(file, (extent,))
        frame = np.frombuffer(data, f"<i{record.bits_allocated // 8}")
        return None if check_range(frame, bits_stored=record.bits_stored, signed=True) else data

    def _open_original(self, place: Place) -> ObjectFile | None:
        """Open the instance as received; None: it left the image cache, or its tier is away.

        Raises:
            TierUnavailable: its tier is away, and no pack has it.
            InstanceAway: it left the image cache, and no pack has it.
        """
        record = place.stored.record
        try:
            tier = self.services.tier(record.tier)
            check_unchanged(tier, record)
            return self.files.get(tier, record)
        except ObjectChanged:
            return None
        except NotFound as exc:
            if place.pack is None:
                raise away(place) from exc
            return None
        except TierUnavailable:
            if place.pack is None:
                raise
            return None  # it is away; the pack is not

    def _open(
        self, place: Place, form: Form, number: int
    ) -> tuple[ObjectFile, tuple[Extent, ...]] | None:
        """Open the instance as received and say where the frame lies in it; blocks.

        None: it does not lie there ready, or the instance left the image cache.
        """
        record = place.stored.record
        encapsulated = dicom.is_encapsulated(record.transfer_syntax_uid)
        if form == "native" and self._native_extent(place, number) is None:
            return None
        if form != "native" and not (encapsulated and record.pixel_offset_bytes >= 0):
            return None
        if self._open_original(place) is None:
            return None
        if form != "native" and seen(record) not in self._fragments:
            with self.original(place) as stream:
                found = fragments_of(stream, record, place.frames)
            with self._lock:
                self._fragments[seen(record)] = found
                while len(self._fragments) > _MOST_FRAGMENT_LISTS:
                    self._fragments.popitem(last=False)
        return self.locate(place, form, number)

    def _copied_frame(self, place: Place, number: int) -> bytes:
        """Return a frame as received of an object that only the pack still has."""
        record = place.stored.record
        if place.is_coded:
            raise away(place)
        if place.pack is None or not dicom.is_encapsulated(record.transfer_syntax_uid):
            raise UnsupportedPixels("the instance has no encapsulated frames")
        return self._received.packed_frame(place, number)

    def _once(self, key: tuple[str, str, int], make: Callable[[], bytes]) -> bytes:
        """Make a frame once, however many threads ask for it; keep it while there is room."""
        with self._lock:
            found = self._made.get(key)
            if found is not None:
                self._made.move_to_end(key)
                return found
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            with self._lock:
                # Whoever held `busy` before has just made it.
                found = self._made.get(key)
            if found is not None:
                return found
            try:
                made = make()
            finally:
                with self._lock:
                    self._busy.pop(key, None)
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[str, str, int], made: bytes) -> None:
        with self._lock:
            if key in self._made:
                return
            self._made[key] = made
            self._made_bytes += len(made)
            while self._made_bytes > self.most_bytes and self._made:
                _, dropped = self._made.popitem(last=False)
                self._made_bytes -= len(dropped)
