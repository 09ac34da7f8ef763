"""The one way to write to the index: a transaction that first checks the epoch.

Epoch claims, registrations, delete intents and settings are flushed to the disk before they count
(``durable``): on a registration's answer an edge removes the marker that would find the object
after a crash.
"""

from __future__ import annotations

import json
import random
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa

from raypacs import process
from raypacs.errors import ConfigError, IndexUnavailable, StaleEpoch
from raypacs.index import audit, settings, site
from raypacs.index.claiming import LOCK_WAIT_S, Hold, claiming, flushed, flushing
from raypacs.index.engine import Txn, insert
from raypacs.index.schema import meta
from raypacs.policy.retry import Retry


class Writing:
    """An engine, an epoch, and transactions under it; what the write sides are built on.

    ``chance`` gives random numbers from 0 to 1 for the jitter of retries; ``hold`` is what the
    claim took beside the epoch.
    """

    def __init__(
        self,
        engine: sa.Engine,
        epoch: int,
        hold: Hold,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.epoch = epoch
        self._engine = engine
        self._hold = hold
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
        claimer: Mapping[str, Any] | None = None,
        chance: Callable[[], float] = random.random,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> Self:
        """Claim 1 + max(index, markers on tiers) durably; return the writer of that epoch.

        Where the markers' epoch, or ``sequence`` of their changes, is ahead of the index, the
        index is an older one that was restored: nothing is deleted until it was reconciled.
        ``claimer`` is :func:`raypacs.process.identity`, this process's by default. An older master
        that is frozen does not hold this up for longer than ``lock_wait_s`` (``claiming``).

        Raises:
            ConfigError: the index was moved to another database.
            IndexUnavailable: the database does not work, or another program holds its lock.
        """
        claimer = claimer or process.identity()
        with claiming(engine, wait_s=lock_wait_s) as conn:
            _check_moved(conn)
            known, newest = _first(conn, now), max(markers, default=0)
            epoch = 1 + max(known, newest)
            behind = _behind(conn, known, newest, sequence)
            txn = Txn(conn, epoch, now)
            site.put(txn, "epoch", epoch, "")
            site.put(txn, "master", epoch, json.dumps(dict(claimer)))
            detail = {"epoch": epoch, "pid": claimer.get("pid"), "host": claimer.get("host")}
            audit.record(txn, "epoch", node=str(claimer.get("node", "")), detail=detail)
            if behind:
                site.need_reconcile(txn, behind)
        return cls(engine, epoch, Hold(engine, epoch, claimer), chance=chance)

    @contextmanager
    def transaction(self, now: float, *, durable: bool = False) -> Iterator[Txn]:
        """Open an epoch-checked transaction. Raises StaleEpoch, IndexUnavailable."""
        with self._lock, self._told(), _begin(self._engine, durable=durable) as conn:
            claimed = _shared_epoch(conn, durable=durable)
            if claimed != self.epoch:
                raise StaleEpoch(
                    f"epoch {claimed} was claimed; this master is of epoch {self.epoch}",
                    epoch=self.epoch,
                    claimed=claimed,
                )
            self._hold.keep()
            yield Txn(conn, self.epoch, now)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except IndexUnavailable:
            # With the connection the session that holds the lock may be gone.
            self._hold.lost = True
            raise


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


def _check_moved(conn: sa.Connection) -> None:
    moved = conn.execute(sa.select(meta.c.value).where(meta.c.name == "moved_to")).scalar()
    if moved:
        raise ConfigError(
            f"this index was moved to {moved}",
            hint="set index_url to that database on every node",
            moved_to=moved,
        )


def _first(conn: sa.Connection, now: float) -> int:
    """Write what a site is born with, once; return the epoch that was claimed last."""
    born = [
        {"name": "epoch", "number": 0, "value": "", "at_s": now},
        {"name": "site_secret", "number": 0, "value": secrets.token_hex(32), "at_s": now},
        {"name": "site_id", "number": 0, "value": secrets.token_hex(8), "at_s": now},
    ]
    conn.execute(insert(conn, meta).on_conflict_do_nothing(index_elements=["name"]), born)
    # Locked once more: at the very first claim there was no row to lock before.
    query = sa.select(meta.c.number).where(meta.c.name == "epoch").with_for_update()
    return int(conn.execute(query).scalar_one())


def _shared_epoch(conn: sa.Connection, *, durable: bool) -> int:
    """Read the claimed epoch, so that no claim slips in before this transaction's commit.

    On SQLite there is one writer at a time. On PostgreSQL the row is locked as shared, a claim
    takes it for itself; the commit is not waited for unless ``durable``.
    """
    columns: list[Any] = [meta.c.number]
    if conn.dialect.name == "postgresql":
        columns.append(flushing(wanted=durable))
    query = sa.select(*columns).where(meta.c.name == "epoch").with_for_update(read=True)
    row = conn.execute(query).one_or_none()
    return int(row[0]) if row else 0


@contextmanager
def _begin(engine: sa.Engine, *, durable: bool) -> Iterator[sa.Connection]:
    """Begin a write transaction."""
    with engine.connect() as conn, flushed(conn, switch=durable), conn.begin():
        yield conn
