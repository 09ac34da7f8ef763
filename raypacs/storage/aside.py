"""Objects kept aside: malformed ones and those whose SOP Instance UID is taken.

Their names come from their content, so that sending one again keeps no second copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace

from raypacs import layout
from raypacs.errors import AlreadyExists, MalformedInstance, RaypacsError
from raypacs.records import AsideRecord, Outcome
from raypacs.storage.answers import (
    DUPLICATE_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    Received,
    Stored,
)
from raypacs.storage.placing import ImageTiers

LOG = logging.getLogger(__name__)


class Aside:
    """Keeps objects aside durably and reports them."""

    def __init__(self, tiers: ImageTiers, report: Callable[[AsideRecord], None]) -> None:
        self._tiers = tiers
        self._report = report

    def conflict(self, received: Received, sha256: str) -> Stored:
        """Keep an object whose SOP Instance UID is stored with other bytes."""
        path = layout.conflict(received.study_uid, received.sop_instance_uid, sha256[:16])
        reason = "this SOP Instance UID is stored with other bytes; these are kept aside"
        return self._keep(received, Outcome.CONFLICT, path, reason, DUPLICATE_SOP_INSTANCE)

    def quarantine(
        self, received: Received, error: MalformedInstance, sop_class_uid: str, sop_uid: str
    ) -> Stored:
        """Keep a malformed object aside with its reason."""
        token = hashlib.sha256(received.dataset).hexdigest()[:16]
        path = layout.quarantine(received.received_at_s, token)
        received = replace(received, sop_class_uid=sop_class_uid, sop_instance_uid=sop_uid)
        return self._keep(received, Outcome.QUARANTINED, path, str(error), error.status)

    def _keep(
        self, received: Received, outcome: Outcome, path: str, reason: str, status: int
    ) -> Stored:
        sha256 = hashlib.sha256(received.dataset).hexdigest()
        stored = Stored(
            outcome,
            status,
            reason,
            received.sop_instance_uid,
            received.sop_class_uid,
            received.study_uid,
        )
        try:
            tier = self._tiers.put(path, received.parts, received.size_bytes)
            record = AsideRecord(
                outcome=outcome,
                tier=tier,
                path=path,
                size_bytes=received.size_bytes,
                reason=reason,
                source=received.source,
                received_at_s=received.received_at_s,
                study_uid=received.study_uid,
                sop_instance_uid=received.sop_instance_uid,
                sha256=sha256,
            )
            if outcome is Outcome.QUARANTINED:
                self._explain(record, status)
            self._report(record)
        except AlreadyExists:
            return stored  # the same bytes were kept aside and reported before
        except RaypacsError as exc:
            LOG.warning("an object could not be kept aside: %s", type(exc).__name__)
            return replace(
                stored, outcome=Outcome.REFUSED, status=OUT_OF_RESOURCES, reason=str(exc)
            )
        return stored

    def _explain(self, record: AsideRecord, status: int) -> None:
        told = {
            "reason": record.reason,
            "status": f"{status:04X}",
            "source": record.source,
            "received_at_s": record.received_at_s,
            "size_bytes": record.size_bytes,
            "sha256": record.sha256,
        }
        try:
            self._tiers[record.tier].put_durable(
                record.path.removesuffix(".dcm") + ".json", json.dumps(told, indent=1).encode()
            )
        except AlreadyExists:
            pass
