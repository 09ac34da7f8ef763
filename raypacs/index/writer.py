"""The write side of the index: the master's, and nobody else's.

Every write is ONE transaction that first checks that no later epoch was claimed. Epoch claims,
registrations, delete intents and settings are flushed to the disk before they count (``durable``):
on a registration's answer an edge removes the marker that would find the object after a crash.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.errors import IndexRefused, RaypacsError, StaleEpoch
from raypacs.index import audit, deletion, ledger, nodes, queue, registration, relocation, settings
from raypacs.index.audit import OutboxRow
from raypacs.index.deletion import DeleteIntent
from raypacs.index.engine import Txn, insert
from raypacs.index.ledger import LedgerRow, TierSeen
from raypacs.index.report import report
from raypacs.index.schema import meta
from raypacs.policy.queue import State
from raypacs.policy.retry import Retry
from raypacs.records import (
    AsideRecord,
    InstanceRecord,
    Lease,
    NodeInfo,
    Registered,
    WorkResult,
)


class IndexWriter:
    """Writes under one epoch. Thread-safe: one transaction at a time.

    Every method may raise StaleEpoch: then nothing was changed, and this master must stop.
    ``chance`` gives random numbers from 0 to 1 for the jitter of retries.
    """

    def __init__(
        self, engine: sa.Engine, epoch: int, *, chance: Callable[[], float] = random.random
    ) -> None:
        self.epoch = epoch
        self._engine = engine
        self._chance = chance
        self._lock = threading.Lock()

    @classmethod
    def claim_epoch(
        cls,
        engine: sa.Engine,
        markers: Iterable[int],
        now: float,
        *,
        chance: Callable[[], float] = random.random,
    ) -> IndexWriter:
        """Claim 1 + max(index, markers on tiers) durably; return the writer of that epoch."""
        with _begin(engine, durable=True) as conn:
            first = [
                {"name": "epoch", "number": 0, "value": "", "at_s": now},
                {"name": "site_secret", "number": 0, "value": secrets.token_hex(32), "at_s": now},
            ]
            conn.execute(insert(conn, meta).on_conflict_do_nothing(index_elements=["name"]), first)
            epoch = 1 + max([_epoch(conn, lock=True), *markers])
            conn.execute(
                sa.update(meta).where(meta.c.name == "epoch").values(number=epoch, at_s=now)
            )
            audit.record(Txn(conn, epoch, now), "epoch", detail={"epoch": epoch})
        return cls(engine, epoch, chance=chance)

    @contextmanager
    def transaction(self, now: float, *, durable: bool = False) -> Iterator[Txn]:
        """Open an epoch-checked transaction. Raises StaleEpoch."""
        with self._lock, _begin(self._engine, durable=durable) as conn:
            claimed = _epoch(conn, lock=False)
            if claimed != self.epoch:
                raise StaleEpoch(
                    f"epoch {claimed} was claimed; this master is of epoch {self.epoch}",
                    epoch=self.epoch,
                    claimed=claimed,
                )
            yield Txn(conn, self.epoch, now)

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
            quiet_s = settings.read(txn.conn)[1].quiet_s
            return registration.register(txn, records, holder=holder, quiet_s=quiet_s)

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

    # The work queue

    def enqueue_due(self, now: float) -> int:
        """Make items for studies that became quiet; return how many."""
        with self.transaction(now) as txn:
            return queue.enqueue_due(txn)

    def lease(self, node: str, kinds: Sequence[str], limit: int, now: float) -> list[Lease]:
        """Give ``node`` up to ``limit`` items of ``kinds``."""
        with self.transaction(now) as txn:
            return queue.lease(txn, node, kinds, limit, settings.read(txn.conn)[1].lease_s)

    def renew(self, lease: Lease, now: float) -> Lease:
        """Extend a lease. Raises StaleLease."""
        with self.transaction(now) as txn:
            return queue.renew(txn, lease, settings.read(txn.conn)[1].lease_s)

    def report(self, lease: Lease, result: WorkResult, now: float) -> State:
        """End an attempt; the same report again changes nothing. Raises StaleLease."""
        with self.transaction(now) as txn:
            return report(txn, lease, result, _retry(txn), self._chance())

    def expire(self, now: float) -> list[Lease]:
        """End leases that ran out; return the dead attempts."""
        with self.transaction(now) as txn:
            return queue.expire(txn, _retry(txn), self._chance())

    def sweepable(self, now: float, limit: int = 100) -> list[tuple[str, str, int]]:
        """Return dead attempts to sweep: (token, study UID, sweeps done)."""
        with self.transaction(now) as txn:
            return queue.sweepable(txn.conn, now, limit)

    def swept(self, token: str, now: float, *, again_s: float | None) -> None:
        """Note a sweep; once more at ``again_s``, or never."""
        with self.transaction(now) as txn:
            queue.swept(txn, token, again_s=again_s)

    def live_tokens(self, now: float) -> set[str]:
        """Return the tokens of running attempts."""
        with self.transaction(now) as txn:
            return queue.live_tokens(txn.conn)

    # Deleting

    def delete_study(
        self, study_uid: str, now: float, *, grace_s: float = 0.0
    ) -> list[DeleteIntent]:
        """Take the study out and return its objects, to be deleted after the grace period.

        Raises:
            NotFound: no such study.
        """
        with self.transaction(now, durable=True) as txn:
            return deletion.delete_study(txn, study_uid, grace_s=grace_s)

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

    def grant(self, tier: str, holder: str, want_bytes: int, now: float) -> int:
        """Promise up to ``want_bytes``; 0 means the tier is full."""
        with self.transaction(now) as txn:
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

    def apply_settings(self, new: Settings, who: str, now: float) -> int:
        """Make ``new`` the settings; return the version. Raises ConfigError."""
        with self.transaction(now, durable=True) as txn:
            return settings.apply(txn, new, who)

    def node_seen(self, node: NodeInfo, now: float) -> None:
        """Note a node's heartbeat."""
        with self.transaction(now) as txn:
            nodes.seen(txn, node)

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
            changed = txn.conn.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"number": hour_s, "at_s": now},
                    where=meta.c.number < hour_s,
                )
            )
            if not changed.rowcount:
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


def _retry(txn: Txn) -> Retry:
    now = settings.read(txn.conn)[1]
    return Retry(now.max_attempts, now.retry_base_s, now.retry_cap_s)


def _epoch(conn: sa.Connection, *, lock: bool) -> int:
    """Read the claimed epoch; PostgreSQL keeps the row locked until commit (SQLite has one writer).

    A claim takes the row for itself, other writes share it, so no claim slips in between.
    """
    query = sa.select(meta.c.number).where(meta.c.name == "epoch").with_for_update(read=not lock)
    return int(conn.execute(query).scalar() or 0)


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


@contextmanager
def _begin(engine: sa.Engine, *, durable: bool) -> Iterator[sa.Connection]:
    """Begin a write transaction; ``durable`` flushes SQLite's log on commit (PostgreSQL does)."""
    with engine.connect() as conn:
        switch = durable and conn.dialect.name == "sqlite"
        raw: Any = conn.connection.driver_connection
        if switch:
            raw.execute("PRAGMA synchronous=FULL")
        try:
            with conn.begin():
                yield conn
        finally:
            if switch:
                raw.execute("PRAGMA synchronous=NORMAL")
