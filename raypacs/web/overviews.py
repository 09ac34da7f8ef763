"""Overviews of a series (FEATURES F5): all its frames at 1/2^level of their size in one response.

Two forms: the compact container of :mod:`raypacs.codec.overview` and, for viewers that decode
HTJ2K themselves, the beginning of each frame's codestream as a part. Made once a series and level.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from raypacs.codec import htj2k, overview
from raypacs.errors import UnsupportedPixels
from raypacs.web.multipart import TAIL, part_head
from raypacs.web.places import Place, SeriesView
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
        for place, number, data, _ in _prefixes(view, level):
            record = place.stored.record
            assert place.prepared is not None
            kind = f"image/jphc; transfer-syntax={place.prepared.transfer_syntax_uid}"
            where = f"instances/{record.sop_instance_uid}/frames/{number}"
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


def _small_frames(view: SeriesView, level: int) -> Iterator[overview.OverviewFrame]:
    for place, number, data, halvings in _prefixes(view, level):
        record = place.stored.record
        pixels = htj2k.decode_frame(data, skip_resolutions=halvings)
        yield overview.OverviewFrame(record.sop_instance_uid, number, record.bits_stored, pixels)


def _prefixes(view: SeriesView, level: int) -> Iterator[tuple[Place, int, bytes, int]]:
    """Yield every prepared frame's codestream up to 1/2^level, and the halvings it has then.

    A frame with fewer levels than that is given at its smallest. The low parts of a pack come
    with one read.
    """
    lows = {
        (low.sop_instance_uid, low.frame_number): low.data
        for pack in view.packs
        for low in pack.reader.low_resolution()
    }
    for uid, place in view.places.items():
        if not place.is_htj2k or place.pack is None or place.prepared is None:
            continue
        halvings = min(level, place.prepared.levels)
        for number in range(1, place.frames + 1):
            low = lows[uid, number]
            extents = place.pack.reader.frame_extents(uid, number)
            ends = htj2k.read_main_header(low).resolution_ends
            whole = sum(length for _, length in extents)
            end = ends[place.prepared.levels - halvings] if ends and halvings else whole
            if end > len(low):
                low += place.pack.file.read(extents[-1][0], end - len(low))
            yield place, number, low[:end], halvings


def _require_frames(view: SeriesView) -> None:
    if not any(place.is_htj2k for place in view.places.values()):
        raise UnsupportedPixels("no frame of the series is in wavelet form (yet)")
