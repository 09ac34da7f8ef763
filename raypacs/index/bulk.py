"""What operators order for all items that match a filter, at most ``limit`` of them a call.

One task is a filter on ``item_id``. Items that cannot are left as they are and said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.errors import InvalidQuery
from raypacs.index import audit
from raypacs.index.engine import Txn, in_lists
from raypacs.index.items import bury, change, is_running, is_waiting, move_many, remove
from raypacs.index.queue import FRESH, check_due, check_nodes, why_no_work
from raypacs.index.schema import studies, work_items
from raypacs.index.task_filter import read_filter
from raypacs.policy.kinds import PREPARE
from raypacs.policy.queue import FINISHED, WAITING, Event, Priority, State

MOST = 1000
_REFUSED_SHOWN = 20
SAME, NODE, SPREAD = "same", "node", "spread"


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which items an order is for: a filter, from ``after_id`` on; ``who`` orders it."""

    filters: Mapping[str, str]
    who: str = ""
    limit: int = MOST
    after_id: int = 0


@dataclass(frozen=True, slots=True)
class Again:
    """When and where to do items again. ``due_s`` None: now; ``mode``: same, node or spread.

    ``done``: how many earlier calls of the same order changed, so that spreading goes on there.
    """

    due_s: float | None = None
    nodes: Sequence[str] = ()
    mode: str = SAME
    done: int = 0


# Takes the chosen items, changes those that it can, and returns why it left the others.
_Order = Callable[[Sequence[sa.RowMapping]], dict[int, str]]


def _each(txn: Txn, chosen: Chosen, order: _Order) -> dict[str, Any]:
    """Carry out an order; return the answer as a plain dict.

    Keys: matched, changed, refused ([{item_id, why}], some), more (items are left), after_id.
    """
    limit = max(1, min(MOST, chosen.limit))
    query = (
        sa.select(work_items)
        .where(*read_filter(chosen.filters).conditions, work_items.c.item_id > chosen.after_id)
        .order_by(work_items.c.item_id)
        .limit(limit + 1)
    )
    found = list(txn.conn.execute(query).mappings())
    items = found[:limit]
    refused = order(items)
    return {
        "matched": len(items),
        "changed": len(items) - len(refused),
        "refused": [
            {"item_id": item_id, "why": why}
            for item_id, why in list(refused.items())[:_REFUSED_SHOWN]
        ],
        "more": len(found) > limit,
        "after_id": items[-1]["item_id"] if items else chosen.after_id,
    }


def _split(
    items: Iterable[sa.RowMapping], why: Callable[[sa.RowMapping], str]
) -> tuple[list[sa.RowMapping], dict[int, str]]:
    """Return the items for which ``why`` is '', and why not of the others."""
    able: list[sa.RowMapping] = []
    refused: dict[int, str] = {}
    for item in items:
        reason = why(item)
        if reason:
            refused[item["item_id"]] = reason
        else:
            able.append(item)
    return able, refused


def reschedule(txn: Txn, chosen: Chosen, again: Again) -> dict[str, Any]:
    """Do items again: what waits gets another time and node, what ended is SCHEDULED anew.

    Raises:
        InvalidQuery: a filter, time, mode or node that cannot be.
        NotFound: no such node.
    """
    check_due(again.due_s)
    if again.mode not in (SAME, NODE, SPREAD) or (again.mode != SAME) != bool(again.nodes):
        raise InvalidQuery(f"mode: {again.mode!r} with {len(again.nodes)} nodes", key="mode")
    check_nodes(txn.conn, again.nodes)
    blocked = why_no_work(txn.conn)
    return _each(txn, chosen, lambda items: _do_again(txn, items, again, blocked, chosen.who))


def _do_again(
    txn: Txn, items: Sequence[sa.RowMapping], again: Again, blocked: Mapping[str, str], who: str
) -> dict[int, str]:
    generations = _generations(txn.conn, items)
    waiting = _waiting(txn.conn, items)

    def why_not(item: sa.RowMapping) -> str:
        if item["state"] == State.IN_PROCESS.value:
            return "it runs: cancel it first"
        if item["study_uid"] and item["study_uid"] not in generations:
            return "its study was deleted"
        # There is at most one waiting item of a kind and study: the first of this batch.
        first = waiting.setdefault((item["kind"], item["study_uid"]), item["item_id"])
        return "" if first == item["item_id"] else f"item {first} waits for it already"

    able, refused = _split(items, why_not)
    rows = [
        {
            **FRESH,
            "node": item["node"],
            "generation": generations.get(item["study_uid"], item["generation"]),
            "due_s": txn.now if again.due_s is None else again.due_s,
            **_place(item, again, number, blocked),
        }
        for number, item in enumerate(able, again.done)
    ]
    move_many(txn, able, Event.RESCHEDULE, rows)
    _set_states(txn, able, "failed", "received", sa.true())
    told = [
        {"due_s": row["due_s"], "wanted_node": row["wanted_node"], "note": row["note"]}
        for row in rows
    ]
    _audit(txn, "rescheduled", able, who, told)
    return refused


def _place(
    item: sa.RowMapping, again: Again, number: int, blocked: Mapping[str, str]
) -> dict[str, str]:
    """Return where an item is to run: the node it is bound to, and a note.

    ``blocked`` says of every node why it gets no work.
    """
    if again.mode != SAME:
        return {"wanted_node": again.nodes[number % len(again.nodes)], "note": ""}
    last = item["wanted_node"] or item["node"]
    why = blocked.get(last, "is gone") if last else ""
    if not why:
        return {"wanted_node": last, "note": ""}
    return {"wanted_node": "", "note": f"node {last} {why}: any other"}


def cancel(txn: Txn, chosen: Chosen) -> dict[str, Any]:
    """Cancel items that wait, run or failed; a running attempt is dead from now on."""
    return _each(txn, chosen, lambda items: _cancel(txn, items, chosen.who))


def _cancel(txn: Txn, items: Sequence[sa.RowMapping], who: str) -> dict[int, str]:
    possible = {*WAITING, State.IN_PROCESS, State.FAILED}
    able, refused = _split(
        items, lambda item: "" if item["state"] in possible else f"it is {item['state']}"
    )
    bury(txn, [item for item in able if item["state"] == State.IN_PROCESS.value])
    why = f"canceled by {who}" if who else "canceled"
    move_many(txn, able, Event.CANCEL, [{"error": why, "token": ""}] * len(able))
    _give_up_studies(txn, able)
    _audit(txn, "canceled", able, who, [{"was": item["state"]} for item in able])
    return refused


def delete(txn: Txn, chosen: Chosen) -> dict[str, Any]:
    """Take items out of the task list; what runs is refused."""
    return _each(txn, chosen, lambda items: _delete(txn, items, chosen.who))


def _delete(txn: Txn, items: Sequence[sa.RowMapping], who: str) -> dict[int, str]:
    running = State.IN_PROCESS.value
    able, refused = _split(
        items, lambda item: "it runs: cancel it first" if item["state"] == running else ""
    )
    remove(txn, able)
    _give_up_studies(txn, able)
    _audit(txn, "item deleted", able, who, [{"was": item["state"]} for item in able])
    return refused


def set_priority(txn: Txn, chosen: Chosen, priority: Priority) -> dict[str, Any]:
    """Give a priority to items that wait or run."""
    return _each(txn, chosen, lambda items: _set_priority(txn, items, priority, chosen.who))


def _set_priority(
    txn: Txn, items: Sequence[sa.RowMapping], priority: Priority, who: str
) -> dict[int, str]:
    able, refused = _split(
        items, lambda item: f"it is {item['state']}" if item["state"] in FINISHED else ""
    )
    change(txn, able, [{"priority": int(priority)}] * len(able))
    _audit(txn, "priority", able, who, [{"priority": priority.name.lower()}] * len(able))
    return refused


def _audit(
    txn: Txn,
    event: str,
    items: Sequence[sa.RowMapping],
    who: str,
    details: Sequence[Mapping[str, Any]],
) -> None:
    rows = [
        {
            "study_uid": item["study_uid"],
            "item_id": item["item_id"],
            "node": item["node"],
            "who": who,
            "detail": {"kind": item["kind"], **detail},
        }
        for item, detail in zip(items, details, strict=True)
    ]
    audit.record_many(txn, event, rows)


def _generations(conn: sa.Connection, items: Sequence[sa.RowMapping]) -> dict[str, int]:
    """Return the generation of each item's study that is there."""
    found: dict[str, int] = {}
    for uids in in_lists({item["study_uid"] for item in items}):
        query = sa.select(studies.c.study_uid, studies.c.generation)
        rows = conn.execute(query.where(studies.c.study_uid.in_(uids)))
        found |= {row.study_uid: row.generation for row in rows}
    return found


def _waiting(conn: sa.Connection, items: Sequence[sa.RowMapping]) -> dict[tuple[str, str], int]:
    """Return the waiting item of each kind and study of the items."""
    found: dict[tuple[str, str], int] = {}
    for uids in in_lists({item["study_uid"] for item in items}):
        query = sa.select(work_items.c.kind, work_items.c.study_uid, work_items.c.item_id)
        rows = conn.execute(query.where(work_items.c.study_uid.in_(uids), is_waiting))
        found |= {(row.kind, row.study_uid): row.item_id for row in rows}
    return found


def _give_up_studies(txn: Txn, items: Sequence[sa.RowMapping]) -> None:
    """Studies that nobody prepares any more count as failed: a new instance, or asking, helps."""
    open_item = sa.exists().where(
        work_items.c.kind == PREPARE,
        work_items.c.study_uid == studies.c.study_uid,
        is_waiting | is_running,
    )
    unprepared = studies.c.prepared_count < studies.c.instance_count
    nobody = sa.and_(unprepared, studies.c.prepare_due_s.is_(None), ~open_item)
    _set_states(txn, items, "received", "failed", nobody)


def _set_states(
    txn: Txn,
    items: Sequence[sa.RowMapping],
    old: str,
    new: str,
    condition: sa.ColumnElement[bool],
) -> None:
    """Change the state of the studies of PREPARE items that are in ``old``."""
    for uids in in_lists({item["study_uid"] for item in items if item["kind"] == PREPARE}):
        txn.conn.execute(
            sa.update(studies)
            .where(studies.c.study_uid.in_(uids), studies.c.state == old, condition)
            .values(state=new)
        )
