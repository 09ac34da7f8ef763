"""Forms of a frame in the web cache and the codec behind each.

A form is what `raypacs.policy.rules.choose` names. `copied` has no codec: the object stays as it
was received. What reads frames of a pack asks here, whatever their form: :func:`decode`,
:func:`decode_reduced` and :func:`native_bytes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from raypacs.codec import bits, floats, htj2k, wavelet
from raypacs.errors import NotFound, UnsupportedPixels

HTJ2K = "htj2k"
WAVELET = "wavelet"
BITS = "bits"
COPIED = "copied"
CODED = frozenset({HTJ2K, WAVELET, BITS})
"""The forms with a codec."""


class Codec(Protocol):
    """Encodes and decodes one frame of integers without loss."""

    def encode(
        self,
        frame: htj2k.Array,
        *,
        bits_stored: int,
        signed: bool,
        colour_transform: bool,
        levels: int | None = None,
    ) -> htj2k.Codestream:
        """Encode rows x columns [x samples]. Raises UnsupportedPixels."""

    def decode(self, data: htj2k.Buffer) -> htj2k.Array:
        """Decode to rows x columns [x samples]. Raises UnsupportedPixels."""


class Htj2kCodec:
    """HTJ2K, reversible."""

    def encode(
        self,
        frame: htj2k.Array,
        *,
        bits_stored: int,
        signed: bool,
        colour_transform: bool,
        levels: int | None = None,
    ) -> htj2k.Codestream:
        """See :func:`raypacs.codec.htj2k.encode_frame`."""
        return htj2k.encode_frame(
            frame,
            bits_stored=bits_stored,
            signed=signed,
            colour_transform=colour_transform,
            levels=levels,
        )

    def decode(self, data: htj2k.Buffer) -> htj2k.Array:
        """See :func:`raypacs.codec.htj2k.decode_frame`."""
        return htj2k.decode_frame(data)


_CODECS: dict[str, Codec] = {HTJ2K: Htj2kCodec()}


def codec_of(form: str) -> Codec:
    """Return the codec of a form of integer samples.

    Raises:
        NotFound: no such form, or one without such a codec.
    """
    try:
        return _CODECS[form]
    except KeyError as exc:
        raise NotFound(f"no codec for form {form!r}", form=form) from exc


class CodedInstance(Protocol):
    """What has to be known of an instance to decode its frames; a pack's index has it."""

    @property
    def form(self) -> str:
        """One of the constants above."""

    @property
    def rows(self) -> int:
        """Rows of a frame."""

    @property
    def columns(self) -> int:
        """Columns of a frame."""

    @property
    def bits_allocated(self) -> int:
        """Bits of a sample in native form."""

    @property
    def pixel_representation(self) -> int:
        """1 where samples are signed."""

    @property
    def levels(self) -> int:
        """Decompositions of a codestream."""

    @property
    def low_halvings(self) -> int:
        """Halvings of the low part."""

    @property
    def low_own(self) -> bool:
        """Whether the low part is a code of its own."""


def decode(data: htj2k.Buffer, one: CodedInstance) -> htj2k.Array:
    """Decode a whole frame to rows x columns [x samples]; single bits come as 0 and 1.

    Raises:
        UnsupportedPixels: damaged. NotFound: a form without a codec.
    """
    if one.form == WAVELET:
        return floats.decode_frame(
            data, rows=one.rows, columns=one.columns, bits=one.bits_allocated
        )
    if one.form == BITS:
        return bits.decode_frame(data, rows=one.rows, columns=one.columns)
    return codec_of(one.form).decode(data)


def native_bytes(data: htj2k.Buffer, one: CodedInstance) -> bytes:
    """Decode a whole frame to its native bytes, little endian, colour by pixel (PS3.5 8.1.1).

    A frame of single bits is padded to whole bytes. Raises as :func:`decode`.
    """
    frame = decode(data, one)
    if one.form == BITS:
        return bits.packed(frame)
    kind = "f" if one.form == WAVELET else "i" if one.pixel_representation else "u"
    wanted = np.dtype(f"<{kind}{one.bits_allocated // 8}")
    return np.ascontiguousarray(frame.astype(wanted, copy=False)).tobytes()


def is_nearest(one: CodedInstance) -> bool:
    """Whether low resolutions are samples picked out, since averages of them mean nothing."""
    return one.form == BITS or (one.form == HTJ2K and one.low_own)


def decode_reduced(
    low: htj2k.Buffer, rest: Callable[[], htj2k.Buffer], one: CodedInstance, halvings: int
) -> tuple[htj2k.Array, int]:
    """Return a frame with rows and columns halved ``halvings`` times, and how often they were.

    ``low`` is the frame's low part; ``rest`` reads the other one and is only called where it is
    needed. A codestream cannot be halved more often than it has levels. Floating-point frames
    come as float64 approximations.

    Raises:
        UnsupportedPixels: damaged. NotFound: a form without a codec.
    """
    enough = halvings >= one.low_halvings
    if one.form == HTJ2K and not one.low_own:
        halvings = min(halvings, one.levels)
        data = bytes(low) if enough else bytes(low) + bytes(rest())
        return htj2k.decode_frame(data, skip_resolutions=halvings), halvings
    if not enough or one.low_halvings == 0:
        whole = decode(bytes(rest()) if one.low_own else bytes(low) + bytes(rest()), one)
        if one.form == WAVELET:
            return floats.reduced(whole, halvings), halvings
        return bits.nearest(whole, halvings), halvings
    return _smaller(low, one, halvings - one.low_halvings), halvings


def _smaller(low: htj2k.Buffer, one: CodedInstance, halvings: int) -> htj2k.Array:
    """Decode a low part that is a code of its own, and halve it further."""
    if one.form == WAVELET:
        small = floats.decode_low(low).pixels
        for _ in range(halvings):
            small = wavelet.approximation(small)
        return small
    if one.form == BITS:
        rows, columns = (-(-side >> one.low_halvings) for side in (one.rows, one.columns))
        return bits.nearest(bits.decode_frame(low, rows=rows, columns=columns), halvings)
    if one.form != HTJ2K:
        raise UnsupportedPixels(f"frames of form {one.form!r} have no low resolution")
    return bits.nearest(htj2k.decode_frame(low), halvings)
