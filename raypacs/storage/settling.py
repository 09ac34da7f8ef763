"""What was received, and is served from an archive that was adopted: the same, or other bytes?

An adopted instance has no SHA-256 until somebody read it. Where the index cannot tell (UNDECIDED),
the edge reads the adopted file, tells its checksum, and asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from raypacs.errors import NotFound, TierUnavailable
from raypacs.records import AsideRecord, InstanceRecord, Outcome, Registered
from raypacs.storage.answers import IntakePorts
from raypacs.storage.aside import CONFLICT_REASON
from raypacs.storage.checksums import dataset_sha256
from raypacs.storage.tier import Tier

LOG = logging.getLogger(__name__)
_GONE = f"{CONFLICT_REASON}; those were adopted and cannot be compared any more"


class Tiers(Protocol):
    """Tiers by name."""

    def __getitem__(self, name: str) -> Tier:
        """Return a tier. Raises KeyError."""


def served_sha256(tiers: Tiers, served: InstanceRecord) -> str:
    """Return the SHA-256 of a served instance that has none; '' where its file is not what it was.

    Raises:
        TierUnavailable: it cannot be read just now.
    """
    try:
        return dataset_sha256(tiers[served.tier], served)
    except KeyError:  # adopted a moment ago: this process has older settings
        raise TierUnavailable(f"no tier {served.tier!r} here yet", tier=served.tier) from None
    except NotFound as exc:
        LOG.warning("cannot be compared: %s", exc, extra={"tier": served.tier})
        return ""


def register_decided(
    ports: IntakePorts, tiers: Tiers, records: list[InstanceRecord]
) -> list[Registered]:
    """Register; what the index cannot decide is decided here. What has no answer waits."""
    answers = ports.register(records)
    undecided = {answer.path for answer in answers if answer.outcome is Outcome.UNDECIDED}
    if not undecided:
        return answers
    decided = [answer for answer in answers if answer.path not in undecided]
    for record in (one for one in records if one.path in undecided):
        decided += _decided(ports, tiers, record)
    return decided


def _decided(ports: IntakePorts, tiers: Tiers, record: InstanceRecord) -> Sequence[Registered]:
    uids = (record.study_uid, record.series_uid, record.sop_instance_uid)
    served = ports.served(*uids)
    if served is not None and not served.sha256:
        try:
            sha256 = served_sha256(tiers, served)
        except TierUnavailable as exc:
            LOG.warning("an instance waits: %s", exc, extra={"tier": served.tier})
            return []
        if not sha256:
            ports.aside(AsideRecord.conflict(record, _GONE))
            return [Registered(record.sop_instance_uid, record.path, Outcome.CONFLICT)]
        ports.checksums([(served, sha256)])
    answers = ports.register([record])
    return [answer for answer in answers if answer.outcome is not Outcome.UNDECIDED]
