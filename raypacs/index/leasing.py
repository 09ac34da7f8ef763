"""Leases: given at a poll, renewed by it, ended by time, by their node's loss, by cancelling.

A lease is (item, attempt, token, expiry). It stays good under a later epoch, because the index,
not the master, holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import audit
from raypacs.index.engine import Txn
from raypacs.index.halting import roles_lacking
from raypacs.index.items import (
    as_lease,
    bury,
    current,
    find_where,
    is_running,
    is_waiting,
    move_many,
    write,
)
from raypacs.index.queue import again_or_fail
from raypacs.index.schema import halts, item_counts, ledger, nodes, work_items
from raypacs.layout import new_token
from raypacs.policy.admission import Slots, Work, admit
from raypacs.policy.kinds import KINDS
from raypacs.policy.nodes import refusals
from raypacs.policy.queue import WAITING, Event, Priority, State
from raypacs.policy.retry import Retry
from raypacs.records import Assignment, Lease, Poll

# A lease whose dispatcher does not name it for so long never reached it: the answer was lost.
_UNCLAIMED_S = 10.0
# Leases are renewed once this share of their time is over, so that most polls write nothing.
_RENEW_AFTER = 0.25


@dataclass(frozen=True, slots=True)
class Polled:
    """An assignment, and the time until which the same idle node would get nothing either.

    ``nothing_due``: nor would any other node, as nothing waits whose time has come.
    ``holds_nothing``: the node has no lease, also none that did not reach it. ``ended``: attempts
    of it were ended, and their items wait again.
    """

    assignment: Assignment
    idle_until_s: float = 0.0
    nothing_due: bool = False
    holds_nothing: bool = False
    ended: bool = False


def poll(txn: Txn, asked: Poll, settings: Settings, retry: Retry, chance: float) -> Polled:
    """Renew what a dispatcher runs, tell what it must stop, and give it work by admission.

    ``Poll.running`` names every lease it holds, also those that are done and not yet reported.
    A dispatcher of another life than the node's known one (its process was stopped, and another
    began meanwhile) has nothing and gets nothing; what the node holds is not touched.
    """
    told = {token for _, token in asked.running}
    boot = txn.conn.execute(sa.select(nodes.c.boot).where(nodes.c.name == asked.node)).scalar()
    if boot is not None and boot != asked.boot:
        return Polled(Assignment(stop=tuple(sorted(told))))
    held = {
        item["token"]: item
        for item in find_where(txn.conn, is_running, work_items.c.node == asked.node)
        if item["expires_at_s"] > txn.now
    }
    lost = [
        item
        for token, item in held.items()
        if token not in told and item["started_s"] <= txn.now - _UNCLAIMED_S
    ]
    end_attempts(txn, lost, settings, retry, chance, "its lease did not reach it")
    mine = [item for token, item in held.items() if token in told]
    assignment = Assignment(
        renewed=_renew_due(txn, mine, settings.lease_s),
        stop=tuple(sorted(told - held.keys())),
    )
    running = [_work(item) for item in held.values() if item not in lost]
    leases = tuple(_give(txn, asked, settings, running))
    idle_until_s, nothing_due = (txn.now, False) if leases else _next_due_s(txn)
    return Polled(
        Assignment(leases, assignment.renewed, assignment.stop, assignment.poll_after_s),
        idle_until_s,
        nothing_due,
        holds_nothing=not running and not leases,
        ended=bool(lost),
    )


def _renew_due(
    txn: Txn, items: Sequence[sa.RowMapping], lease_s: float
) -> tuple[tuple[str, float, int], ...]:
    """Extend leases whose time is partly over; return (token, expires_at_s, priority) of all."""
    due = [
        item for item in items if item["expires_at_s"] - txn.now < lease_s * (1.0 - _RENEW_AFTER)
    ]
    expires_at_s = txn.now + lease_s
    write(
        txn,
        [
            {"_id": item["item_id"], "expires_at_s": expires_at_s, "epoch": txn.epoch}
            for item in due
        ],
    )
    extended = {item["token"] for item in due}
    return tuple(
        (
            item["token"],
            expires_at_s if item["token"] in extended else item["expires_at_s"],
            item["priority"],
        )
        for item in items
    )


def _give(txn: Txn, asked: Poll, settings: Settings, running: list[Work]) -> list[Lease]:
    """Give a node what admission lets it have of what waits."""
    slots = _slots(txn.conn, asked.node, settings)
    if slots is None or asked.free <= 0:
        return []
    kinds = _open_kinds(txn.conn, asked, settings)
    rows = {
        row["item_id"]: row
        for kind in sorted(kinds)
        for row in _candidates(txn, kind, asked.node, asked.free)
    }
    chosen = admit(map(_work, rows.values()), running, slots, asked.free)
    return _take(txn, [rows[work.item_id] for work in chosen], asked.node, settings.lease_s)


def _slots(conn: sa.Connection, node: str, settings: Settings) -> Slots | None:
    """Return what a node may run at once; None for one that gets nothing new."""
    row = conn.execute(
        sa.select(
            nodes.c.info, nodes.c.draining, nodes.c.lost_s, nodes.c.left_s, nodes.c.problems
        ).where(nodes.c.name == node)
    ).one_or_none()
    if row is None or row.draining or row.lost_s or row.left_s or refusals(row.problems):
        return None
    return Slots(
        int(row.info.get("cores") or 1),
        settings.node_concurrency,
        settings.reserved_slots,
        settings.heavy_slots,
    )


def _open_kinds(conn: sa.Connection, asked: Poll, settings: Settings) -> set[str]:
    """Return the kinds that the node can do, that are not halted and of which something waits."""
    halted = set(conn.execute(sa.select(halts.c.kind)).scalars())
    if "" in halted:
        return set()
    waiting = conn.execute(
        sa.select(item_counts.c.kind).where(
            item_counts.c.state.in_(WAITING), item_counts.c["items"] > 0
        )
    ).scalars()
    kinds = (set(waiting) & set(asked.kinds) & KINDS.keys()) - halted
    lacking = _roles_lacking(conn, asked.node, settings) if kinds else set()
    return {kind for kind in kinds if not lacking.intersection(KINDS[kind].tiers)}


def _roles_lacking(conn: sa.Connection, node: str, settings: Settings) -> set[str]:
    info = conn.execute(sa.select(nodes.c.info).where(nodes.c.name == node)).scalar_one()
    there = set(conn.execute(sa.select(ledger.c.tier).where(ledger.c.reachable)).scalars())
    return roles_lacking(info, settings, there)


def _next_items() -> sa.CompoundSelect[Any]:
    """Return the query for a kind's next items: an exact range of the index a priority and node.

    An item whose study is being worked on (same kind) waits until that work ended.
    """
    running = work_items.alias("running")
    busy = sa.exists().where(
        running.c.kind == work_items.c.kind,
        running.c.study_uid == work_items.c.study_uid,
        running.c.state == sa.literal_column("'IN PROCESS'"),
    )
    anyone: sa.ColumnElement[str] = sa.literal_column("''")
    return sa.union_all(
        *(
            sa.select(
                sa.select(work_items)
                .where(
                    is_waiting,
                    work_items.c.kind == sa.bindparam("kind"),
                    work_items.c.wanted_node == wanted,
                    work_items.c.priority == priority.value,
                    work_items.c.due_s <= sa.bindparam("now"),
                    ~busy,
                )
                .order_by(work_items.c.due_s, work_items.c.item_id)
                .limit(sa.bindparam("most"))
                .subquery()
            )
            for priority in Priority
            for wanted in (anyone, sa.bindparam("node"))
        )
    )


_NEXT_ITEMS = _next_items()


def _candidates(txn: Txn, kind: str, node: str, limit: int) -> Iterable[sa.RowMapping]:
    values = {"kind": kind, "node": node, "now": txn.now, "most": limit}
    return txn.conn.execute(_NEXT_ITEMS, values).mappings().all()


def _work(item: sa.RowMapping) -> Work:
    return Work(item["item_id"], item["kind"], item["priority"], item["due_s"])


def _take(txn: Txn, items: Sequence[sa.RowMapping], node: str, lease_s: float) -> list[Lease]:
    taken = [
        {
            "attempt": item["attempt"] + 1,
            "token": new_token(),
            "epoch": txn.epoch,
            "node": node,
            "expires_at_s": txn.now + lease_s,
            "started_s": txn.now,
        }
        for item in items
    ]
    move_many(txn, items, Event.LEASE, taken)
    leases = [as_lease({**item, **own}) for item, own in zip(items, taken, strict=True)]
    # One that waits for room, say, is tried every half a minute: its story tells it once.
    waited = {item["item_id"] for item in items if _has_waited(item)}
    audit.record_many(
        txn,
        "leased",
        [
            {
                "study_uid": lease.study_uid,
                "item_id": lease.item_id,
                "node": node,
                "detail": {"kind": lease.kind, "attempt": lease.attempt, "token": lease.token},
            }
            for lease in leases
            if lease.item_id not in waited
        ],
    )
    return leases


def _has_waited(item: sa.RowMapping) -> bool:
    """Whether an item's attempts so far were no tries, nor did they die: something is not there."""
    tried = item["attempt"] or item["deaths"]
    return item["state"] == State.SCHEDULED_FOR_RETRY.value and not tried


def _next_due_s(txn: Txn) -> tuple[float, bool]:
    """Return when the next item comes due (infinity: none waits), and whether none is due now.

    Of any kind and node.
    """
    soonest = sa.select(sa.func.min(work_items.c.due_s)).where(is_waiting)
    found = txn.conn.execute(soonest).scalar()
    nothing_due = found is None or found > txn.now
    if not nothing_due:
        found = txn.conn.execute(soonest.where(work_items.c.due_s > txn.now)).scalar()
    return (float("inf") if found is None else float(found)), nothing_due


def lease(txn: Txn, node: str, kinds: Sequence[str], limit: int, lease_s: float) -> list[Lease]:
    """Give ``node`` up to ``limit`` items of ``kinds``, whatever else it runs."""
    rows = {
        row["item_id"]: row for kind in kinds for row in _candidates(txn, kind, node, max(0, limit))
    }
    order = sorted(map(_work, rows.values()), key=lambda w: (-w.priority, w.due_s, w.item_id))
    return _take(txn, [rows[work.item_id] for work in order[: max(0, limit)]], node, lease_s)


def renew(txn: Txn, lease: Lease, lease_s: float) -> Lease:
    """Extend a lease. Raises StaleLease."""
    item = current(txn, lease)
    changed = {"expires_at_s": txn.now + lease_s, "epoch": txn.epoch}
    write(txn, [{"_id": lease.item_id, **changed}])
    return as_lease({**item, **changed})


def expire(txn: Txn, settings: Settings, retry: Retry, chance: float) -> list[Lease]:
    """End leases that ran out; return the dead attempts."""
    lost = find_where(txn.conn, is_running, work_items.c.expires_at_s <= txn.now)
    return end_attempts(txn, lost, settings, retry, chance, "lease expired")


def end_attempts(
    txn: Txn,
    items: Iterable[sa.RowMapping],
    settings: Settings,
    retry: Retry,
    chance: float,
    why: str,
) -> list[Lease]:
    """End running attempts whose node or dispatcher died: others follow. Returns the dead ones.

    A death says nothing about the item, so the attempt does not count; but an item on which
    ``max_deaths`` attempts in a row died is FAILED, with the nodes named.
    """
    dead = []
    for item in items:
        bury(txn, [item])
        deaths = item["deaths"] + 1
        delay_s: float | None = retry.after_death_s(item["attempt"], chance=chance)
        error = f"waits for another try: {why} on node {item['node']}"
        if deaths >= settings.max_deaths:
            delay_s = None
            error = f"{deaths} attempts in a row died, on {_nodes_of(txn, item)}"
        again_or_fail(
            txn, item, delay_s, error, token="", attempt=item["attempt"] - 1, deaths=deaths
        )
        dead.append(as_lease(item))
    return dead


def _nodes_of(txn: Txn, item: sa.RowMapping) -> str:
    """Name the nodes on which the attempts of an item died in a row, this one and those before."""
    before = audit.nodes_of(
        txn.conn, item["study_uid"], item["item_id"], "scheduled for retry", item["deaths"]
    )
    return ", ".join(f"node {name}" for name in sorted({*before, item["node"]}))
