"""The one work queue: items are enqueued, tried again, cancelled.

Rows are in ``items``, leases in ``leasing``, reports in ``report``, operators' bulk in ``bulk``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from raypacs import moments
from raypacs.errors import InvalidQuery, NotFound
from raypacs.index import adopted, audit, settings
from raypacs.index.engine import Txn, in_lists
from raypacs.index.items import (
    bury,
    change,
    clean,
    find,
    find_where,
    is_running,
    make,
    make_many,
    move,
    move_many,
    waiting_id,
    write,
)
from raypacs.index.schema import nodes, studies, work_items
from raypacs.policy.kinds import KINDS, PREPARE, kind_of
from raypacs.policy.nodes import refusals
from raypacs.policy.queue import WAITING, Event, Priority, State

_DUE_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a new item beside its kind and study. ``due_s`` 0: now.

    ``rule`` says why, where nobody asked for it.
    """

    priority: Priority = Priority.MEDIUM
    due_s: float = 0.0
    wanted_node: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    who: str = ""
    rule: str = ""


ADOPTED = Wish(Priority.LOW, payload={"adopted": True})
"""To prepare what was adopted: nobody sent it just now, and there may be millions of it."""


def enqueue_due(txn: Txn) -> int:
    """Make PREPARE items for studies that became quiet; return how many were made.

    At most so many in one call that the master is free again at once: the next call goes on.
    """
    due = txn.conn.execute(
        sa.select(
            studies.c.study_uid,
            studies.c.generation,
            studies.c.patient_id,
            studies.c.source,
            studies.c.decided,
            (studies.c.prepare_due_s - studies.c.last_received_s).label("waited_s"),
            (studies.c.instance_count - studies.c.prepared_count).label("unprepared"),
        )
        .where(
            studies.c.prepare_due_s <= txn.now,
            # Rules are asked first: they say how it is prepared.
            sa.or_(studies.c.judge_due_s == 0, studies.c.judge_due_s > txn.now),
        )
        .order_by(studies.c.prepare_due_s)
        .limit(_DUE_AT_ONCE)
    ).all()
    if not due:
        return 0
    uids = [study.study_uid for study in due]
    for some in in_lists(uids):
        chosen = studies.c.study_uid.in_(some)
        txn.conn.execute(sa.update(studies).where(chosen).values(prepare_due_s=None))
    quiet_s = settings.read(txn.conn)[1].quiet_s
    occupied = _with_open_item(txn.conn, PREPARE, uids)
    unhurried = adopted.unhurried(txn.conn, uids)
    new, made = [], 0
    for study in due:
        if not study.unprepared:
            continue
        quiet = study.waited_s > quiet_s - 0.001  # sums of floating-point seconds
        rule = f"no new instance for {quiet_s:g} s" if quiet else "its sender was done"
        wish = ADOPTED if study.study_uid in unhurried else Wish()
        wish = replace(wish, rule=rule)
        decided = study.decided.get("priority")
        if decided is not None:
            wish = replace(wish, priority=Priority[decided["value"].upper()])
        if study.study_uid in occupied:
            made += enqueue(txn, PREPARE, study.study_uid, study.generation, wish)
        else:
            new.append((study, wish))
    _prepare_first_time(txn, new)
    return made + len(new)


def _with_open_item(conn: sa.Connection, kind: str, study_uids: Sequence[str]) -> set[str]:
    """Return the studies of which an item waits or failed, so that it may stand for a new one."""
    found: set[str] = set()
    states = [*WAITING, State.FAILED.value]
    for some in in_lists(study_uids):
        query = sa.select(work_items.c.study_uid).where(
            work_items.c.kind == kind,
            work_items.c.study_uid.in_(some),
            work_items.c.state.in_(states),
        )
        found.update(conn.execute(query).scalars())
    return found


def _prepare_first_time(txn: Txn, due: Sequence[tuple[Any, Wish]]) -> None:
    """Make PREPARE items of (row of the study, wish) of which none waits or failed.

    All together: a thousand studies that become due at once must not hold the master up.
    """
    if not due:
        return
    rows = [
        {
            "study_uid": study.study_uid,
            "generation": study.generation,
            "due_s": txn.now,
            "wanted_node": "",
            "priority": int(wish.priority),
            "payload": dict(wish.payload),
            "patient_id": study.patient_id,
            "ae_title": study.source,
        }
        for study, wish in due
    ]
    ids = make_many(txn, PREPARE, rows)
    for some in in_lists(ids):
        failed = sa.and_(studies.c.study_uid.in_(some), studies.c.state == "failed")
        txn.conn.execute(sa.update(studies).where(failed).values(state="received"))
    stories = [
        {
            "study_uid": study.study_uid,
            "item_id": ids[study.study_uid],
            "detail": {"kind": PREPARE, "generation": study.generation, "rule": wish.rule},
        }
        for study, wish in due
    ]
    audit.record_many(txn, "scheduled", stories)


def enqueue(txn: Txn, kind: str, study_uid: str, generation: int, wish: Wish | None = None) -> bool:
    """Make a waiting item, or let the one that waits already stand for this generation too.

    One for what was adopted gets the priority of what is wished now, if that is higher. An item
    that had failed is scheduled again, with all its tries.

    Returns:
        Whether an item waits now that did not before.
    """
    wish = wish or Wish()
    waiting = waiting_id(txn.conn, kind, study_uid)
    item = None if waiting is None else find(txn.conn, waiting)
    if item is not None:
        write(txn, [{"_id": waiting, "generation": generation, "updated_s": txn.now}])
        if item["payload"] == ADOPTED.payload and item["priority"] < wish.priority:
            change(txn, [item], [{"priority": int(wish.priority), "payload": dict(wish.payload)}])
        return False
    schedule(txn, kind, study_uid, generation, wish)
    return True


def ask(txn: Txn, kind: str, study_uid: str, wish: Wish) -> int:
    """Make a waiting item as somebody wishes; return its id.

    Where one waits already it is that one: it gets the higher priority and the earlier time, and
    what else was wished.

    Raises:
        InvalidQuery: no such kind of work, or nobody does it; no such time; a node that gets no
            work.
        NotFound: no such study or node.
    """
    kind_of(kind)
    _check_done(txn.conn, kind)
    check_due(wish.due_s)
    generation = 0
    if study_uid:
        found = txn.conn.execute(
            sa.select(studies.c.generation).where(studies.c.study_uid == clean(study_uid))
        ).scalar()
        if found is None:
            raise NotFound(f"no study {study_uid}", study_uid=study_uid)
        generation = int(found)
    check_nodes(txn.conn, [wish.wanted_node] if wish.wanted_node else [])
    waiting = waiting_id(txn.conn, kind, study_uid)
    item = None if waiting is None else find(txn.conn, waiting)
    if item is None:
        return schedule(txn, kind, study_uid, generation, wish)
    changes = {
        "generation": generation,
        "priority": max(item["priority"], wish.priority),
        "due_s": min(item["due_s"], wish.due_s or txn.now),
        "wanted_node": wish.wanted_node or item["wanted_node"],
        "payload": dict(wish.payload) or item["payload"],
    }
    change(txn, [item], [changes])
    return int(item["item_id"])


def check_due(due_s: float | None) -> None:
    """Raise InvalidQuery for what cannot be shown as a time: nothing could be made of it later."""
    try:
        moments.checked(due_s or 0.0)
    except ValueError as exc:
        raise InvalidQuery(f"at: {exc}", key="at") from None


def check_nodes(conn: sa.Connection, names: Iterable[str]) -> None:
    """See that work may be bound to nodes.

    Raises:
        NotFound: a name that no node has or had.
        InvalidQuery: a node that gets no work; says why.
    """
    known = why_no_work(conn)
    for name in names:
        if name not in known:
            raise NotFound(f"no node {name}", node=name)
        if known[name]:
            raise InvalidQuery(f"nodes: node {name} {known[name]}", key="nodes")


def why_no_work(conn: sa.Connection) -> dict[str, str]:
    """Return of every node why it gets no work ('': it does): it is gone, is draining, ..."""
    found = {}
    for row in conn.execute(sa.select(nodes)):
        refused = refusals(row.problems)
        found[row.name] = (
            "is gone"
            if row.lost_s or row.left_s
            else f"is refused: {refused[0]}"
            if refused
            else "is draining"
            if row.draining
            else ""
        )
    return found


def _check_done(conn: sa.Connection, kind: str) -> None:
    """Raise InvalidQuery for a kind that none of the known nodes can do."""
    infos = conn.execute(sa.select(nodes.c.info)).scalars().all()
    done = {name for info in infos for name in info.get("kinds", KINDS)}
    if done and kind not in done:
        can_be = ", ".join(sorted(done))
        raise InvalidQuery(f"kind: no node does {kind}; what nodes do: {can_be}", kind=kind)


def schedule(txn: Txn, kind: str, study_uid: str, generation: int, wish: Wish) -> int:
    """Schedule the study's failed item again, or a new one; return its id.

    Earlier failed items that it stands for are CANCELED.
    """
    values = {
        "generation": generation,
        "priority": int(wish.priority),
        "due_s": wish.due_s or txn.now,
        "wanted_node": wish.wanted_node,
        "payload": dict(wish.payload),
    }
    told: dict[str, Any] = {"kind": kind, "generation": generation}
    if wish.rule:
        told["rule"] = wish.rule
    if wish.due_s > txn.now:
        told["due_s"] = wish.due_s
    failed = find_where(
        txn.conn,
        work_items.c.kind == kind,
        work_items.c.study_uid == study_uid,
        work_items.c.state == State.FAILED.value,
    )
    if failed:
        *older, item = failed
        item_id = int(item["item_id"])
        cancel_each(txn, older, [f"{one['error']}; item {item_id} goes on" for one in older])
        move(txn, item, Event.RESCHEDULE, **FRESH, **values)
        told["after"] = item["error"]
    else:
        item_id = make(txn, kind, study_uid, values | _of_study(txn.conn, study_uid))
    if kind == PREPARE:
        txn.conn.execute(
            sa.update(studies)
            .where(studies.c.study_uid == study_uid, studies.c.state == "failed")
            .values(state="received")
        )
    audit.record(txn, "scheduled", study_uid=study_uid, item_id=item_id, who=wish.who, detail=told)
    return item_id


# What an item has that nobody worked on yet.
FRESH: dict[str, Any] = {
    "attempt": 0,
    "deaths": 0,
    "token": "",
    "node": "",
    "error": "",
    "note": "",
    "finished_s": 0.0,
}


def _of_study(conn: sa.Connection, study_uid: str) -> dict[str, str]:
    """Return what the task list filters by and the study knows."""
    row = conn.execute(
        sa.select(studies.c.patient_id, studies.c.source).where(studies.c.study_uid == study_uid)
    ).one_or_none()
    return {"patient_id": row.patient_id, "ae_title": row.source} if row else {}


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


def end_leases_of(txn: Txn, node: str) -> None:
    """Let the leases of a node that has started anew run out now: its tasks died with it."""
    txn.conn.execute(
        sa.update(work_items)
        .where(work_items.c.node == node, is_running)
        .values(expires_at_s=txn.now)
    )


def again_or_fail(
    txn: Txn,
    item: sa.RowMapping,
    delay_s: float | None,
    error: str,
    *,
    waits: bool = False,
    **values: Any,
) -> State:
    """Schedule another try of a running item after ``delay_s``, or fail it (None).

    The audit tells of an item that ``waits`` for the same cause again only once.

    Where a later generation of the study waits already, that item does the work: this one is
    CANCELED (there is at most one waiting item).
    """
    waiting = waiting_id(txn.conn, item["kind"], item["study_uid"])
    if delay_s is None:
        state = move(txn, item, Event.FAIL, error=error, **values)
        if waiting is None and item["kind"] == PREPARE:
            set_study_state(txn, item["study_uid"], "failed")
    elif waiting is not None:
        error = f"{error}; item {waiting} goes on"
        _take_after(txn, waiting, item["priority"], txn.now + delay_s)
        state = move(txn, item, Event.CANCEL, error=error, **values)
    else:
        state = move(txn, item, Event.RETRY, error=error, due_s=txn.now + delay_s, **values)
        if waits and error == item["error"]:
            return state
    audit.record(
        txn,
        state.value.lower(),
        study_uid=item["study_uid"],
        item_id=item["item_id"],
        node=item["node"],
        detail={"attempt": item["attempt"], "error": error, "delay_s": delay_s},
    )
    return state


def _take_after(txn: Txn, waiting: int, priority: int, due_s: float) -> None:
    """Let a waiting item stand for one that ended: as urgent as it, and no later."""
    item = find(txn.conn, waiting)
    if item is None or (item["priority"] >= priority and item["due_s"] <= due_s):
        return
    values = {"priority": max(item["priority"], priority), "due_s": min(item["due_s"], due_s)}
    change(txn, [item], [values])


def set_study_state(txn: Txn, study_uid: str, state: str) -> None:
    """Write a study's state: received, prepared or failed."""
    txn.conn.execute(sa.update(studies).where(studies.c.study_uid == study_uid).values(state=state))


def cancel_items(txn: Txn, study_uid: str, why: str) -> None:
    """Cancel what waits, runs or failed for a study; a running attempt is dead from now on."""
    open_items = find_where(
        txn.conn,
        work_items.c.study_uid == study_uid,
        work_items.c.state.in_([*WAITING, State.IN_PROCESS, State.FAILED]),
    )
    bury(txn, [item for item in open_items if item["state"] == State.IN_PROCESS.value])
    cancel_each(txn, open_items, [why] * len(open_items), token="")


def cancel_each(
    txn: Txn, items: Sequence[sa.RowMapping], whys: Sequence[str], **values: Any
) -> None:
    """Cancel items that nobody wants any more, each for its reason, which the audit tells."""
    rows = [{"error": why, **values} for why in whys]
    move_many(txn, items, Event.CANCEL, rows)
    told = [
        {
            "study_uid": item["study_uid"],
            "item_id": item["item_id"],
            "detail": {"kind": item["kind"], "was": item["state"], "error": why},
        }
        for item, why in zip(items, whys, strict=True)
    ]
    audit.record_many(txn, "canceled", told)
