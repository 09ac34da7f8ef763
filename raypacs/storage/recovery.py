"""After a crash: register what is durable and marked, but not in the index.

One bad object keeps back no other: it is reported, or (unreadable just now) left under its marker.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from raypacs import layout
from raypacs.dicom import Part10, describe, split_part10
from raypacs.errors import (
    AlreadyExists,
    IndexRefused,
    MalformedInstance,
    NotFound,
    TierFull,
    TierUnavailable,
)
from raypacs.records import AsideRecord, InstanceRecord, Outcome
from raypacs.storage import registrar
from raypacs.storage.aside import CONFLICT_REASON
from raypacs.storage.registrar import enrol
from raypacs.storage.tier import ObjectInfo, Tier

LOG = logging.getLogger(__name__)
_BATCH = 200


class Ports(registrar.Ports, Protocol):
    """What recovery asks of the index (a part of the intake's ports)."""

    @property
    def known(self) -> Callable[[str], tuple[str, str, str] | None]:
        """(sha256, transfer syntax UID, path) of the served instance, or None."""


def recover(tier: Tier, ports: Ports, lost: Callable[[str], bool]) -> int:
    """Register the unregistered instances of every marked study of ``tier``; return how many.

    ``lost`` says of the name of a process run if it is gone; the markers of others stay.
    A marker goes only after all of its study is registered, so a crash in here starts it again.

    Raises:
        MasterUnavailable: the index does not answer.
    """
    registered = 0
    for marker in list(tier.walk("intake/")):
        boot, _, marked = marker.path.removeprefix("intake/").partition(".")
        if not lost(boot):
            continue
        found = _Marked(tier, ports, marked)
        for batch in _batches(found.unregistered()):
            registered += _register(tier, ports, batch, found)
        found.report_asides()
        if not found.whole:
            continue
        try:
            tier.delete(marker.path)
        except NotFound:
            pass  # another process recovers at the same time
        except TierUnavailable as exc:
            LOG.warning("a marker stays: %s", exc, extra={"tier": tier.name})
    if registered:
        LOG.info("recovered %d instances on tier %s", registered, tier.name)
    return registered


class _Marked:
    """A marked study or day of quarantine; ``whole`` is False when some could not be read."""

    def __init__(self, tier: Tier, ports: Ports, marked: str) -> None:
        self._tier = tier
        self._ports = ports
        self._marked = marked
        self.whole = True

    def unregistered(self) -> Iterator[InstanceRecord]:
        """Yield the records of files that the index does not serve."""
        for info in self._tier.walk(layout.study_prefix(self._marked)):
            if layout.is_manifest(info.path):
                continue
            known = self._ports.known(sop_uid_of(info.path))
            if known is not None and known[2] == info.path:
                continue
            try:
                yield describe_stored(self._tier, info)
            except MalformedInstance as exc:
                self._quarantine(info, str(exc))
            except NotFound:
                continue  # deleted while we walk
            except TierUnavailable as exc:
                self._leave(info, exc)

    def report_asides(self) -> None:
        """Report objects kept aside; the index takes each place only once."""
        for info in self._tier.walk(layout.aside_prefix(self._marked)):
            if not info.path.endswith(".dcm"):
                continue
            try:
                self._ports.aside(describe_aside(self._tier, info))
            except NotFound:
                continue
            except TierUnavailable as exc:
                self._leave(info, exc)
            except IndexRefused as exc:
                LOG.error("cannot be reported: %s", exc, extra={"path": info.path})

    def _leave(self, info: ObjectInfo, exc: TierUnavailable) -> None:
        LOG.error("not recovered: %s", exc, extra={"tier": self._tier.name, "path": info.path})
        self.whole = False

    def _quarantine(self, info: ObjectInfo, reason: str) -> None:
        """Move what should never have been there out of the studies, never losing it."""
        try:
            data = self._tier.read(info.path)
        except NotFound:
            return
        except TierUnavailable as exc:
            self._leave(info, exc)
            return
        path = layout.quarantine(info.modified_s, layout.new_token())
        try:
            if self._tier.settings.read_only:
                raise TierFull("the tier takes no new objects")
            self._tier.put_durable(path, data)
            told = {"reason": reason, "found_at": info.path, "size_bytes": info.size_bytes}
            self._tier.put_durable(layout.quarantine_reason(path), json.dumps(told).encode())
        except (TierFull, TierUnavailable, AlreadyExists) as exc:
            LOG.warning("a malformed object stays where it is: %s", exc)
            if not self._tier.exists(path):
                path = info.path
        self._ports.aside(
            AsideRecord(
                outcome=Outcome.QUARANTINED,
                tier=self._tier.name,
                path=path,
                size_bytes=info.size_bytes,
                reason=reason,
                source="recovery",
                received_at_s=info.modified_s,
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
        if path != info.path:
            self._tier.delete(info.path)


def sop_uid_of(path: str) -> str:
    """SOP Instance UID from a path ``.../{SOP}.{token}.dcm``, '' where there is none."""
    return path.rpartition("/")[2].rpartition(".")[0].rpartition(".")[0]


def describe_stored(tier: Tier, info: ObjectInfo) -> InstanceRecord:
    """Describe an instance as received, from its bytes.

    Raises:
        MalformedInstance, NotFound, TierUnavailable.
    """
    data = tier.read(info.path)
    part10 = split_part10(data)
    return describe(
        data,
        transfer_syntax_uid=part10.transfer_syntax_uid,
        dataset_offset=part10.dataset_offset,
        tier=tier.name,
        path=info.path,
        size_bytes=info.size_bytes,
        sha256=hashlib.sha256(memoryview(data)[part10.dataset_offset :]).hexdigest(),
        source=part10.source_ae,
        received_at_s=info.modified_s,
    )


def describe_aside(tier: Tier, info: ObjectInfo) -> AsideRecord:
    """Describe an object kept aside from its path, its bytes and the reason beside it."""
    data = tier.read(info.path)
    try:
        part10 = split_part10(data)
    except MalformedInstance:
        part10 = Part10("", "", "", 0)
    record = AsideRecord(
        outcome=Outcome.QUARANTINED,
        tier=tier.name,
        path=info.path,
        size_bytes=info.size_bytes,
        reason="found after a crash, its reason was not written",
        source=part10.source_ae or "recovery",
        received_at_s=info.modified_s,
        sha256=hashlib.sha256(memoryview(data)[part10.dataset_offset :]).hexdigest(),
    )
    if info.path.startswith("conflicts/"):
        return replace(
            record,
            outcome=Outcome.CONFLICT,
            reason=CONFLICT_REASON,
            study_uid=layout.marked_by(info.path),
            sop_instance_uid=sop_uid_of(info.path),
        )
    try:
        told = dict(json.loads(tier.read(layout.quarantine_reason(info.path))))
    except (NotFound, ValueError, TypeError):
        return record
    return replace(
        record,
        reason=str(told.get("reason", record.reason)),
        source=str(told.get("source", record.source)),
        sop_instance_uid=str(told.get("sop_instance_uid", "")),
        sha256=str(told.get("sha256", record.sha256)),
    )


def _register(tier: Tier, ports: Ports, batch: list[InstanceRecord], found: _Marked) -> int:
    kept = 0
    answers = enrol(ports, batch)
    if len(answers) < len(batch):
        found.whole = False
    for answer in answers:
        if answer.outcome is Outcome.KNOWN:
            try:
                tier.delete(answer.path)
            except (NotFound, TierUnavailable) as exc:
                LOG.warning("a duplicate could not be deleted: %s", type(exc).__name__)
        elif answer.outcome in (Outcome.STORED, Outcome.CONFLICT):
            kept += 1
    return kept


def _batches(records: Iterator[InstanceRecord]) -> Iterator[list[InstanceRecord]]:
    batch: list[InstanceRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
