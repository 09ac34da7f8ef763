"""The write side of the index: the master's, and nobody else's.

Every write is ONE transaction that first checks that no later epoch was claimed (``writing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.errors import IndexRefused, RaypacsError
from raypacs.index import audit, deletion, ledger, queue, registration, relocation, settings
from raypacs.index.adopt_writes import AdoptWrites
from raypacs.index.archive_writes import ArchiveWrites
from raypacs.index.audit import OutboxRow
from raypacs.index.deletion import DeleteIntent
from raypacs.index.engine import changes, insert
from raypacs.index.erase_writes import EraseWrites
from raypacs.index.evict_writes import EvictWrites
from raypacs.index.forecast_writes import ForecastWrites
from raypacs.index.ledger import LedgerRow, TierSeen
from raypacs.index.node_writes import NodeWrites
from raypacs.index.placing_writes import PlacingWrites
from raypacs.index.queue_writes import QueueWrites
from raypacs.index.schema import meta
from raypacs.index.seal_writes import SealWrites
from raypacs.index.site_writes import SiteWrites
from raypacs.index.study_writes import StudyWrites
from raypacs.index.tiering_writes import TieringWrites
from raypacs.index.writing import Writing
from raypacs.records import (
    AsideRecord,
    InstanceRecord,
    Registered,
)


class IndexWriter(
    QueueWrites,
    NodeWrites,
    SealWrites,
    SiteWrites,
    AdoptWrites,
    EvictWrites,
    ArchiveWrites,
    PlacingWrites,
    StudyWrites,
    EraseWrites,
    ForecastWrites,
    TieringWrites,
    Writing,
):
    """All writes, under one epoch. Thread-safe: one transaction at a time.

    Every method may raise StaleEpoch: then nothing was changed, and this master must stop.
    """

    # Receiving

    def register(
        self, records: Sequence[InstanceRecord], now: float, *, holder: str = ""
    ) -> list[Registered]:
        """Register a batch (answers in its order); its bytes leave ``holder``'s grants.

        Raises:
            IndexRefused: one of the records cannot be written; none was.
            IndexUnavailable: the database takes no writes just now.
        """
        with _refusals(), self.transaction(now, durable=True) as txn:
            due_s = now + settings.read(txn.conn)[1].quiet_s
            return registration.register(txn, records, holder=holder, due_s=due_s)

    def relocate(self, record: InstanceRecord, lost: tuple[str, str], now: float) -> bool:
        """Serve an instance from ``record``'s place, as ``lost`` (tier, path) is empty."""
        with self.transaction(now, durable=True) as txn:
            quiet_s = settings.read(txn.conn)[1].quiet_s
            return relocation.relocate(txn, record, lost, quiet_s=quiet_s)

    def aside(self, record: AsideRecord, now: float, *, holder: str = "") -> None:
        """Write down a conflict or a quarantined object. Raises as :meth:`register`."""
        with _refusals(), self.transaction(now, durable=True) as txn:
            registration.aside(txn, record, holder=holder)

    def hint_complete(self, study_uids: Iterable[str], now: float) -> None:
        """Let these studies be prepared without waiting for quiet; failed ones are tried again."""
        uids = list(study_uids)
        with self.transaction(now) as txn:
            registration.hint_complete(txn, uids)
            queue.ask_again(txn, uids)

    def touched(self, study_uids: Iterable[str], now: float) -> None:
        """Note that these studies were accessed."""
        with self.transaction(now) as txn:
            registration.touched(txn, study_uids)

    # Deleting

    def delete_study(
        self, study_uid: str, now: float, *, grace_s: float = 0.0, who: str = ""
    ) -> list[DeleteIntent]:
        """Take the study out and return its objects, to be deleted after the grace period.

        Raises:
            NotFound: no such study.
        """
        with self.transaction(now, durable=True) as txn:
            return deletion.delete_study(txn, study_uid, grace_s=grace_s, who=who)

    def deletes_due(self, now: float, *, tier: str, limit: int = 1000) -> list[DeleteIntent]:
        """Return intents of a tier whose grace period is over."""
        with self.transaction(now) as txn:
            return deletion.due(txn.conn, tier, now, limit)

    def confirm_deleted(self, intent_ids: Iterable[int], now: float) -> int:
        """Forget intents whose bytes are gone; the ledger gets the bytes back."""
        with self.transaction(now) as txn:
            return deletion.confirm_deleted(txn, intent_ids)

    # Bytes

    def tiers_seen(self, tiers: Iterable[TierSeen], now: float) -> None:
        """Keep capacity and reachability of the tiers."""
        with self.transaction(now) as txn:
            ledger.seen(txn, tiers)

    def grant(self, tier: str, holder: str, want_bytes: int, now: float, *, url: str = "") -> int:
        """Promise up to ``want_bytes``; 0 means the tier is full, or lies elsewhere than ``url``.

        A holder with older settings must not write where the tier was: nobody would look there.
        """
        with self.transaction(now) as txn:
            current = {one.name: one.url for one in settings.read(txn.conn)[1].tiers}
            if url and current.get(tier) != url:
                return 0
            return ledger.grant(txn, tier, holder, want_bytes)

    def release_grants(self, holder: str, now: float) -> int:
        """Give back what ``holder`` and ``holder/...`` were granted."""
        with self.transaction(now) as txn:
            return ledger.release(txn, holder)

    def ledger(self, now: float) -> dict[str, LedgerRow]:
        """Return every tier's account."""
        with self.transaction(now) as txn:
            return ledger.read(txn.conn)

    def recount(self, now: float) -> dict[str, int]:
        """Count used bytes per tier again, from the rows."""
        with self.transaction(now) as txn:
            return ledger.recount(txn.conn)

    # Settings, nodes, statistics

    def settings(self, now: float) -> tuple[int, Settings]:
        """Return (version, settings)."""
        with self.transaction(now) as txn:
            return settings.read(txn.conn)

    def apply_settings(
        self, new: Settings, who: str, now: float, *, expected_version: int | None = None
    ) -> int:
        """Make ``new`` the settings; return the version.

        Raises:
            AlreadyExists: another version than the expected one holds.
            ConfigError: they cannot be.
        """
        with self.transaction(now, durable=True) as txn:
            return settings.apply(txn, new, who, expected_version)

    def audit(self, event: str, now: float, **about: Any) -> None:
        """Write an audit event: study_uid, item_id, node, who, detail."""
        with self.transaction(now) as txn:
            audit.record(txn, event, **about)

    def outbox(self, now: float, limit: int = 10_000) -> list[OutboxRow]:
        """Return statistics that are not Parquet yet, oldest first."""
        with self.transaction(now) as txn:
            return audit.waiting(txn.conn, limit)

    def outbox_written(self, rows: Sequence[OutboxRow], now: float) -> None:
        """Forget statistics that are durable as Parquet."""
        with self.transaction(now) as txn:
            audit.written(txn, rows)

    def publish(self, stream: str, payloads: Sequence[dict[str, Any]], now: float) -> None:
        """Put statistics into the outbox."""
        with self.transaction(now) as txn:
            audit.publish(txn, stream, payloads)

    def sample(self, hour_s: int, payloads: Sequence[dict[str, Any]], now: float) -> bool:
        """Publish the hour's samples once; False where that was done already."""
        with self.transaction(now) as txn:
            row = {"name": "sampled_hour", "number": hour_s, "value": "", "at_s": now}
            statement = insert(txn.conn, meta).values(row)
            later = statement.on_conflict_do_update(
                index_elements=["name"],
                set_={"number": hour_s, "at_s": now},
                where=meta.c.number < hour_s,
            )
            if not changes(txn.conn, later):
                return False
            audit.publish(txn, "samples", payloads)
            return True

    def site_secret(self) -> bytes:
        """Return the key of the statistics' pseudonyms."""
        with self._engine.connect() as conn:
            value = conn.execute(
                sa.select(meta.c.value).where(meta.c.name == "site_secret")
            ).scalar_one()
        return bytes.fromhex(value)


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell what is wrong with a record from what is wrong with the database.

    The drivers' messages hold the values (patient names too), so they stay behind.
    """
    try:
        yield
    except RaypacsError:
        raise
    except (sa.exc.SQLAlchemyError, OverflowError, ValueError, TypeError) as exc:
        raise IndexRefused(f"the index cannot hold it: {type(exc).__name__}") from None
