"""Forms of a frame in the web cache and the codec behind each.

A form is what `raypacs.policy.rules.choose` names. `copied` has no codec: the object stays as it
was received. A new form is one entry here.
"""

from __future__ import annotations

from typing import Protocol

from raypacs.codec import htj2k
from raypacs.errors import NotFound

HTJ2K = "htj2k"
COPIED = "copied"


class Codec(Protocol):
    """Encodes and decodes one frame without loss."""

    def encode(
        self, frame: htj2k.Array, *, bits_stored: int, signed: bool, colour_transform: bool
    ) -> htj2k.Codestream:
        """Encode rows x columns [x samples]. Raises UnsupportedPixels."""

    def decode(self, data: htj2k.Buffer) -> htj2k.Array:
        """Decode to rows x columns [x samples]. Raises UnsupportedPixels."""


class Htj2kCodec:
    """HTJ2K, reversible."""

    def encode(
        self, frame: htj2k.Array, *, bits_stored: int, signed: bool, colour_transform: bool
    ) -> htj2k.Codestream:
        """See :func:`raypacs.codec.htj2k.encode_frame`."""
        return htj2k.encode_frame(
            frame, bits_stored=bits_stored, signed=signed, colour_transform=colour_transform
        )

    def decode(self, data: htj2k.Buffer) -> htj2k.Array:
        """See :func:`raypacs.codec.htj2k.decode_frame`."""
        return htj2k.decode_frame(data)


_CODECS: dict[str, Codec] = {HTJ2K: Htj2kCodec()}


def codec_of(form: str) -> Codec:
    """Return the codec of a form.

    Raises:
        NotFound: no such form, or one without a codec.
    """
    try:
        return _CODECS[form]
    except KeyError as exc:
        raise NotFound(f"no codec for form {form!r}", form=form) from exc
