"""Metadata and bulk data (PS3.18 sections 10.4.1.1.2 and 10.4.1.1.5).

A prepared series is answered with the precompressed text that lies beside its pack; the rest is
made from the stored files.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from raypacs import dicom, dicom_json
from raypacs.codec.fragments import frame_fragments
from raypacs.codec.pixel_layout import served_colour
from raypacs.config import Settings
from raypacs.errors import MalformedInstance, NotFound
from raypacs.records import InstanceRecord
from raypacs.web.frames import Frames
from raypacs.web.places import Place, SeriesView

_MOST_BULK_DEPTH = 64


def bulk_root(study_uid: str, series_uid: str, sop_uid: str) -> str:
    """Return the path that BulkDataURIs of an instance begin with (resolved against any host)."""
    return f"/dicom-web/studies/{study_uid}/series/{series_uid}/instances/{sop_uid}"


def _header_bytes(record: InstanceRecord) -> int:
    """Return how many bytes of the file come before the element header of Pixel Data; -1: all."""
    if record.pixel_offset_bytes < 0:
        return -1
    # PS3.5 section 7.1: tag and length, with an explicit VR also VR and two reserved bytes.
    element_header = 8 if record.transfer_syntax_uid == dicom.IMPLICIT_VR_LE else 12
    return record.pixel_offset_bytes - element_header


@dataclass(frozen=True)
class Metadata:
    """Makes metadata; blocks."""

    frames: Frames
    settings: Callable[[], Settings]

    def series(self, view: SeriesView, *, gzipped: bool) -> bytes:
        """Return the DICOM JSON array of a series, gzip'd or plain."""
        if view.only_pack is not None:
            packed = view.only_pack.reader.metadata_gzip()
            return packed if gzipped else gzip.decompress(packed)
        text = self._array(view.places.values())
        return gzip.compress(text, 1, mtime=0) if gzipped else text

    def study(self, views: list[SeriesView], *, gzipped: bool) -> bytes:
        """Return the DICOM JSON array of all series of a study."""
        if len(views) == 1:
            return self.series(views[0], gzipped=gzipped)
        inner = (self.series(view, gzipped=False).strip()[1:-1] for view in views)
        text = b"[" + b",".join(part for part in inner if part) + b"]"
        return gzip.compress(text, 1, mtime=0) if gzipped else text

    def instance(self, place: Place, *, gzipped: bool) -> bytes:
        """Return the DICOM JSON array of one instance."""
        text = self._array([place])
        return gzip.compress(text, 1, mtime=0) if gzipped else text

    def _array(self, places: Iterable[Place]) -> bytes:
        maker = dicom_json.JsonHeaders(self.settings().inline_value_bytes)
        return ("[" + ",".join(self._one(place, maker) for place in places) + "]").encode()

    def _one(self, place: Place, maker: dicom_json.JsonHeaders) -> str:
        record = place.stored.record
        if place.pack is not None:
            found = place.pack.reader.metadata(record.sop_instance_uid)
            return json.dumps(found, ensure_ascii=False, separators=(",", ":"))
        root = bulk_root(record.study_uid, record.series_uid, record.sop_instance_uid)
        text = maker.text(self.header(place), root)
        colour = served_colour(record)
        return text if colour is None else dicom_json.with_colour(text, colour)

    def header(self, place: Place) -> dicom.Header:
        """Return the scanned header that the metadata of an instance are made of. Raises NotFound.

        Of a prepared one that is the header of the pack, which does not leave with the image cache.
        """
        record = place.stored.record
        if place.is_coded and place.pack is not None:
            packed = place.pack.reader.header_bytes(record.sop_instance_uid, prepared=False)
            return dicom.scan(packed, dicom.EXPLICIT_VR_LE)
        with self.frames.original(place) as stream:
            inflated = record.transfer_syntax_uid in dicom.DEFLATED
            data: bytes = stream.read(-1 if inflated else _header_bytes(record))
        offset = record.dataset_offset_bytes
        if inflated:
            return dicom.inflated_header(data, offset)
        return dicom.scan(data, record.transfer_syntax_uid, offset)

    def bulk(self, place: Place, path: list[str]) -> bytes:
        """Return the value at a path of tags and item numbers, as BulkDataURI names it.

        Raises:
            NotFound: no such element, or it has no single value.
        """
        found = self.header(place)
        where = "/".join(path)
        if not path or len(path) > _MOST_BULK_DEPTH or len(path) % 2 == 0:
            raise NotFound(f"no bulk data at {where!r}")
        try:
            for tag, number in zip(path[:-1:2], path[1::2], strict=True):
                element = found.element(int(tag, 16))
                if element is None:
                    raise NotFound(f"no bulk data at {where!r}")
                found = list(dicom.items(found, element))[int(number) - 1]
            element = found.element(int(path[-1], 16))
        except (ValueError, IndexError, MalformedInstance) as exc:
            raise NotFound(f"no bulk data at {where!r}") from exc
        if element is None or element is found.pixel:
            raise NotFound(f"no bulk data at {where!r}")
        if element.length < 0:
            return _joined_fragments(found, element)
        return found.raw(element.tag)


def _joined_fragments(header: dicom.Header, element: dicom.Element) -> bytes:
    """Return the compressed picture of an icon, say: its fragments without the offset table."""
    data = memoryview(header.buf)

    def read(offset: int, length: int) -> bytes:
        return bytes(data[offset : offset + length])

    fragments = frame_fragments(read, element.value_offset, 1)
    return b"".join(read(*extent) for extent in fragments[0])
