"""After a crash: register what is durable and marked, but not in the index."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from raypacs import layout
from raypacs.dicom import describe, split_part10
from raypacs.errors import AlreadyExists, MalformedInstance, NotFound
from raypacs.records import AsideRecord, InstanceRecord, Outcome, Registered
from raypacs.storage.tier import ObjectInfo, Tier

LOG = logging.getLogger(__name__)
_BATCH = 200


class Ports(Protocol):
    """What recovery asks of the index (a part of the intake's ports)."""

    @property
    def known(self) -> Callable[[str], tuple[str, str, str] | None]:
        """(sha256, transfer syntax UID, path) of the served instance, or None."""

    @property
    def register(self) -> Callable[[list[InstanceRecord]], list[Registered]]:
        """Register records; idempotent."""

    @property
    def aside(self) -> Callable[[AsideRecord], None]:
        """Report an object that is kept aside."""


def recover(tier: Tier, ports: Ports, lost: Callable[[str], bool]) -> int:
    """Register the unregistered instances of every marked study of ``tier``; return how many.

    ``lost`` says of the name of a process run if it is gone; the markers of others stay.
    A marker goes only after all of its study is registered, so a crash in here starts it again.
    """
    registered = 0
    for marker in list(tier.walk("intake/")):
        boot, _, study_uid = marker.path.removeprefix("intake/").partition(".")
        if not lost(boot):
            continue
        for batch in _batches(_unregistered(tier, ports, study_uid)):
            registered += _register(tier, ports, batch)
        try:
            tier.delete(marker.path)
        except NotFound:
            pass  # another process recovers at the same time
    if registered:
        LOG.info("recovered %d instances on tier %s", registered, tier.name)
    return registered


def _unregistered(tier: Tier, ports: Ports, study_uid: str) -> Iterator[InstanceRecord]:
    for info in tier.walk(layout.study_prefix(study_uid)):
        sop_uid, _, rest = info.path.rpartition("/")[2].rpartition(".")[0].rpartition(".")
        known = ports.known(sop_uid) if rest else None
        if known is not None and known[2] == info.path:
            continue
        try:
            yield _describe(tier, info)
        except MalformedInstance as exc:
            _quarantine(tier, ports, info, str(exc))
        except NotFound:
            continue  # deleted while we walk


def _describe(tier: Tier, info: ObjectInfo) -> InstanceRecord:
    data = tier.read(info.path)
    part10 = split_part10(data)
    record = describe(
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
    return replace(record, tier=tier.name)


def _quarantine(tier: Tier, ports: Ports, info: ObjectInfo, reason: str) -> None:
    """Move what should never have been there out of the studies, never losing it."""
    path = layout.quarantine(info.modified_s, layout.new_token())
    data = tier.read(info.path)
    tier.put_durable(path, data)
    told = {"reason": reason, "found_at": info.path, "size_bytes": info.size_bytes}
    try:
        tier.put_durable(path.removesuffix(".dcm") + ".json", json.dumps(told).encode())
    except AlreadyExists:
        pass
    ports.aside(
        AsideRecord(
            outcome=Outcome.QUARANTINED,
            tier=tier.name,
            path=path,
            size_bytes=info.size_bytes,
            reason=reason,
            source="recovery",
            received_at_s=info.modified_s,
            sha256=hashlib.sha256(data).hexdigest(),
        )
    )
    tier.delete(info.path)


def _register(tier: Tier, ports: Ports, batch: list[InstanceRecord]) -> int:
    kept = 0
    for answer in ports.register(batch):
        if answer.outcome is Outcome.KNOWN:
            try:
                tier.delete(answer.path)
            except NotFound:
                pass
        else:
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
