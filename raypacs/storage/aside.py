"""Objects kept aside: malformed ones and those whose SOP Instance UID is taken.

Paths carry a random token as all others do, so a delete intent never hits a later object. That
the same bytes are kept already is seen by SOP Instance UID and sha256: in the index, or here among
those not reported yet. Bytes are durable under a marker before the sender is answered; the report
follows, again and again while there is no master, and after a crash by recovery.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from raypacs import layout
from raypacs.errors import (
    AlreadyExists,
    MalformedInstance,
    MasterUnavailable,
    RaypacsError,
    StaleEpoch,
    TierFull,
    TierUnavailable,
)
from raypacs.records import AsideRecord, Outcome
from raypacs.storage.answers import (
    DUPLICATE_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    IntakePorts,
    Received,
    Stored,
)
from raypacs.storage.placing import ImageTiers

LOG = logging.getLogger(__name__)
_MOST_UNREPORTED = 1000
CONFLICT_REASON = "this SOP Instance UID is stored with other bytes; these are kept aside"


class Aside:
    """Keeps objects aside durably and reports them; thread-safe.

    ``settled`` is told (tier, marked) of every object once it is reported.
    """

    def __init__(
        self, tiers: ImageTiers, ports: IntakePorts, settled: Callable[[str, str], None]
    ) -> None:
        self._tiers = tiers
        self._ports = ports
        self._settled = settled
        self._lock = threading.Lock()
        self._unreported: dict[str, AsideRecord] = {}  # by path

    def conflict(self, received: Received, sha256: str) -> Stored:
        """Keep an object whose SOP Instance UID is stored with other bytes."""
        path = layout.conflict(received.study_uid, received.sop_instance_uid, layout.new_token())
        told = Stored(Outcome.CONFLICT, DUPLICATE_SOP_INSTANCE, CONFLICT_REASON)
        return self._keep(received, told, path, sha256)

    def quarantine(
        self, received: Received, error: MalformedInstance, sop_class_uid: str, sop_uid: str
    ) -> Stored:
        """Keep a malformed object aside with its reason."""
        path = layout.quarantine(received.received_at_s, layout.new_token())
        received = replace(received, sop_class_uid=sop_class_uid, sop_instance_uid=sop_uid)
        told = Stored(Outcome.QUARANTINED, error.status, str(error))
        return self._keep(received, told, path, hashlib.sha256(received.dataset).hexdigest())

    def unreported(self) -> int:
        """Number of durable objects that the index does not know of yet."""
        return len(self._unreported)

    def report(self) -> None:
        """Report what could not be reported before; called in the background."""
        for record in list(self._unreported.values()):
            if not self._report(record):
                return

    def _keep(self, received: Received, told: Stored, path: str, sha256: str) -> Stored:
        told = replace(
            told,
            sop_instance_uid=received.sop_instance_uid,
            sop_class_uid=received.sop_class_uid,
            study_uid=received.study_uid,
        )
        try:
            repeated = self._waiting(received.sop_instance_uid, sha256)
            if repeated is not None:
                self._report(repeated)
                return told
            if self._ports.aside_known(received.sop_instance_uid, sha256):
                return told
            if len(self._unreported) >= _MOST_UNREPORTED:
                raise MasterUnavailable("too many objects kept aside wait for being reported")
            marked = layout.marked_by(path)
            tier = self._tiers.put(path, received.parts, received.size_bytes, marked)
        except (RaypacsError, OSError) as exc:
            LOG.warning("an object could not be kept aside: %s", type(exc).__name__)
            return replace(told, outcome=Outcome.REFUSED, status=OUT_OF_RESOURCES, reason=str(exc))
        record = AsideRecord(
            outcome=told.outcome,
            tier=tier,
            path=path,
            size_bytes=received.size_bytes,
            reason=told.reason,
            source=received.source,
            received_at_s=received.received_at_s,
            study_uid=received.study_uid,
            sop_instance_uid=received.sop_instance_uid,
            sha256=sha256,
        )
        with self._lock:
            self._unreported[path] = record
        if told.outcome is Outcome.QUARANTINED:
            self._explain(record, told.status)
        self._report(record)
        return told

    def _waiting(self, sop_instance_uid: str, sha256: str) -> AsideRecord | None:
        for record in list(self._unreported.values()):
            if (record.sop_instance_uid, record.sha256) == (sop_instance_uid, sha256):
                return record
        return None

    def _report(self, record: AsideRecord) -> bool:
        """Report; False if it has to be tried again. Idempotent, so two threads may."""
        try:
            self._ports.aside(record)
        except (MasterUnavailable, StaleEpoch, OSError) as exc:
            LOG.warning(
                "%d objects kept aside wait for being reported: %s",
                len(self._unreported),
                type(exc).__name__,
            )
            return False
        except RaypacsError as exc:  # it never will be; the bytes and their reason stay
            LOG.error("cannot be reported: %s", type(exc).__name__, extra={"path": record.path})
        with self._lock:
            ours = self._unreported.pop(record.path, None)
        if ours is not None:
            self._settled(record.tier, layout.marked_by(record.path))
        return True

    def _explain(self, record: AsideRecord, status: int) -> None:
        told = {
            "reason": record.reason,
            "status": f"{status:04X}",
            "source": record.source,
            "received_at_s": record.received_at_s,
            "size_bytes": record.size_bytes,
            "sop_instance_uid": record.sop_instance_uid,
            "sha256": record.sha256,
        }
        try:
            self._tiers[record.tier].put_durable(
                layout.quarantine_reason(record.path), json.dumps(told, indent=1).encode()
            )
        except (AlreadyExists, TierFull, TierUnavailable) as exc:
            LOG.warning("a reason is in the index only: %s", type(exc).__name__)
