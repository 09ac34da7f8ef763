"""Overviews of a series (FEATURES F5): all its frames at 1/2^level of their size in one response.

Two forms: the compact container of :mod:`raypacs.codec.overview` and, for viewers that decode
HTJ2K themselves, the beginning of each frame's codestream as a part. Made once a series and level.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from raypacs.codec import htj2k, overview, registry
from raypacs.dicom import HTJ2K_LOSSLESS
from raypacs.errors import UnsupportedPixels
from raypacs.storage.pack_format import PackInstance
from raypacs.web.multipart import TAIL, part_head
from raypacs.web.places import OpenPack, Place, SeriesView
from raypacs.web.problem import Problem

MEDIA_TYPE = overview.MEDIA_TYPE
MOST_LEVEL = 8
_Key = tuple[str, str, tuple[str, ...], int]
"""Study, series, paths of the packs it is made from, level."""


def parse_level(text: str) -> int:
    """Parse the ``level`` query parameter, 0 (full size) to 8.

    Raises:
        Problem: 400.
    """
    if not text.isascii() or not text.isdigit() or int(text) > MOST_LEVEL:
        raise Problem(400, f"level={text!r} is not 0 to {MOST_LEVEL}")
    return int(text)


@dataclass
class Overviews:
    """Makes overviews; keeps the containers, at most ``most_bytes``. Blocks."""

    most_bytes: int = 64 * 1024 * 1024
    _kept: OrderedDict[_Key, bytes] = field(default_factory=OrderedDict)
    _kept_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _making: threading.Lock = field(default_factory=threading.Lock)

    def container(self, view: SeriesView, level: int) -> bytes:
        """Return the compact container.

        Raises:
            UnsupportedPixels: the series has no prepared frames.
        """
        # A token names an attempt, which prepares all series of a study: it is not enough.
        paths = tuple(pack.ref.pack_path for pack in view.packs)
        key = (view.study_uid, view.series_uid, paths, level)
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        # One at a time: it uses every frame of a series, and whoever waits finds it made.
        with self._making:
            with self._lock:
                found = self._kept.get(key)
            if found is not None:
                return found
            _require_frames(view)
            made = overview.encode_overview(_small_frames(view, level), level=level)
            self._keep(key, made)
        return made

    def parts(self, view: SeriesView, level: int) -> bytes:
        """Return multipart/related: each frame's codestream up to the wanted resolution.

        Raises:
            UnsupportedPixels: the series has no prepared frames.
        """
        _require_frames(view)
        pieces: list[bytes] = []
        for low, data in _codestreams(view, level):
            syntax = low.prepared.transfer_syntax_uid
            if low.prepared.form != registry.HTJ2K:
                syntax = HTJ2K_LOSSLESS
            kind = f"image/jphc; transfer-syntax={syntax}"
            where = f"instances/{low.uid}/frames/{low.number}"
            pieces.append(part_head(kind, first=not pieces, location=where))
            pieces.append(data)
        return b"".join((*pieces, TAIL))

    def _keep(self, key: _Key, made: bytes) -> None:
        with self._lock:
            self._kept[key] = made
            self._kept_bytes += len(made)
            while self._kept_bytes > self.most_bytes and self._kept:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped)


@dataclass(frozen=True, slots=True)
class _Low:
    """A prepared frame of integers and its low part."""

    pack: OpenPack
    prepared: PackInstance
    number: int
    data: bytes

    @property
    def uid(self) -> str:
        return self.prepared.sop_instance_uid

    def prefix(self, level: int) -> tuple[bytes, int]:
        """Return the codestream up to 1/2^level, and the halvings it has then.

        A frame with fewer levels than that is given at its smallest.
        """
        levels = self.prepared.levels
        halvings = min(level, levels)
        extents = self.pack.reader.frame_extents(self.uid, self.number)
        ends = htj2k.read_main_header(self.data).resolution_ends
        whole = sum(length for _, length in extents)
        end = ends[levels - halvings] if ends and halvings else whole
        data = self.data
        if end > len(data):
            data += self.pack.file.read(extents[-1][0], end - len(data))
        return data[:end], halvings

    def picked(self, level: int) -> htj2k.Array:
        """Return the samples picked out for 1/2^level: averages of them mean nothing."""
        return registry.decode_reduced(
            self.data,
            lambda: self.pack.reader.read_rest(self.uid, self.number),
            self.prepared,
            level,
        )[0]


def _small_frames(view: SeriesView, level: int) -> Iterator[overview.OverviewFrame]:
    for low in _lows(view):
        if registry.is_nearest(low.prepared):
            pixels = low.picked(level)
        else:
            data, halvings = low.prefix(level)
            pixels = htj2k.decode_frame(data, skip_resolutions=halvings)
        yield overview.OverviewFrame(low.uid, low.number, low.prepared.bits_stored, pixels)


def _codestreams(view: SeriesView, level: int) -> Iterator[tuple[_Low, bytes]]:
    """Yield every prepared frame's codestream up to 1/2^level.

    Where samples are picked out, it is a codestream of those.
    """
    for low in _lows(view):
        one = low.prepared
        if not registry.is_nearest(one):
            yield low, low.prefix(level)[0]
            continue
        signed = one.pixel_representation == 1
        stream = htj2k.encode_frame(
            low.picked(level), bits_stored=one.bits_stored, signed=signed, levels=1
        )
        yield low, bytes(stream.data)


def _lows(view: SeriesView) -> Iterator[_Low]:
    """Yield the prepared frames of integers; the low parts of a pack come with one read."""
    lows = {
        (low.sop_instance_uid, low.frame_number): low.data
        for pack in view.packs
        for low in pack.reader.low_resolution()
    }
    for uid, place in view.places.items():
        if place.prepared is None or place.pack is None or not _is_integer(place):
            continue
        for number in range(1, place.frames + 1):
            yield _Low(place.pack, place.prepared, number, lows[uid, number])


def _is_integer(place: Place) -> bool:
    return place.prepared is not None and place.prepared.form in (registry.HTJ2K, registry.BITS)


def _require_frames(view: SeriesView) -> None:
    if any(map(_is_integer, view.places.values())):
        return
    if any(place.is_coded for place in view.places.values()):
        raise UnsupportedPixels("floating-point frames have no overview: it holds integers")
    raise UnsupportedPixels("no frame of the series is in wavelet form (yet)")
