"""The one way in: every received object, through whichever door, ends here.

For each object, in this order: parse and check it; hash its data set; claim its SOP Instance UID
on this node; ask the index if it is known; take room; marker; write it durably; queue it for
registration; only then answer STORED. A power cut at any moment leaves either an object that
:meth:`Intake.recover` registers, or one that was never acknowledged.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from raypacs import layout
from raypacs.autopilot.arrival import first_tier, source_of
from raypacs.config import Settings
from raypacs.dicom import describe, file_meta, split_part10
from raypacs.errors import (
    MalformedInstance,
    NotFound,
    RaypacsError,
    TierUnavailable,
)
from raypacs.records import InstanceRecord, Outcome, Registered
from raypacs.storage.answers import (
    DATA_SET_MISMATCH,
    DUPLICATE_SOP_INSTANCE,
    OUT_OF_RESOURCES,
    SUCCESS,
    IntakePorts,
    Received,
    Stored,
)
from raypacs.storage.aside import Aside
from raypacs.storage.claims import Claims
from raypacs.storage.placing import ImageTiers, Landing
from raypacs.storage.recovery import recover
from raypacs.storage.registrar import Registrar, enrol
from raypacs.storage.room import Allotments, Markers
from raypacs.storage.settling import register_decided, served_sha256
from raypacs.storage.site import Mounted
from raypacs.storage.tier import Buffer, Tier

__all__ = ["Intake", "IntakePorts", "Stored"]

LOG = logging.getLogger(__name__)

_MOST_UNREGISTERED = 10_000
_MOST_LEARNED = 10_000
_MOST_RELYING = 100
_CLAIM_WAIT_S = 10.0
_CLAIM_POLL_S = 0.01


class Intake:
    """Stores received objects on the image tiers; thread-safe.

    ``boot`` names this process run (no dots); several processes of a node share ``claims_dir``.
    Nothing is written to a tier without the marker of the site ``site_id`` ('': any tier will do).
    ``landing`` says which tiers a study's new objects try first.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        ports: IntakePorts,
        *,
        claims_dir: Path,
        boot: str,
        settings: Settings,
        site_id: str = "",
        clock: Callable[[], float] = time.time,
        landing: Landing | None = None,
    ) -> None:
        if "." in boot:
            raise ValueError("a boot name has no dots: it is the first part of a marker's name")
        self._settings = settings
        self._clock = clock
        self.boot = boot
        self._claims = Claims(claims_dir, boot)
        self._room = Allotments(ports.grant, settings.allotment_bytes)
        self._markers = Markers(tiers, boot)
        self._tiers = ImageTiers(tiers, self._room, self._markers, Mounted(site_id), landing)
        ports = replace(ports, register=partial(register_decided, ports, self._tiers))
        self._ports = ports
        self._learned: deque[tuple[InstanceRecord, str]] = deque(maxlen=_MOST_LEARNED)
        self._relying: deque[tuple[str, str, str]] = deque(maxlen=_MOST_RELYING)
        self._aside = Aside(self._tiers, ports, self._markers.leave)
        self._registrar = Registrar(
            partial(enrol, ports),
            self._registered,
            interval_s=settings.register_interval_s,
            tick=self._background,
        )

    def store(
        self,
        dataset: Buffer,
        *,
        meta: bytes | None = None,
        transfer_syntax_uid: str,
        sop_class_uid: str | None = None,
        sop_instance_uid: str | None = None,
        source: str,
        peer: str = "",
    ) -> Stored:
        """Store one data set as it came over the network (PS3.4 annex B).

        ``meta`` is its preamble and file meta information (default: made here); the UIDs are
        those of the C-STORE command, which must agree with the data set. ``dataset`` is not kept
        after the call. ``peer``: address of the sender.
        """
        at_s = self._clock()
        try:
            record = describe(
                dataset,
                transfer_syntax_uid=transfer_syntax_uid,
                dataset_offset=0,
                tier="",
                path="",
                size_bytes=0,
                sha256="",
                source=source,
                received_at_s=at_s,
                most_inflated_bytes=self._settings.max_instance_bytes,
            )
            _check_command(record, sop_class_uid, sop_instance_uid)
        except MalformedInstance as exc:
            parts = (
                _meta_of(sop_class_uid, sop_instance_uid, transfer_syntax_uid, source),
                dataset,
            )
            size = sum(len(part) for part in parts)
            received = Received(parts, dataset, size, source, at_s)
            return self._aside.quarantine(
                received, exc, sop_class_uid or "", sop_instance_uid or ""
            )
        if meta is None:
            meta = file_meta(
                record.sop_class_uid, record.sop_instance_uid, transfer_syntax_uid, source
            )
        offset, pixel = len(meta), record.pixel_offset_bytes
        record = replace(
            record,
            size_bytes=offset + len(dataset),
            dataset_offset_bytes=offset,
            pixel_offset_bytes=pixel if pixel < 0 else pixel + offset,
            peer=peer,
        )
        return self._admit(record, (meta, dataset), dataset)

    def store_part10(self, data: Buffer, *, source: str, peer: str = "") -> Stored:
        """Store one DICOM file exactly as sent, with its preamble and meta (PS3.10).

        The UIDs of the data set count; file meta that names others (real files do) is kept too.
        """
        at_s = self._clock()
        view = memoryview(data)
        try:
            part10 = split_part10(data)
            record = describe(
                data,
                transfer_syntax_uid=part10.transfer_syntax_uid,
                dataset_offset=part10.dataset_offset,
                tier="",
                path="",
                size_bytes=len(view),
                sha256="",
                source=source,
                received_at_s=at_s,
                most_inflated_bytes=self._settings.max_instance_bytes,
            )
        except MalformedInstance as exc:
            return self._aside.quarantine(
                Received((data,), data, len(view), source, at_s), exc, "", ""
            )
        record = replace(record, peer=peer)
        return self._admit(record, (data,), view[part10.dataset_offset :])

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything stored before now is in the index; False after ``timeout_s``."""
        return self._registrar.flush(timeout_s)

    def apply(self, settings: Settings) -> None:
        """Use a newer version of the settings."""
        self._settings = settings
        self._registrar.interval_s = settings.register_interval_s
        self._room.allotment_bytes = settings.allotment_bytes

    def unregistered(self) -> int:
        """Number of durable instances that are not in the index yet."""
        return len(self._registrar)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Register what is left and stop; False if something stays for :meth:`recover`."""
        flushed = self._registrar.close(timeout_s)
        self._aside.report()
        self._tell_learned()
        if flushed:
            self._markers.sweep(idle_s=0)
        return flushed and not self._aside.unreported()

    def recover(self, live_boots: Collection[str]) -> int:
        """Register what earlier process runs left durable but unregistered; return how many.

        ``live_boots`` are the process runs that are alive: their markers and claims stay.
        """
        live = {*live_boots, self.boot}
        return self._recover(lambda boot: boot not in live)

    def recover_lost(self, lost_boots: Collection[str]) -> int:
        """The same for exactly these process runs; a run that starts meanwhile is left alone."""
        lost = frozenset(lost_boots) - {self.boot}
        return self._recover(lambda boot: boot in lost)

    def _recover(self, lost: Callable[[str], bool]) -> int:
        self._claims.sweep(lost)
        count = 0
        for tier in self._tiers:
            try:
                count += recover(tier, self._ports, lost)
            except TierUnavailable as exc:  # its markers stay, and are found when it is back
                LOG.warning("not recovered: %s", exc, extra={"tier": tier.name})
        return count

    def _admit(self, record: InstanceRecord, parts: tuple[Buffer, ...], dataset: Buffer) -> Stored:
        """Store a well-formed object under the claim of its SOP Instance UID."""
        if record.size_bytes > self._settings.max_instance_bytes:
            return _answer(record, Outcome.REFUSED, "the object is larger than max_instance_bytes")
        if len(self._registrar) >= _MOST_UNREGISTERED:
            return _answer(record, Outcome.REFUSED, "too many instances wait for registration")
        record = replace(record, sha256=hashlib.sha256(dataset).hexdigest())
        uid = record.sop_instance_uid
        try:
            first = self._claim(uid)
            if first is not None:  # durable here, on its way into the index
                return self._again(record, parts, first.sha256, first.transfer_syntax_uid)
        except TimeoutError:
            return _answer(record, Outcome.REFUSED, "the same instance is being received already")
        kept = False
        try:
            # In this order: a sealed series that is opened meanwhile has rows after that.
            known = self._ports.known_sealed(
                record.study_uid, record.series_uid, uid
            ) or self._ports.known(uid)
            if known is not None and not known[0]:
                known = (self._checksum(record), *known[1:])
            if known is not None and (
                known[0] != record.sha256
                or self._tiers.hold(known[2])
                or self._ports.in_library(record.study_uid, record.series_uid)
            ):
                return self._again(record, parts, known[0], known[1])
            written = self._write(record, parts)
            kept = True
            self._registrar.add(written)
        except RaypacsError as exc:
            if not kept:
                LOG.warning("an instance was refused: %s", type(exc).__name__)
            return _answer(record, Outcome.REFUSED, str(exc))
        finally:
            if not kept:
                self._claims.release(uid)
        return _answer(record, Outcome.STORED)

    def _checksum(self, record: InstanceRecord) -> str:
        """Return the SHA-256 of the adopted instance that is served under the record's UID.

        '' where it cannot be the same, or cannot be compared any more. Raises TierUnavailable.
        """
        served = self._ports.served(record.study_uid, record.series_uid, record.sop_instance_uid)
        if served is None or served.sha256:
            return served.sha256 if served is not None else ""
        lengths = {one.size_bytes - one.dataset_offset_bytes for one in (record, served)}
        if len(lengths) > 1 or served.transfer_syntax_uid != record.transfer_syntax_uid:
            return ""
        sha256 = served_sha256(self._tiers, served)
        if sha256:
            self._learned.append((served, sha256))
        return sha256

    def _claim(self, sop_instance_uid: str) -> InstanceRecord | None:
        """Take the claim (None), or return the record that was stored under it meanwhile."""
        deadline = time.monotonic() + _CLAIM_WAIT_S
        while True:
            pending = self._registrar.find(sop_instance_uid)
            if pending is not None:
                return pending
            if self._claims.take(sop_instance_uid):
                return None
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(_CLAIM_POLL_S)

    def _again(
        self, record: InstanceRecord, parts: tuple[Buffer, ...], sha256: str, syntax: str
    ) -> Stored:
        """The SOP Instance UID is taken: the same bytes, or others, which are kept aside."""
        if (record.sha256, record.transfer_syntax_uid) == (sha256, syntax):
            try:
                self._relies(record)
            except RaypacsError as exc:
                return _answer(record, Outcome.REFUSED, str(exc))
            return _answer(record, Outcome.KNOWN, "identical bytes were stored before")
        received = Received(
            parts,
            parts[-1],
            record.size_bytes,
            record.source,
            record.received_at_s,
            record.study_uid,
            record.sop_instance_uid,
            record.sop_class_uid,
        )
        return self._aside.conflict(received, record.sha256)

    def _relies(self, record: InstanceRecord) -> None:
        """Tell who else relies on a study that may be one of a source with archiving off.

        Raises:
            MasterUnavailable: it was not heard.
        """
        sources = self._settings.sources
        sender = (record.study_uid, record.source, record.peer)
        ours = source_of(sources, record.source, record.peer)
        if sender in self._relying or all(one.archiving for one in sources):
            return
        if ours is not None and not ours.archiving:
            return
        self._registrar.flush(_CLAIM_WAIT_S)
        self._ports.other_sender(*sender)
        self._relying.append(sender)

    def _write(self, record: InstanceRecord, parts: tuple[Buffer, ...]) -> InstanceRecord:
        """Write an instance durably on the first image tier with room.

        Raises:
            TierFull, TierUnavailable: no tier took it.
        """
        path = layout.instance(
            record.study_uid, record.series_uid, record.sop_instance_uid, layout.new_token()
        )
        first = first_tier(self._settings.sources, record.source, record.peer)
        tier = self._tiers.put(path, parts, record.size_bytes, record.study_uid, first=first)
        return replace(record, tier=tier, path=path)

    def _registered(self, record: InstanceRecord, answer: Registered) -> None:
        """The index has answered for a record (from the registrar's thread)."""
        if answer.outcome is Outcome.KNOWN:
            # Another node was first with the same bytes; ours was never served.
            try:
                self._tiers[record.tier].delete(record.path)
            except (NotFound, TierUnavailable) as exc:
                LOG.warning("a duplicate could not be deleted: %s", type(exc).__name__)
        self._markers.leave(record.tier, record.study_uid)
        self._claims.release(record.sop_instance_uid)

    def _background(self) -> None:
        self._aside.report()
        self._markers.sweep()
        self._tell_learned()
        try:
            self._room.refill()
        except (RaypacsError, OSError) as exc:
            LOG.warning("no room was taken in the background: %s", type(exc).__name__)

    def _tell_learned(self) -> None:
        """Tell the index checksums of what was adopted; untold, they are read once more."""
        told = [self._learned.popleft() for _ in range(len(self._learned))]
        try:
            if told:
                self._ports.checksums(told)
        except (RaypacsError, OSError) as exc:
            LOG.warning("checksums were not told: %s", type(exc).__name__)


def _check_command(
    record: InstanceRecord, sop_class_uid: str | None, sop_instance_uid: str | None
) -> None:
    """Raise where the command (or file meta) and the data set name different things."""
    for told, found, what in (
        (sop_class_uid, record.sop_class_uid, "SOP Class UID"),
        (sop_instance_uid, record.sop_instance_uid, "SOP Instance UID"),
    ):
        if told is not None and told != found:
            raise MalformedInstance(
                f"{what} of the data set differs from the announced one",
                status=DATA_SET_MISMATCH,
                told=told,
                found=found,
            )


def _meta_of(sop_class: str | None, sop_instance: str | None, syntax: str, source: str) -> bytes:
    """File meta of a malformed object, from what the command said of it."""
    return file_meta(sop_class or "", sop_instance or "", syntax, source)


_STATUS = {
    Outcome.STORED: SUCCESS,
    Outcome.KNOWN: SUCCESS,
    Outcome.CONFLICT: DUPLICATE_SOP_INSTANCE,
    Outcome.REFUSED: OUT_OF_RESOURCES,
}


def _answer(record: InstanceRecord, outcome: Outcome, reason: str = "") -> Stored:
    return Stored(
        outcome,
        _STATUS[outcome],
        reason,
        record.sop_instance_uid,
        record.sop_class_uid,
        record.study_uid,
    )
