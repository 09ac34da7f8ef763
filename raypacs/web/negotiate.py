"""Content negotiation of DICOMweb (PS3.18 section 8.7): Accept to one representation.

Pure. The same few Accept headers come again and again, so the answers are memoised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

IMPLICIT_VR_LE = "1.2.840.10008.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"

# PS3.18 tables 8.7.3-4 and 8.7.3-5: media types of compressed frames.
_J2 = "1.2.840.10008.1.2.4."
MEDIA_OF_SYNTAX: dict[str, str] = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    # 53 and 55 are retired, but their frames are JPEG all the same.
    **dict.fromkeys((_J2 + n for n in ("50", "51", "53", "55", "57", "70")), "image/jpeg"),
    **dict.fromkeys((_J2 + "80", _J2 + "81"), "image/jls"),
    **dict.fromkeys((_J2 + "90", _J2 + "91"), "image/jp2"),
    **dict.fromkeys((_J2 + "92", _J2 + "93"), "image/jpx"),
    **dict.fromkeys((_J2 + "100", _J2 + "101", _J2 + "100.1", _J2 + "101.1"), "video/mpeg2"),
    **{f"{_J2}{n}{s}": "video/mp4" for n in (102, 103, 104, 105, 106) for s in ("", ".1")},
    **dict.fromkeys((_J2 + "107", _J2 + "108"), "video/H265"),
    **dict.fromkeys((_J2 + "110", _J2 + "111", _J2 + "112"), "image/jxl"),
    **dict.fromkeys((HTJ2K_LOSSLESS, HTJ2K_LOSSLESS_RPCL, HTJ2K), "image/jphc"),
    "1.2.840.10008.1.2.8.1": "application/x-deflate",
}
# Other names in use for the same thing.
_ALIASES = {
    "image/jph": "image/jphc",
    "image/x-dicom-rle": "image/dicom-rle",
    "image/x-jls": "image/jls",
}
# A codestream of the first syntax is also one of the others.
_ALSO = {
    HTJ2K_LOSSLESS_RPCL: (HTJ2K_LOSSLESS, HTJ2K),
    HTJ2K_LOSSLESS: (HTJ2K,),
}

Form = Literal["stored", "original", "native"]


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One element of an Accept header (RFC 9110 section 12.5.1)."""

    media_type: str
    params: tuple[tuple[str, str], ...]
    quality: float

    def param(self, name: str) -> str:
        """Return a parameter's value, '' if absent."""
        for key, value in self.params:
            if key == name:
                return value
        return ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The representation to send.

    ``form``: 'stored' (as prepared), 'original' (as received) or 'native' (uncompressed little
    endian). ``media_type`` without parameters, ``transfer_syntax_uid`` as it is to be named.
    ``lenient``: no transfer syntax was asked for, so what cannot be had so may go in another form.
    """

    form: Form
    media_type: str
    transfer_syntax_uid: str
    multipart: bool
    lenient: bool = False


def _split(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside quoted strings."""
    parts: list[str] = []
    start = 0
    quoted = False
    for position, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == separator and not quoted:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return parts


@lru_cache(maxsize=1024)
def parse_accept(header: str) -> tuple[MediaRange, ...]:
    """Return the acceptable media ranges, best first; an empty header accepts anything."""
    return tuple(one for one in parse_ranges(header) if one.quality > 0)


@lru_cache(maxsize=1024)
def parse_ranges(header: str) -> tuple[MediaRange, ...]:
    """Return all media ranges, best first, those with ``q=0`` too: they exclude a type."""
    ranges: list[MediaRange] = []
    for element in _split(header, ","):
        pieces = [piece.strip() for piece in _split(element, ";")]
        if not pieces[0]:
            continue
        params: list[tuple[str, str]] = []
        quality = 1.0
        for piece in pieces[1:]:
            name, _, value = piece.partition("=")
            name, value = name.strip().lower(), value.strip().strip('"')
            if name == "q":
                quality = _quality(value)
            elif name:
                params.append((name, value))
        ranges.append(MediaRange(pieces[0].lower(), tuple(params), quality))
    if not ranges and not header.strip():
        ranges.append(MediaRange("*/*", (), 1.0))
    return tuple(sorted(ranges, key=lambda r: -r.quality))


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _wish(wanted: MediaRange) -> tuple[bool, str, str]:
    """Return (multipart, media type, transfer syntax) of one media range."""
    if wanted.media_type in ("multipart/related", "multipart/*"):
        media = wanted.param("type").lower() or "*/*"
        # Some clients put the part's transfer syntax into the quoted type.
        media, _, rest = media.partition(";")
        syntax = wanted.param("transfer-syntax")
        if not syntax and "transfer-syntax=" in rest:
            syntax = rest.split("transfer-syntax=", 1)[1].split(";")[0].strip()
        return True, _ALIASES.get(media.strip(), media.strip()), syntax
    media = _ALIASES.get(wanted.media_type, wanted.media_type)
    # Anything goes: what PS3.18 makes the default, which is multipart.
    return media == "*/*", media, wanted.param("transfer-syntax")


def _compressed(media: str, wanted: str, syntax: str) -> str:
    """Return the syntax to name if data in ``syntax`` answers media type and wanted syntax."""
    actual = MEDIA_OF_SYNTAX.get(syntax)
    if actual is None or media not in ("*/*", actual, actual.partition("/")[0] + "/*"):
        return ""
    if wanted in ("", "*", syntax):
        return syntax
    return wanted if wanted in _ALSO.get(syntax, ()) else ""


@lru_cache(maxsize=4096)
def choose_frame(accept: str, stored: str, original: str, native: bool) -> Choice | None:
    """Choose how a frame is sent (PS3.18 sections 8.7.3 and 10.4.1.1.6).

    ``stored``: transfer syntax in the web cache ('' if not prepared); ``original``: as received;
    ``native``: whether uncompressed pixels can be had. None: 406.
    """
    for wanted in parse_accept(accept):
        multipart, media, syntax = _wish(wanted)
        kept: tuple[tuple[Form, str], ...] = (("stored", stored), ("original", original))
        if media in ("application/octet-stream", "*/*", "application/*"):
            if syntax == "*" or (media == "*/*" and syntax):
                # "Whatever you have" (PS3.18 section 8.7.3.5.2): the form that needs no work.
                for form, uid in kept:
                    if uid in MEDIA_OF_SYNTAX and syntax in ("*", uid, *_ALSO.get(uid, ())):
                        named = uid if syntax == "*" else syntax
                        return Choice(form, MEDIA_OF_SYNTAX[uid], named, multipart)
            if native and syntax in ("", "*", EXPLICIT_VR_LE, IMPLICIT_VR_LE):
                return Choice("native", "application/octet-stream", EXPLICIT_VR_LE, multipart)
            if media != "*/*" or syntax:
                continue
        for form, uid in kept:
            named = _compressed(media, syntax, uid)
            if named:
                return Choice(form, MEDIA_OF_SYNTAX[uid], named, multipart)
    return None


@lru_cache(maxsize=4096)
def choose_instance(accept: str, stored: str, original: str, native: bool) -> Choice | None:
    """Choose how a whole instance is sent (PS3.18 section 10.4.1.1.1 to .3).

    Explicit VR Little Endian is the default when no transfer syntax is asked for; an instance
    that cannot be had uncompressed is then sent as it is (PS3.18 section 8.7.3.5.1). ``*`` gives
    the bytes as received: whole instances are asked for so by archives, not by viewers.
    """
    kept: tuple[tuple[Form, str], ...] = (("original", original), ("stored", stored))
    for wanted in parse_accept(accept):
        multipart, media, syntax = _wish(wanted)
        if media not in ("application/dicom", "*/*", "application/*"):
            continue
        if wanted.media_type == "*/*":
            multipart = True
        if syntax in ("", EXPLICIT_VR_LE):
            if native:
                return Choice(
                    "native", "application/dicom", EXPLICIT_VR_LE, multipart, lenient=not syntax
                )
            if syntax:
                continue
            syntax = "*"
        for form, uid in kept:
            if uid and syntax in ("*", uid, *_ALSO.get(uid, ())):
                named = uid if syntax == "*" else syntax
                return Choice(form, "application/dicom", named, multipart, lenient=syntax == "*")
    return None


@lru_cache(maxsize=1024)
def choose_plain(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return the first acceptable of ``offered`` media types, None: 406."""
    for wanted in parse_accept(accept):
        for media in offered:
            if wanted.media_type in ("*/*", media, media.partition("/")[0] + "/*"):
                return media
    return None


@lru_cache(maxsize=256)
def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding allows gzip (RFC 9110 section 12.5.3)."""
    return any(
        item.media_type in ("gzip", "x-gzip", "*") for item in parse_accept(header or "identity")
    )
