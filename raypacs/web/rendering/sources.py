"""Frames for pictures: only as much of the web cache is read and decoded as a picture needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pydicom import Dataset

from raypacs.codec import htj2k, registry
from raypacs.codec.pixel_layout import PixelLayout, native_frame
from raypacs.dicom import HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL
from raypacs.errors import NotFound
from raypacs.storage.pack import PackInstance
from raypacs.web.frames import Frames, native_extent
from raypacs.web.pixels import Picture
from raypacs.web.places import OpenPack, Place
from raypacs.web.rendering.asked import Wanted, Window
from raypacs.web.rendering.grey import has_own_range, has_padding, range_window, stored_values
from raypacs.web.rendering.kept import Kept
from raypacs.web.rendering.render import Level, is_index
from raypacs.web.rendering.scaling import Grid, target_of

_HTJ2K = frozenset({HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL})
_MOST_HALVINGS = 16


@dataclass
class Sources:
    """Reads headers (the last ones are kept, parsed) and frames. Blocks."""

    frames: Frames
    read_header: Callable[[Place], Dataset]
    _headers: Kept[Dataset] = field(default_factory=lambda: Kept(4 * 1024 * 1024))
    _windows: Kept[Window] = field(default_factory=lambda: Kept(1024 * 1024))

    def header(self, place: Place) -> Dataset:
        """Return the header of an instance. Raises NotFound, MalformedInstance."""
        record = place.stored.record
        key = f"{place.token} {record.sop_instance_uid} {place.pack is not None}"
        size = max(record.pixel_offset_bytes, 4096)
        return self._headers.once(key, lambda: (self.read_header(place), size))

    def level(self, place: Place, number: int, header: Dataset, wanted: Wanted) -> Level:
        """Return frame ``number`` (from 1) at the smallest resolution that does for ``wanted``.

        Raises:
            NotFound: no such frame. UnsupportedPixels: it cannot be decoded.
            PackCorrupt: its bytes are damaged. Problem: 400, the region lies outside the frame.
        """
        if not 1 <= number <= place.frames:
            raise NotFound(f"no frame {number}; the instance has {place.frames}")
        if wanted.viewport is not None:
            found = self._smaller(place, number, header, wanted)
            if found is not None:
                return found
        return self._full(place, number)

    def _full(self, place: Place, number: int) -> Level:
        found = self._cells(place, number)
        if found is not None:
            return found
        picture = self.frames.array(place, number)
        if place.is_coded:
            # Nothing but sign is in the unused bits, if the cells come as received.
            return Level.full(stored_values(picture))
        if picture.cells is None or picture.array.ndim > 2:
            return Level.full(picture)
        return replace(Level.full(stored_values(picture)), cells=picture.cells)

    def _smaller(self, place: Place, number: int, header: Dataset, wanted: Wanted) -> Level | None:
        """Return the frame at less than its full size; None: there is none that would do.

        Where its own range is shown, that is the range of all its pixels: the frame is decoded
        once for it. Means with padding are neither padding nor values.
        """
        shape = place.prepared or place.stored.record
        if wanted.window is not None or not has_own_range(
            header, number, shape.photometric, shape.bits_stored
        ):
            return self._reduced(place, number, header, wanted)
        level = None if has_padding(header) else self._reduced(place, number, header, wanted)
        if level is None:
            return None
        key = f"{place.token} {place.stored.record.sop_instance_uid} {number}"

        def full() -> tuple[Window, int]:
            return range_window(self._full(place, number).picture, header, number), 256

        return replace(level, window=self._windows.once(key, full))

    def _reduced(self, place: Place, number: int, header: Dataset, wanted: Wanted) -> Level | None:
        prepared, pack = place.prepared, place.pack
        if prepared is None or pack is None:
            return self._received(place, number, header, wanted)
        if not place.is_coded:
            return None
        target = target_of(wanted.viewport, prepared.rows, prepared.columns)
        whole = place.is_htj2k and not prepared.low_own
        halvings = target.halvings(prepared.levels if whole else _MOST_HALVINGS)
        if halvings == 0:
            return None
        if whole:
            data = _prefix(pack, prepared, number, halvings)
            array = htj2k.decode_frame(data, skip_resolutions=halvings)
        else:
            picked = registry.is_nearest(prepared)
            if not 0 < prepared.low_halvings <= halvings:
                return None
            if picked and not is_index(header, prepared.photometric):
                # Bits that are no mask: text, say. What was picked out would not be legible.
                return None
            low = pack.reader.read_low(prepared.sop_instance_uid, number)
            array, halvings = registry.decode_reduced(low, bytes, prepared, halvings)
        picture = Picture(
            array,
            prepared.photometric,
            prepared.bits_allocated,
            prepared.bits_stored,
            prepared.pixel_representation == 1,
        )
        return Level(picture, prepared.rows, prepared.columns, Grid(float(1 << halvings)))

    def _received(self, place: Place, number: int, header: Dataset, wanted: Wanted) -> Level | None:
        """Return a frame received as HTJ2K, decoded small."""
        record = place.stored.record
        if record.transfer_syntax_uid not in _HTJ2K or is_index(header, record.photometric):
            return None
        data = self.frames.load(place, "original", number)
        main = htj2k.read_main_header(data)
        if (main.rows, main.columns, len(main.depths)) != (
            record.rows,
            record.columns,
            record.samples,
        ):
            return None
        if max(main.depths) > record.bits_stored:
            # There may be an overlay in the bits beside the stored ones, which has no means.
            return None
        halvings = target_of(wanted.viewport, main.rows, main.columns).halvings(main.levels)
        if halvings == 0:
            return None
        picture = Picture(
            htj2k.decode_frame(data, skip_resolutions=halvings),
            "RGB" if record.photometric == "YBR_RCT" else record.photometric,
            record.bits_allocated,
            record.bits_stored,
            record.pixel_representation == 1,
        )
        return Level(picture, main.rows, main.columns, Grid(float(1 << halvings)))

    def _cells(self, place: Place, number: int) -> Level | None:
        """Return a grey or index frame received uncompressed, its samples with all their bits."""
        record = place.stored.record
        if place.is_coded or record.samples != 1 or record.bits_allocated not in (8, 16):
            return None
        extent = native_extent(record, number)
        if extent is None:
            return None
        if place.prepared is None or self.frames.has_original(place):
            data = self.frames.load(place, "native", number)
        else:
            # The pack's copy of the file.
            with self.frames.original(place) as stream:
                stream.seek(extent[0])
                data = stream.read(extent[1])
        cells = native_frame(data, PixelLayout.of(record))
        picture = Picture(
            cells,
            record.photometric,
            record.bits_allocated,
            record.bits_stored,
            record.pixel_representation == 1,
        )
        shift = max(0, record.high_bit + 1 - record.bits_stored)
        picture = stored_values(picture, shift)
        return Level(picture, record.rows, record.columns, cells=cells)


def _prefix(pack: OpenPack, prepared: PackInstance, number: int, halvings: int) -> bytes:
    """Return a frame's codestream up to 1/2^halvings: the low part, and no more than it takes."""
    low = pack.reader.read_low(prepared.sop_instance_uid, number)
    rest_offset, rest_length = pack.reader.frame_extents(prepared.sop_instance_uid, number)[-1]
    ends = htj2k.read_main_header(low).resolution_ends
    end = ends[prepared.levels - halvings] if ends else len(low) + rest_length
    if end > len(low):
        low += pack.file.read(rest_offset, end - len(low))
    return low[:end]
