"""Whole instances as Part 10 files (PS3.18 section 10.4.1.1.1 to .3), made piece by piece.

Three forms: as received (the file itself), as prepared (the pack builds it), and Explicit VR
Little Endian, whatever it was before.
"""

from __future__ import annotations

import io
import itertools
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian

from raypacs import dicom
from raypacs.codec import registry
from raypacs.errors import (
    InstanceAway,
    MalformedInstance,
    NotFound,
    RaypacsError,
    UnsupportedPixels,
)
from raypacs.storage.pack_elements import joined_bits
from raypacs.web import pixels
from raypacs.web.frames import Frames, OriginalAway, away
from raypacs.web.negotiate import Choice, Form, choose_instance
from raypacs.web.pixels import Picture
from raypacs.web.places import Place

_PIECE_BYTES = 1024 * 1024
_LONGEST_VALUE_BYTES = 0xFFFFFFFE
_MOST_SPOOLED_BYTES = 32 * 1024 * 1024
_ITEM = 0xFFFEE000
_TRAILING_PADDING = 0xFFFCFFFC
_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


def choose(place: Place, accept: str) -> Choice | None:
    """Choose the form of one instance; None: it cannot be had as asked."""
    record = place.stored.record
    native = (
        not dicom.is_encapsulated(record.transfer_syntax_uid)
        or place.is_coded
        or (record.pixel_offset_bytes >= 0 and place.frames > 0 and pixels.decodable(record))
    )
    return choose_instance(accept, place.stored_syntax, record.transfer_syntax_uid, native)


@dataclass(frozen=True)
class Instances:
    """Yields instances in the chosen form; blocks."""

    frames: Frames

    def obtainable(self, place: Place, choice: Choice) -> bool:
        """Whether the instance can be had as chosen, as far as its first frame tells; blocks.

        Raises:
            InstanceAway: its bytes are gone.
        """
        record = place.stored.record
        if (
            choice.lenient
            or choice.form != "native"
            or place.is_coded
            or not dicom.is_encapsulated(record.transfer_syntax_uid)
        ):
            return True
        try:
            self.frames.array(place, 1)
        except InstanceAway:
            raise
        except RaypacsError:
            return False
        return True

    def is_there(self, place: Place) -> bool:
        """Whether there are bytes of an instance in any cache; blocks."""
        return place.pack is not None or self.frames.has_original(place)

    def open(self, place: Place, choice: Choice) -> tuple[Choice, Iterator[bytes]]:
        """Return what is really sent, and its pieces; the first one is made already.

        Raises:
            As :meth:`pieces`.
        """
        try:
            pieces = self.pieces(place, choice)
            if place.is_coded and place.frames == 1 and choice.form != "original":
                # Damage is found while it can still be said.
                pieces = iter(list(pieces))
            first = next(pieces, b"")
        except (NotFound, UnsupportedPixels, MalformedInstance) as exc:
            if not choice.lenient:
                if isinstance(exc, OriginalAway):
                    raise away(place) from exc
                raise
            other = _other_choice(place, choice, exc)
            if other is None:
                raise
            return self.open(place, other)
        return choice, itertools.chain((first,), pieces)

    def pieces(self, place: Place, choice: Choice) -> Iterator[bytes]:
        """Yield the Part 10 file of one instance.

        Raises:
            NotFound: the bytes are gone. UnsupportedPixels, PackCorrupt, MalformedInstance.
        """
        record = place.stored.record
        if place.is_coded and place.pack is not None:
            reader, uid = place.pack.reader, record.sop_instance_uid
            if choice.form == "stored":
                return _relabelled(reader.part10(uid), choice.transfer_syntax_uid)
            as_it_lies = record.transfer_syntax_uid == dicom.EXPLICIT_VR_LE
            if choice.form == "native" and not (as_it_lies and self.frames.has_original(place)):
                return reader.part10(uid, dicom.EXPLICIT_VR_LE, registry.native_bytes)
        if choice.form != "native" or record.transfer_syntax_uid == dicom.EXPLICIT_VR_LE:
            return self._as_received(place)
        if not dicom.is_encapsulated(record.transfer_syntax_uid):
            return self._converted(place)
        return self._decoded(place)

    def _as_received(self, place: Place) -> Iterator[bytes]:
        with self.frames.original(place) as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece

    def _converted(self, place: Place) -> Iterator[bytes]:
        """Rewrite another uncompressed syntax by pydicom; words are byte-swapped if need be."""
        with self.frames.original(place) as stream:
            dataset = _read(stream, stop_before_pixels=False)
        try:
            if dataset.original_encoding[1] is False:
                _swap_words(dataset, place.stored.record.bits_allocated)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            out = io.BytesIO()
            pydicom.dcmwrite(
                out, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True
            )
        except (ValueError, AttributeError, TypeError) as exc:
            raise MalformedInstance(
                f"cannot be written as Explicit VR Little Endian: {exc}"
            ) from exc
        yield out.getvalue()

    def _decoded(self, place: Place) -> Iterator[bytes]:
        """Decode frame by frame. All are decoded before the first piece: none may fail later."""
        record = place.stored.record
        with self.frames.original(place) as stream:
            dataset = _read(stream, stop_before_pixels=True)
            trailer = _trailer(stream, record.pixel_offset_bytes)
        first = self.frames.array(place, 1)
        size = len(first.native_bytes()) * place.frames
        samples = record.rows * record.columns
        if record.bits_allocated == 1:
            size = -(-samples * place.frames // 8)
        if size + 1 > _LONGEST_VALUE_BYTES:
            raise UnsupportedPixels("uncompressed it would be longer than 4 GiB (PS3.5 7.1.1)")
        head = _head(dataset, first)
        word = b"OW" if record.bits_allocated > 8 else b"OB"
        with tempfile.SpooledTemporaryFile(_MOST_SPOOLED_BYTES) as spool:
            made = (
                (first if number == 1 else self.frames.array(place, number)).native_bytes()
                for number in range(1, place.frames + 1)
            )
            for piece in joined_bits(made, samples) if record.bits_allocated == 1 else made:
                spool.write(piece)
            spool.seek(0)
            yield head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, word, 0, size + size % 2)
            while piece := spool.read(_PIECE_BYTES):
                yield piece
        if size % 2 or trailer:
            yield b"\0" * (size % 2) + trailer


def _other_choice(place: Place, choice: Choice, error: RaypacsError) -> Choice | None:
    """Return what is sent instead, where no transfer syntax was asked for; None: nothing."""
    gone = isinstance(error, NotFound)
    if gone and choice.form == "original" and place.is_coded:
        syntax = place.stored_syntax
        form: Form = "stored" if syntax else "native"
        syntax = syntax or dicom.EXPLICIT_VR_LE
        return replace(choice, form=form, transfer_syntax_uid=syntax, lenient=False)
    if not gone and choice.form == "native":
        syntax = place.stored.record.transfer_syntax_uid
        return replace(choice, form="original", transfer_syntax_uid=syntax, lenient=False)
    return None


def _relabelled(pieces: Iterator[bytes], transfer_syntax_uid: str) -> Iterator[bytes]:
    """Name the transfer syntax that was asked for: every RPCL codestream is an HTJ2K one."""
    first = next(pieces)
    meta = dicom.split_part10(first)
    if meta.transfer_syntax_uid != transfer_syntax_uid:
        head = dicom.file_meta(meta.sop_class_uid, meta.sop_instance_uid, transfer_syntax_uid)
        first = head + first[meta.dataset_offset :]
    yield first
    yield from pieces


def _read(stream: io.BufferedIOBase, *, stop_before_pixels: bool) -> pydicom.Dataset:
    """Parse a Part 10 file. Raises MalformedInstance, so that others can still be sent."""
    try:
        return pydicom.dcmread(stream, stop_before_pixels=stop_before_pixels, force=True)
    except (InvalidDicomError, EOFError, ValueError, NotImplementedError) as exc:
        raise MalformedInstance(f"cannot be read: {exc}") from exc


def _swap_words(dataset: pydicom.Dataset, bits_allocated: int) -> None:
    """Turn big endian words into little endian ones where pydicom leaves bytes as they lie.

    Pixel Data as well: its words are two bytes, or a sample if that is longer (PS3.5 section 8.2),
    whatever they hold.

    Raises:
        ValueError: not whole words.
    """
    for tag in list(dataset.keys()):
        # By the VR as read: other values are left unparsed here, as many are invalid.
        vr = dataset.get_item(tag).VR
        width = _WORD_BYTES.get(vr, 1)
        if tag == dicom.PIXEL_DATA:
            width = max(width, bits_allocated // 8)
        if vr == "SQ":
            for item in dataset[tag].value:
                _swap_words(item, int(item.get("BitsAllocated", 0) or 0))
        elif width > 1 and dataset[tag].value:
            words = np.frombuffer(dataset[tag].value, f"u{width}")
            dataset[tag].value = words.byteswap().tobytes()


def _trailer(stream: io.BufferedIOBase, offset: int) -> bytes:
    """Return the elements after encapsulated Pixel Data (PS3.5 section A.4), without padding.

    ``offset`` is where the value of Pixel Data begins. Encapsulated syntaxes are Explicit VR
    Little Endian, so these bytes stay.

    Raises:
        MalformedInstance: they cannot be read.
    """
    tag = _ITEM
    while tag == _ITEM:
        stream.seek(offset)
        head = stream.read(8)
        if len(head) < 8:
            return b""
        group, number, length = struct.unpack("<HHI", head)
        tag = group << 16 | number
        offset += 8 + (length if tag == _ITEM else 0)
    stream.seek(offset)
    data = stream.read()
    found = dicom.scan(data, dicom.EXPLICIT_VR_LE).elements if data else []
    padding = (element.start for element in found if element.tag == _TRAILING_PADDING)
    return data[: next(padding, len(data))]


def _remove_compressed(dataset: pydicom.Dataset) -> None:
    """Remove sequences of encapsulated pictures, such as icons: no native syntax has them."""
    for tag in list(dataset.keys()):
        if dataset.get_item(tag).VR != "SQ":
            continue
        items = dataset[tag].value
        if any("PixelData" in one and one["PixelData"].is_undefined_length for one in items):
            del dataset[tag]
            continue
        for item in items:
            _remove_compressed(item)


def _head(dataset: pydicom.Dataset, picture: Picture) -> bytes:
    """Return preamble, meta and header of the decoded instance, up to Pixel Data."""
    dataset.PhotometricInterpretation = picture.photometric
    if picture.array.ndim == 3:
        dataset.PlanarConfiguration = 0
    # An instance without its compressed offsets has no use for the tables (PS3.3 C.7.6.3.1.8).
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in dataset:
            delattr(dataset, keyword)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    try:
        _remove_compressed(dataset)
        pydicom.dcmwrite(
            out, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True
        )
    except (ValueError, AttributeError, TypeError) as exc:
        raise MalformedInstance(f"header cannot be written: {exc}") from exc
    return out.getvalue()
