"""Rows of the work queue: found, moved along the transition table, counted as they move."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.errors import StaleLease
from raypacs.index.endings import STILL_WRITES_S, end
from raypacs.index.engine import Txn, add, in_lists
from raypacs.index.facets import enter, facet_of, leave
from raypacs.index.schema import dead_attempts, item_counts, work_items
from raypacs.policy.queue import FINISHED, WAITING, Event, Priority, State, transition
from raypacs.records import Lease

_LONGEST_ERROR = 500
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # tab and line feed are text


def _state_in(states: Iterable[State]) -> sa.ColumnElement[bool]:
    # Literals, as in the partial indexes' conditions: with parameters no index would serve.
    return work_items.c.state.in_([sa.literal_column(f"'{state.value}'") for state in states])


is_waiting = _state_in(WAITING)
is_running = work_items.c.state == sa.literal_column(f"'{State.IN_PROCESS.value}'")


def find(conn: sa.Connection, item_id: int) -> sa.RowMapping | None:
    """Return the item's row."""
    return (
        conn.execute(sa.select(work_items).where(work_items.c.item_id == item_id))
        .mappings()
        .one_or_none()
    )


def find_where(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[sa.RowMapping]:
    """Return the rows of items that meet all conditions, by item id."""
    query = sa.select(work_items).where(*conditions).order_by(work_items.c.item_id)
    return list(conn.execute(query).mappings())


def waiting_id(conn: sa.Connection, kind: str, study_uid: str) -> int | None:
    """Return the id of the item that waits for this kind and study: there is one at most."""
    found = conn.execute(
        sa.select(work_items.c.item_id).where(
            work_items.c.kind == kind, work_items.c.study_uid == study_uid, is_waiting
        )
    ).scalar()
    return None if found is None else int(found)


def make(txn: Txn, kind: str, study_uid: str, values: Mapping[str, Any]) -> int:
    """Insert a SCHEDULED item and count it; return its id."""
    row = _new(txn, kind) | {"study_uid": study_uid} | dict(values)
    facet = facet_of(row)
    made = txn.conn.execute(
        sa.insert(work_items).values(**row, facet_id=enter(txn, [facet])[facet])
    )
    count(txn, {(kind, row["state"]): 1})
    return int((made.inserted_primary_key or (0,))[0])


def make_many(txn: Txn, kind: str, values: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Insert SCHEDULED items of studies of which none waits, and count them; return id by study.

    ``values`` of each: its study_uid and what else differs from a new item, all with the same keys.
    """
    rows = [_new(txn, kind) | dict(own) for own in values]
    facets = [facet_of(row) for row in rows]
    ids = enter(txn, facets)
    txn.conn.execute(
        sa.insert(work_items),
        [{**row, "facet_id": ids[facet]} for row, facet in zip(rows, facets, strict=True)],
    )
    count(txn, {(kind, State.SCHEDULED.value): len(rows)})
    found: dict[str, int] = {}
    for uids in in_lists([row["study_uid"] for row in rows]):
        query = sa.select(work_items.c.study_uid, work_items.c.item_id).where(
            work_items.c.kind == kind, work_items.c.study_uid.in_(uids), is_waiting
        )
        found |= {row.study_uid: row.item_id for row in txn.conn.execute(query)}
    return found


def _new(txn: Txn, kind: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "state": State.SCHEDULED.value,
        "node": "",
        "ae_title": "",
        "priority": int(Priority.MEDIUM),
        "created_s": txn.now,
        "updated_s": txn.now,
    }


def move(txn: Txn, item: sa.RowMapping, event: Event, **values: Any) -> State:
    """Move an item along the transition table and write ``values`` with it.

    Raises:
        IllegalTransition: with the item's story.
    """
    return move_many(txn, [item], event, [values])


def move_many(
    txn: Txn, items: Sequence[sa.RowMapping], event: Event, values: Sequence[Mapping[str, Any]]
) -> State:
    """Move items by the same event, each with its own values (all with the same keys).

    Returns:
        The state they all have now: the event decides it.

    Raises:
        IllegalTransition: one of them cannot; none was moved.
    """
    rows = []
    state = State.SCHEDULED
    for item, own in zip(items, values, strict=True):
        story = f"item {item['item_id']} ({item['kind']} of {item['study_uid']})"
        state = transition(State(item["state"]), event, story=story)
        row = {**own, "state": state.value}
        if state in FINISHED:
            row["finished_s"] = txn.now
        rows.append(row)
    change(txn, items, rows)
    return state


def change(txn: Txn, items: Sequence[sa.RowMapping], values: Sequence[Mapping[str, Any]]) -> None:
    """Write columns of items, each its own values (all with the same keys), and count anew.

    For what is no event of the transition table: priority, time, node.
    """
    if not items:
        return
    pairs = [(item, _bounded(own)) for item, own in zip(items, values, strict=True)]
    moved: Counter[tuple[str, str]] = Counter()
    for item, own in pairs:
        moved[item["kind"], item["state"]] -= 1
        moved[item["kind"], own.get("state", item["state"])] += 1
    facets = [facet_of({**item, **own}) for item, own in pairs]
    ids = enter(txn, facets)
    leave(txn, [item["facet_id"] for item in items])
    count(txn, moved)
    write(
        txn,
        [
            {**own, "_id": item["item_id"], "updated_s": txn.now, "facet_id": ids[facet]}
            for (item, own), facet in zip(pairs, facets, strict=True)
        ],
    )


def _bounded(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``values`` with texts that every database takes (``clean``)."""
    texts = {name: clean(values[name]) for name in ("error", "note") if name in values}
    return {**values, **texts}


def clean(text: str) -> str:
    """Return a text without control characters, cut to what an index on it can hold.

    PostgreSQL refuses NUL in a text, and 2.7 kB in an index.
    """
    return _CONTROL.sub(" ", text[:_LONGEST_ERROR])


def write(txn: Txn, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write columns that nobody counts by; ``_id`` of a row names the item, all have equal keys."""
    if rows:
        statement = sa.update(work_items).where(work_items.c.item_id == sa.bindparam("_id"))
        txn.conn.execute(statement, list(rows))


def remove(txn: Txn, items: Sequence[sa.RowMapping]) -> None:
    """Take items out of the queue for good."""
    moved: Counter[tuple[str, str]] = Counter()
    for item in items:
        moved[item["kind"], item["state"]] -= 1
    if items:
        statement = sa.delete(work_items).where(work_items.c.item_id == sa.bindparam("_id"))
        txn.conn.execute(statement, [{"_id": item["item_id"]} for item in items])
    leave(txn, [item["facet_id"] for item in items])
    count(txn, moved)


def count(txn: Txn, changes: Mapping[tuple[str, str], int]) -> None:
    """Add to the numbers of items by (kind, state)."""
    gained: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    for (kind, state), items in sorted(changes.items()):
        row = {"kind": kind, "state": state, "items": items, "last_s": txn.now}
        if items:
            (gained if items > 0 else lost).append(row)
    # ``last_s`` is when an item came into the state, so leaving it does not count.
    add(txn.conn, item_counts, gained, counters=["items"], replace=["last_s"])
    add(txn.conn, item_counts, lost, counters=["items"])


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


def stale(lease: Lease, why: str) -> StaleLease:
    """Return the error for a lease that is not the current one."""
    return StaleLease(
        f"lease of item {lease.item_id}, attempt {lease.attempt}, is stale: {why}",
        item_id=lease.item_id,
        attempt=lease.attempt,
        token=lease.token,
    )


def as_lease(item: Mapping[str, Any] | sa.RowMapping) -> Lease:
    """Return a running item's row as its lease."""
    return Lease(**{name: item[name] for name in Lease.__slots__})


def bury(txn: Txn, items: Sequence[sa.RowMapping]) -> None:
    """Mark the running attempts of items as dead, so that what they wrote is swept."""
    rows = [
        {
            "token": item["token"],
            "study_uid": item["study_uid"],
            "died_s": txn.now,
            "next_sweep_s": txn.now,
            "sweeps": 0,
        }
        for item in items
    ]
    add(txn.conn, dead_attempts, rows, counters=[], replace=["next_sweep_s"])
    for item in items:
        # Not at once: a node that was cut off may still write.
        end(txn, item["node"], item["token"], due_s=txn.now + STILL_WRITES_S)
