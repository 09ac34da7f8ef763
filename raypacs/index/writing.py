"""The one way to write to the index: a transaction that first checks the epoch.

Epoch claims, registrations, delete intents and settings are flushed to the disk before they count
(``durable``): on a registration's answer an edge removes the marker that would find the object
after a crash.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa

from raypacs.errors import StaleEpoch
from raypacs.index import audit, settings, site
from raypacs.index.engine import Txn, insert
from raypacs.index.schema import meta
from raypacs.policy.retry import Retry


class Writing:
    """An engine, an epoch, and transactions under it; what the write sides are built on.

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
        sequence: int = 0,
        chance: Callable[[], float] = random.random,
    ) -> Self:
        """Claim 1 + max(index, markers on tiers) durably; return the writer of that epoch.

        Where the markers' epoch, or ``sequence`` of their changes, is ahead of the index, the
        index is an older one that was restored: nothing is deleted until it was reconciled.
        """
        with _begin(engine, durable=True) as conn:
            first = [
                {"name": "epoch", "number": 0, "value": "", "at_s": now},
                {"name": "site_secret", "number": 0, "value": secrets.token_hex(32), "at_s": now},
                {"name": "site_id", "number": 0, "value": secrets.token_hex(8), "at_s": now},
            ]
            conn.execute(insert(conn, meta).on_conflict_do_nothing(index_elements=["name"]), first)
            known, newest = _epoch(conn, lock=True), max(markers, default=0)
            epoch = 1 + max(known, newest)
            behind = _behind(conn, known, newest, sequence)
            conn.execute(
                sa.update(meta).where(meta.c.name == "epoch").values(number=epoch, at_s=now)
            )
            txn = Txn(conn, epoch, now)
            audit.record(txn, "epoch", detail={"epoch": epoch})
            if behind:
                site.need_reconcile(txn, behind)
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


def retry_of(txn: Txn) -> Retry:
    """Return the retry of the settings."""
    now = settings.read(txn.conn)[1]
    return Retry(now.max_attempts, now.retry_base_s, now.retry_cap_s)


def _behind(conn: sa.Connection, known: int, newest: int, sequence: int) -> str:
    """Say how the index is behind what its tiers' markers tell; '' if it is not."""
    if newest > known:
        return f"a tier carries epoch {newest}, the index knows {known}: it is an older one"
    changes = site.sequence(conn)
    if sequence > changes:
        return f"a tier carries change {sequence}, the index knows {changes}: it is an older one"
    return ""


def _epoch(conn: sa.Connection, *, lock: bool) -> int:
    """Read the claimed epoch; PostgreSQL keeps the row locked until commit (SQLite has one writer).

    A claim takes the row for itself, other writes share it, so no claim slips in between.
    """
    query = sa.select(meta.c.number).where(meta.c.name == "epoch").with_for_update(read=not lock)
    return int(conn.execute(query).scalar() or 0)


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
