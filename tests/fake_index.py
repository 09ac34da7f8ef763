"""An index in memory behind the intake's ports, with switches for what can go wrong."""

from __future__ import annotations

import threading
from pathlib import Path

from raypacs.config import Settings, TierSettings
from raypacs.errors import IndexRefused, MasterUnavailable
from raypacs.records import AsideRecord, InstanceRecord, Outcome, Registered
from raypacs.storage.intake import Intake, IntakePorts
from raypacs.storage.tier import Tier, open_tier


class FakeIndex:
    """Registers as the real one: the first wins, the same record again changes nothing."""

    def __init__(self) -> None:
        self.instances: dict[str, InstanceRecord] = {}
        self.asides: list[AsideRecord] = []
        self.batches: list[int] = []
        self.down = False
        self.doomed: set[str] = set()  # paths with a delete intent
        self.refused: set[str] = set()  # SOP Instance UIDs that it cannot hold
        self.room_bytes: dict[str, int] = {}  # tiers that are not without limit
        self._lock = threading.Lock()

    def known(self, sop_instance_uid: str) -> tuple[str, str, str] | None:
        record = self.instances.get(sop_instance_uid)
        return record and (record.sha256, record.transfer_syntax_uid, record.path)

    def register(self, records: list[InstanceRecord]) -> list[Registered]:
        if self.down:
            raise MasterUnavailable("no master")
        if any(record.sop_instance_uid in self.refused for record in records):
            raise IndexRefused("the index cannot hold it: OverflowError")
        with self._lock:
            self.batches.append(len(records))
            return [Registered(r.sop_instance_uid, r.path, self._one(r)) for r in records]

    def _one(self, record: InstanceRecord) -> Outcome:
        if record.path in self.doomed:
            return Outcome.REFUSED
        first = self.instances.setdefault(record.sop_instance_uid, record)
        if (first.tier, first.path) == (record.tier, record.path):
            return Outcome.STORED
        same = (first.sha256, first.transfer_syntax_uid) == (
            record.sha256,
            record.transfer_syntax_uid,
        )
        return Outcome.KNOWN if same else Outcome.CONFLICT

    def aside(self, record: AsideRecord) -> None:
        if self.down:
            raise MasterUnavailable("no master")
        if record.path not in {aside.path for aside in self.asides}:
            self.asides.append(record)

    def grant(self, tier: str, size_bytes: int) -> int:
        if tier not in self.room_bytes:
            return size_bytes
        granted = min(size_bytes, self.room_bytes[tier])
        self.room_bytes[tier] -= granted
        return granted

    def aside_known(self, sop_instance_uid: str, sha256: str) -> bool:
        return (sop_instance_uid, sha256) in {(a.sop_instance_uid, a.sha256) for a in self.asides}

    def ports(self) -> IntakePorts:
        return IntakePorts(self.known, self.register, self.aside, self.grant, self.aside_known)


def image_tier(folder: Path, name: str = "image1") -> Tier:
    return open_tier(TierSettings(name=name, role="image", url=folder.as_uri()))


def make_intake(
    tmp_path: Path,
    index: FakeIndex,
    *,
    tiers: list[Tier] | None = None,
    boot: str = "boot1",
    **settings: object,
) -> Intake:
    """An intake below ``tmp_path``: tier ``image``, claims ``claims``."""
    return Intake(
        tiers or [image_tier(tmp_path / "image")],
        index.ports(),
        claims_dir=tmp_path / "claims",
        boot=boot,
        settings=Settings.model_validate({"register_interval_s": 0.02} | settings),
    )
