"""The one work queue: items are enqueued, leased, renewed, and expire.

A lease is (item, attempt, token, expiry). It stays good under a later epoch, because the index,
not the master, holds it. Reports are in ``report.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.errors import StaleLease
from raypacs.index import audit
from raypacs.index.engine import Txn, add, in_lists
from raypacs.index.schema import dead_attempts, studies, work_items
from raypacs.layout import new_token
from raypacs.policy.queue import FINISHED, WAITING, Event, Priority, State, transition
from raypacs.policy.retry import Retry
from raypacs.records import Lease

PREPARE = "PREPARE"


def enqueue_due(txn: Txn) -> int:
    """Make a PREPARE item for every study that became quiet; return how many were made."""
    due = txn.conn.execute(
        sa.select(studies.c.study_uid, studies.c.generation, studies.c.instance_count)
        .where(studies.c.prepare_due_s <= txn.now)
        .order_by(studies.c.prepare_due_s)
    ).all()
    made = 0
    for study in due:
        txn.conn.execute(
            sa.update(studies)
            .where(studies.c.study_uid == study.study_uid)
            .values(prepare_due_s=None)
        )
        if unprepared_count(txn.conn, study.study_uid):
            made += enqueue(txn, PREPARE, study.study_uid, study.generation)
    return made


def enqueue(txn: Txn, kind: str, study_uid: str, generation: int) -> bool:
    """Make a waiting item, or let the one that waits already stand for this generation too.

    An item that had failed is scheduled again, with all its tries.

    Returns:
        Whether an item waits now that did not before.
    """
    waiting = txn.conn.execute(
        sa.select(work_items.c.item_id).where(
            work_items.c.kind == kind,
            work_items.c.study_uid == study_uid,
            work_items.c.state.in_(WAITING),
        )
    ).scalar()
    if waiting is not None:
        txn.conn.execute(
            sa.update(work_items)
            .where(work_items.c.item_id == waiting)
            .values(generation=generation, updated_s=txn.now)
        )
        return False
    if _reschedule(txn, kind, study_uid, generation):
        return True
    made = txn.conn.execute(
        sa.insert(work_items).values(
            kind=kind,
            study_uid=study_uid,
            generation=generation,
            state=State.SCHEDULED.value,
            priority=Priority.MEDIUM,
            due_s=txn.now,
            created_s=txn.now,
            updated_s=txn.now,
        )
    )
    item_id = (made.inserted_primary_key or (0,))[0]
    audit.record(
        txn,
        "scheduled",
        study_uid=study_uid,
        item_id=item_id,
        detail={"kind": kind, "generation": generation},
    )
    return True


def _reschedule(txn: Txn, kind: str, study_uid: str, generation: int) -> bool:
    """Schedule the study's failed item again; earlier ones it stands for are CANCELED."""
    failed = txn.conn.execute(
        sa.select(work_items)
        .where(
            work_items.c.kind == kind,
            work_items.c.study_uid == study_uid,
            work_items.c.state == State.FAILED.value,
        )
        .order_by(work_items.c.item_id.desc())
    ).mappings()
    items = failed.all()
    if not items:
        return False
    item = items[0]
    for older in items[1:]:
        move(txn, older, Event.CANCEL, error=f"{older['error']}; item {item['item_id']} goes on")
    fresh = {"attempt": 0, "token": "", "node": "", "error": "", "finished_s": 0.0}
    move(txn, item, Event.RESCHEDULE, generation=generation, due_s=txn.now, **fresh)
    _set_study_state(txn, study_uid, "received")
    audit.record(
        txn,
        "scheduled",
        study_uid=study_uid,
        item_id=item["item_id"],
        detail={"kind": kind, "generation": generation, "after": item["error"]},
    )
    return True


def ask_again(txn: Txn, study_uids: Iterable[str]) -> None:
    """Let studies that failed become due at once; others are left alone."""
    for uids in in_lists(study_uids):
        txn.conn.execute(
            sa.update(studies)
            .where(studies.c.study_uid.in_(uids), studies.c.state == "failed")
            .values(prepare_due_s=txn.now)
        )


def unprepared_count(conn: sa.Connection, study_uid: str) -> int:
    """Return how many instances of the study have no prepared form yet."""
    counts = conn.execute(
        sa.select(studies.c.instance_count - studies.c.prepared_count).where(
            studies.c.study_uid == study_uid
        )
    ).scalar()
    return int(counts or 0)


def lease(txn: Txn, node: str, kinds: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
    """Give ``node`` up to ``limit`` items: highest priority first, then the longest due.

    An item whose study is being worked on (same kind) waits until that work ended.
    """
    running = work_items.alias("running")
    candidates = txn.conn.execute(
        sa.select(work_items)
        .where(
            work_items.c.state.in_(WAITING),
            work_items.c.kind.in_(list(kinds)),
            work_items.c.due_s <= txn.now,
            work_items.c.wanted_node.in_(["", node]),
            ~sa.exists().where(
                running.c.kind == work_items.c.kind,
                running.c.study_uid == work_items.c.study_uid,
                running.c.state == State.IN_PROCESS.value,
            ),
        )
        .order_by(work_items.c.priority.desc(), work_items.c.due_s, work_items.c.item_id)
        .limit(max(0, limit))
    ).mappings()
    return [_take(txn, item, node, lease_s) for item in candidates.all()]


def _take(txn: Txn, item: sa.RowMapping, node: str, lease_s: float) -> Lease:
    taken = Lease(
        item_id=item["item_id"],
        kind=item["kind"],
        study_uid=item["study_uid"],
        generation=item["generation"],
        attempt=item["attempt"] + 1,
        token=new_token(),
        epoch=txn.epoch,
        node=node,
        expires_at_s=txn.now + lease_s,
    )
    move(
        txn,
        item,
        Event.LEASE,
        attempt=taken.attempt,
        token=taken.token,
        epoch=txn.epoch,
        node=node,
        expires_at_s=taken.expires_at_s,
        started_s=txn.now,
    )
    audit.record(
        txn,
        "leased",
        study_uid=taken.study_uid,
        item_id=taken.item_id,
        node=node,
        detail={"attempt": taken.attempt, "token": taken.token},
    )
    return taken


def move(txn: Txn, item: sa.RowMapping, event: Event, **values: Any) -> State:
    """Move an item along the transition table and write ``values`` with it.

    Raises:
        IllegalTransition: with the item's story.
    """
    story = f"item {item['item_id']} ({item['kind']} of {item['study_uid']})"
    state = transition(State(item["state"]), event, story=story)
    values |= {"state": state.value, "updated_s": txn.now}
    if state in FINISHED:
        values["finished_s"] = txn.now
    txn.conn.execute(
        sa.update(work_items).where(work_items.c.item_id == item["item_id"]).values(**values)
    )
    return state


def current(txn: Txn, lease: Lease) -> sa.RowMapping:
    """Return the running item that ``lease`` holds.

    Raises:
        StaleLease: the item is gone, was given to another attempt, or the lease has expired.
    """
    item = find(txn.conn, lease.item_id)
    if item is None:
        raise stale(lease, "the item is gone")
    if item["token"] != lease.token or item["attempt"] != lease.attempt:
        raise stale(lease, f"attempt {item['attempt']} is the current one")
    if item["state"] != State.IN_PROCESS.value:
        raise stale(lease, f"the item is {item['state']}")
    if item["expires_at_s"] <= txn.now:
        raise stale(lease, "it has expired")
    return item


def find(conn: sa.Connection, item_id: int) -> sa.RowMapping | None:
    """Return the item's row."""
    return (
        conn.execute(sa.select(work_items).where(work_items.c.item_id == item_id))
        .mappings()
        .one_or_none()
    )


def stale(lease: Lease, why: str) -> StaleLease:
    """Return the error for a lease that is not the current one."""
    return StaleLease(
        f"lease of item {lease.item_id}, attempt {lease.attempt}, is stale: {why}",
        item_id=lease.item_id,
        attempt=lease.attempt,
        token=lease.token,
    )


def renew(txn: Txn, lease: Lease, lease_s: float) -> Lease:
    """Extend a lease. Raises StaleLease."""
    item = current(txn, lease)
    expires_at_s = txn.now + lease_s
    txn.conn.execute(
        sa.update(work_items)
        .where(work_items.c.item_id == lease.item_id)
        .values(expires_at_s=expires_at_s, updated_s=txn.now, epoch=txn.epoch)
    )
    return as_lease({**item, "expires_at_s": expires_at_s, "epoch": txn.epoch})


def as_lease(item: dict[str, Any] | sa.RowMapping) -> Lease:
    """Return a running item's row as its lease."""
    return Lease(**{name: item[name] for name in Lease.__slots__})


def expire(txn: Txn, retry: Retry, chance: float) -> list[Lease]:
    """End leases that ran out: another try; return the dead attempts.

    Their node or dispatcher died, which says nothing about the item: the attempt does not count.
    """
    lost = txn.conn.execute(
        sa.select(work_items).where(
            work_items.c.state == State.IN_PROCESS.value, work_items.c.expires_at_s <= txn.now
        )
    ).mappings()
    dead = []
    for item in lost.all():
        bury(txn, item)
        again_or_fail(
            txn,
            item,
            retry.after_death_s(item["attempt"], chance=chance),
            f"waits for another try: lease expired on node {item['node']}",
            token="",
            attempt=item["attempt"] - 1,
        )
        dead.append(as_lease(item))
    return dead


def end_leases_of(txn: Txn, node: str) -> None:
    """Let the leases of a node that has started anew run out now: its tasks died with it."""
    txn.conn.execute(
        sa.update(work_items)
        .where(work_items.c.node == node, work_items.c.state == State.IN_PROCESS.value)
        .values(expires_at_s=txn.now)
    )


def bury(txn: Txn, item: sa.RowMapping) -> None:
    """Mark the running attempt as dead, so that what it wrote is swept."""
    row = {
        "token": item["token"],
        "study_uid": item["study_uid"],
        "died_s": txn.now,
        "next_sweep_s": txn.now,
        "sweeps": 0,
    }
    add(txn.conn, dead_attempts, [row], counters=[], replace=["next_sweep_s"])


def again_or_fail(
    txn: Txn, item: sa.RowMapping, delay_s: float | None, error: str, **values: Any
) -> State:
    """Schedule another try of a running item after ``delay_s``, or fail it (None).

    Where a later generation of the study waits already, that item does the work: this one is
    CANCELED (there is at most one waiting item).
    """
    waiting = txn.conn.execute(
        sa.select(work_items.c.item_id).where(
            work_items.c.kind == item["kind"],
            work_items.c.study_uid == item["study_uid"],
            work_items.c.state.in_(WAITING),
        )
    ).scalar()
    if delay_s is None:
        state = move(txn, item, Event.FAIL, error=error, **values)
        if waiting is None:
            _set_study_state(txn, item["study_uid"], "failed")
    elif waiting is not None:
        error = f"{error}; item {waiting} goes on"
        state = move(txn, item, Event.CANCEL, error=error, **values)
    else:
        state = move(txn, item, Event.RETRY, error=error, due_s=txn.now + delay_s, **values)
    audit.record(
        txn,
        state.value.lower(),
        study_uid=item["study_uid"],
        item_id=item["item_id"],
        node=item["node"],
        detail={"attempt": item["attempt"], "error": error, "delay_s": delay_s},
    )
    return state


def _set_study_state(txn: Txn, study_uid: str, state: str) -> None:
    txn.conn.execute(sa.update(studies).where(studies.c.study_uid == study_uid).values(state=state))


def cancel_items(txn: Txn, study_uid: str, why: str) -> None:
    """Cancel what waits, runs or failed for a study; a running attempt is dead from now on."""
    open_items = txn.conn.execute(
        sa.select(work_items).where(
            work_items.c.study_uid == study_uid,
            work_items.c.state.in_([*WAITING, State.IN_PROCESS, State.FAILED]),
        )
    ).mappings()
    for item in open_items.all():
        if item["state"] == State.IN_PROCESS.value:
            bury(txn, item)
        move(txn, item, Event.CANCEL, error=why, token="")


def sweepable(conn: sa.Connection, now: float, limit: int) -> list[tuple[str, str, int]]:
    """Return dead attempts to sweep now: (token, study UID, sweeps done)."""
    found = conn.execute(
        sa.select(dead_attempts.c.token, dead_attempts.c.study_uid, dead_attempts.c.sweeps)
        .where(dead_attempts.c.next_sweep_s <= now)
        .order_by(dead_attempts.c.next_sweep_s)
        .limit(limit)
    )
    return [(row[0], row[1], row[2]) for row in found]


def swept(txn: Txn, token: str, *, again_s: float | None) -> None:
    """Note a sweep: sweep once more at ``again_s``, or forget the attempt."""
    ours = dead_attempts.c.token == token
    if again_s is None:
        txn.conn.execute(sa.delete(dead_attempts).where(ours))
    else:
        txn.conn.execute(
            sa.update(dead_attempts)
            .where(ours)
            .values(next_sweep_s=again_s, sweeps=dead_attempts.c.sweeps + 1)
        )


def live_tokens(conn: sa.Connection) -> set[str]:
    """Return the tokens of running attempts."""
    return set(
        conn.execute(
            sa.select(work_items.c.token).where(work_items.c.state == State.IN_PROCESS.value)
        ).scalars()
    )
