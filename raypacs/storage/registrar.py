"""Durable instances on their way into the index: batched, bounded, kept until they are in it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from raypacs.errors import IndexRefused, MasterUnavailable, RaypacsError, StaleEpoch
from raypacs.records import AsideRecord, InstanceRecord, Outcome, Registered

LOG = logging.getLogger(__name__)
_BATCH = 1000
_LONGEST_PAUSE_S = 5.0


class Ports(Protocol):
    """What registration asks of the index (a part of the intake's ports)."""

    @property
    def register(self) -> Callable[[list[InstanceRecord]], list[Registered]]:
        """Register records; idempotent."""

    @property
    def aside(self) -> Callable[[AsideRecord], None]:
        """Report an object that is kept aside; idempotent."""


def enrol(ports: Ports, batch: list[InstanceRecord]) -> list[Registered]:
    """Register a batch; a record that the index cannot hold keeps back no other.

    A record without an answer waits (its study is sealed, and its tier away): ask again.

    It is found by halving the batch, stays where it is on its tier, is reported as kept aside
    there, and is answered as QUARANTINED.

    Raises:
        MasterUnavailable, StaleEpoch, OSError: the index does not answer; ask again.
    """
    try:
        return ports.register(batch)
    except (MasterUnavailable, StaleEpoch):
        raise
    except RaypacsError as exc:
        if len(batch) > 1:
            middle = len(batch) // 2
            return enrol(ports, batch[:middle]) + enrol(ports, batch[middle:])
        (record,) = batch
        # Other messages may quote values of the data set.
        reason = str(exc) if isinstance(exc, IndexRefused) else type(exc).__name__
        LOG.error("an instance cannot be registered: %s", reason, extra={"path": record.path})
        ports.aside(
            AsideRecord(
                outcome=Outcome.QUARANTINED,
                tier=record.tier,
                path=record.path,
                size_bytes=record.size_bytes,
                reason=f"cannot be registered: {reason}",
                source=record.source.encode("utf-8", "replace").decode(),
                received_at_s=record.received_at_s,
                study_uid=record.study_uid,
                sop_instance_uid=record.sop_instance_uid,
                sha256=record.sha256,
            )
        )
        return [Registered(record.sop_instance_uid, record.path, Outcome.QUARANTINED)]


class Registrar:
    """Registers what it is given from a thread of its own, a batch every ``interval_s``.

    A batch that cannot be registered (no master just now) stays and is tried again: the call must
    be idempotent. ``done`` is told each record with its answer, from the thread.
    """

    def __init__(
        self,
        register: Callable[[list[InstanceRecord]], list[Registered]],
        done: Callable[[InstanceRecord, Registered], None],
        *,
        interval_s: float,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._register = register
        self._done = done
        self._tick = tick
        self.interval_s = interval_s
        self._changed = threading.Condition()
        self._pending: dict[str, InstanceRecord] = {}  # by SOP Instance UID, oldest first
        self._hurry = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="registrar", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, record: InstanceRecord) -> None:
        """Queue a record whose bytes are durable."""
        with self._changed:
            self._pending[record.sop_instance_uid] = record

    def find(self, sop_instance_uid: str) -> InstanceRecord | None:
        """Return the queued record of an instance: durable, not yet in the index."""
        return self._pending.get(sop_instance_uid)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued before now is in the index; False after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            awaited = {record.path for record in self._pending.values()}
            while awaited & {record.path for record in self._pending.values()}:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait(left)
        return True

    def close(self, timeout_s: float) -> bool:
        """Flush, then end the thread."""
        flushed = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return flushed

    def _run(self) -> None:
        pause_s = self.interval_s
        while True:
            with self._changed:
                if not self._hurry and not self._closing:
                    self._changed.wait(pause_s)
                if self._closing:
                    return
                self._hurry = False
                batch = list(self._pending.values())[:_BATCH]
            pause_s = self.interval_s if self._send(batch) else min(pause_s * 2, _LONGEST_PAUSE_S)
            self._tick()

    def _send(self, batch: list[InstanceRecord]) -> bool:
        if not batch:
            return True
        try:
            answers = {answer.path: answer for answer in self._register(batch)}
        except (RaypacsError, OSError) as exc:
            LOG.warning("%d instances wait for registration: %s", len(self), type(exc).__name__)
            return False
        with self._changed:
            for record in batch:
                del self._pending[record.sop_instance_uid]
            waiting = [record for record in batch if record.path not in answers]
            # To the end: they keep back no others.
            self._pending |= {record.sop_instance_uid: record for record in waiting}
        # Claims go after that, or a successor under the same UID would be taken for this record.
        for record in batch:
            if record.path in answers:
                self._done(record, answers[record.path])
        with self._changed:
            self._hurry = len(self._pending) - len(waiting) >= _BATCH
            self._changed.notify_all()
        return not waiting
