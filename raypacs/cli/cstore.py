"""Send files by C-STORE as a modality would (PS3.4 annex B): the demo's second way in."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE

from raypacs.errors import RaypacsError

_SYNTAXES = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
_CONTEXTS = 120
"""An association negotiates at most 128 presentation contexts (PS3.8 section 9.3.2.2)."""

SUCCESS = 0x0000
NO_ANSWER = "no answer"


def sendable(path: Path) -> bool:
    """Whether ``path`` is a Part 10 file in a syntax that pynetdicom re-encodes byte for byte."""
    try:
        with warnings.catch_warnings():
            # Some samples are odd on purpose; the node judges them, not this reader.
            warnings.simplefilter("ignore")
            meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        return (
            meta.TransferSyntaxUID in _SYNTAXES
            and "MediaStorageSOPClassUID" in meta
            and "MediaStorageSOPInstanceUID" in meta
        )
    except (InvalidDicomError, OSError, ValueError, AttributeError, KeyError, NotImplementedError):
        return False


def send(
    paths: Sequence[Path],
    *,
    address: tuple[str, int],
    called: str,
    calling: str,
    sent: Callable[[Path], None],
) -> Counter[str]:
    """Send ``paths`` over one association and return how often each status was answered.

    Raises:
        RaypacsError: no association, or more kinds of objects than one association can negotiate.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        meta = dcmread(path, stop_before_pixels=True, specific_tags=[]).file_meta
        wanted[meta.MediaStorageSOPClassUID].add(meta.TransferSyntaxUID)
    if sum(map(len, wanted.values())) > _CONTEXTS:
        raise RaypacsError("too many kinds of objects for one association")
    ae = AE(ae_title=calling)
    for sop_class_uid, syntaxes in wanted.items():
        for syntax in syntaxes:
            ae.add_requested_context(sop_class_uid, syntax)
    association = ae.associate(address[0], address[1], ae_title=called)
    if not association.is_established:
        raise RaypacsError(f"no association with {called} at {address[0]}:{address[1]}")
    told: Counter[str] = Counter()
    try:
        for path in paths:
            status = association.send_c_store(dcmread(path))
            told[f"{status.Status:04X}H" if "Status" in status else NO_ANSWER] += 1
            sent(path)
    finally:
        association.release()
    return told
