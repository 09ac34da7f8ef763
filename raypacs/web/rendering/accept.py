"""Which file format a picture is sent in (PS3.18 section 8.7.4; RFC 9110 section 12.5.1)."""

from __future__ import annotations

from functools import lru_cache

from raypacs.web.negotiate import MediaRange, parse_ranges
from raypacs.web.rendering.encoding import MEDIA_TYPES

_MULTIPART = ("multipart/related", "multipart/*")


@lru_cache(maxsize=1024)
def choose_picture(accept: str, *, several: bool = False) -> tuple[str, bool] | None:
    """Return (media type, whether as multipart/related), None: 406.

    The most specific range of the header decides about a type, ``q=0`` excludes it; the first of
    the best wins. ``several`` pictures come as multipart only.
    """
    ranges = parse_ranges(accept)
    best: tuple[float, str, bool] | None = None
    for multipart in (True,) if several else (False, True):
        for media in MEDIA_TYPES:
            quality = _quality(ranges, media, multipart)
            if quality > 0 and (best is None or quality > best[0]):
                best = (quality, media, multipart)
    return None if best is None else best[1:]


def _quality(ranges: tuple[MediaRange, ...], media: str, multipart: bool) -> float:
    found, exact = 0.0, -1
    for one in ranges:
        kind = one.media_type
        if kind in _MULTIPART:
            if not multipart:
                continue
            kind = one.param("type").lower().partition(";")[0].strip() or "*/*"
        elif multipart and kind != "*/*":
            continue
        fit = {media: 2, "image/*": 1, "*/*": 0}.get(kind, -1)
        if fit > exact:
            found, exact = one.quality, fit
    return found
