"""UIDs of transfer syntaxes that the code tells apart (PS3.6 annex A)."""

from __future__ import annotations

from pydicom.uid import AllTransferSyntaxes

IMPLICIT_VR_LE = "1.2.840.10008.1.2"
EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BE = "1.2.840.10008.1.2.2"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K_GENERAL = "1.2.840.10008.1.2.4.203"  # with or without loss
ENCAPSULATED_UNCOMPRESSED = "1.2.840.10008.1.2.1.98"
NATIVE = frozenset({IMPLICIT_VR_LE, EXPLICIT_VR_LE, DEFLATED_EXPLICIT_VR_LE, EXPLICIT_VR_BE})
DEFLATED = frozenset({DEFLATED_EXPLICIT_VR_LE, "1.2.840.10008.1.2.4.95"})
KNOWN_TRANSFER_SYNTAXES = frozenset(str(uid) for uid in AllTransferSyntaxes)


def is_encapsulated(transfer_syntax_uid: str) -> bool:
    """Say if Pixel Data is a sequence of fragments in this transfer syntax (PS3.5 A.4)."""
    return transfer_syntax_uid not in NATIVE
