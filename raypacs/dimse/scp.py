"""Storage SCP: what an association does with the objects it brings (PS3.4 annex B)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from raypacs.dicom import (
    ENCAPSULATED_UNCOMPRESSED,
    EXPLICIT_VR_LE,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    IMPLICIT_VR_LE,
)
from raypacs.dimse.command import error_comment
from raypacs.records import Outcome
from raypacs.storage.intake import Intake, Stored
from raypacs.storage.tier import Buffer

LOG = logging.getLogger(__name__)
PROCESSING_FAILURE = 0x0110  # PS3.7 annex C
_FLUSH_S = 5.0

_LOSSLESS = frozenset(
    {
        IMPLICIT_VR_LE,
        EXPLICIT_VR_LE,
        RLELossless,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
        HTJ2K_LOSSLESS,
        HTJ2K_LOSSLESS_RPCL,
        ENCAPSULATED_UNCOMPRESSED,
        "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    }
)
_AWKWARD = frozenset({DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian})


def preferred_first(transfer_syntax_uids: list[str]) -> list[str]:
    """Order the transfer syntaxes proposed in one presentation context; the first is accepted.

    The sender's order holds, but syntaxes that certainly lose nothing come before those that may
    make the sender compress with loss (or that nobody knows), and big endian and deflated after
    the other lossless ones. A context with a single syntax is always accepted as it is.
    """
    return sorted(
        transfer_syntax_uids,
        key=lambda uid: 0 if uid in _LOSSLESS else 1 if uid in _AWKWARD else 2,
    )


class StorageSession:
    """One association's objects: stores them, remembers the studies they belong to.

    ``peer``: address of the sender.
    """

    def __init__(self, intake: Intake, peer: str = "") -> None:
        self._intake = intake
        self._peer = peer
        self._studies: dict[str, None] = {}
        self.counts: dict[Outcome, int] = {}

    def store(
        self,
        dataset: Buffer,
        *,
        transfer_syntax_uid: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        source: str,
    ) -> Stored:
        """Store one data set; whatever goes wrong becomes a status, never an exception."""
        try:
            stored = self._intake.store(
                dataset,
                transfer_syntax_uid=transfer_syntax_uid,
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                source=source,
                peer=self._peer,
            )
        except Exception as exc:
            LOG.exception("C-STORE failed: %s", type(exc).__name__)
            stored = Stored(Outcome.REFUSED, PROCESSING_FAILURE, "internal error")
        self.counts[stored.outcome] = self.counts.get(stored.outcome, 0) + 1
        if stored.outcome in (Outcome.STORED, Outcome.KNOWN) and stored.study_uid:
            self._studies[stored.study_uid] = None
        return stored

    def end(self, ended: Callable[[list[str]], None]) -> None:
        """The association is over: register what it brought, then tell which studies."""
        if self._studies:
            self._intake.flush(_FLUSH_S)
            ended(list(self._studies))


def handle_store(event: Any, session: StorageSession) -> Dataset:
    """Answer ``evt.EVT_C_STORE``: the library's own way, the reference for the fast one."""
    request = event.request
    stored = session.store(
        request.DataSet.getvalue() if request.DataSet is not None else b"",
        transfer_syntax_uid=str(event.context.transfer_syntax),
        sop_class_uid=str(request.AffectedSOPClassUID),
        sop_instance_uid=str(request.AffectedSOPInstanceUID),
        source=event.assoc.requestor.ae_title.strip(),
    )
    answer = Dataset()
    answer.Status = stored.status
    if stored.status:
        answer.ErrorComment = error_comment(stored.reason)
    return answer
