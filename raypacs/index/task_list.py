"""The task list: items that match a filter, newest first, a page at a time, with their number.

Fast however many items there are. What facets tell (kind, state, node, AE title, priority) is
counted from them. Every other filter has an index that holds the facet as well, so that items
themselves are read for the page alone. Here is decided which index leads: the planner of SQLite
knows nothing of the values. A number above ``EXACT_TOTAL`` is exact only where facets tell it; else
it is said to be at least that.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index.engine import in_lists
from raypacs.index.items import find
from raypacs.index.schema import item_facets, work_items
from raypacs.index.task_filter import TaskFilter, read_filter

EXACT_TOTAL = 10_000
# Entries of an index that are looked through for a page; about 20 ms on SQLite.
SCANNED = 50_000
_DAY_S = 86_400.0
# Columns of an item that only the index itself needs.
_HIDDEN = ("token", "facet_id")
_SHOWN = [column for column in work_items.c if column.name not in _HIDDEN]

_BY_FACET = "INDEXED BY ix_work_items_facet"
_BY_ERROR = "INDEXED BY ix_work_items_error"
_BY_CREATED = "INDEXED BY ix_work_items_created"
_BY_UPDATED = "INDEXED BY ix_work_items_updated"
_BY_NUMBER = "NOT INDEXED"

_Conditions = list[sa.ColumnElement[bool]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a filter is looked up: its conditions, SQLite's index, and what gives the order.

    ``sorts``: few match, found by an index of another order, and are sorted. PostgreSQL would
    rather walk all items in the order that is asked for, until enough of them match.
    """

    conditions: _Conditions
    hint: str = ""
    by_created: bool = False
    sorts: bool = False
    count_hint: str = ""

    def query(self, *more: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Return the query for the numbers of all items that match, in no order."""
        found = sa.select(work_items.c.item_id).where(*self.conditions, *more)
        return found.with_hint(work_items, self.hint, "sqlite") if self.hint else found

    def counted(self) -> sa.Select[Any]:
        """Return the query for counting them."""
        return replace(self, hint=self.count_hint or self.hint).query()

    def ordered(self, *more: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """Return the same, newest first."""
        found = self.query(*more)
        if self.by_created:  # the order that the index has
            found = found.order_by(work_items.c.created_s.desc())
        newest = work_items.c.item_id
        return found.order_by((newest + 0 if self.sorts else newest).desc())


def page(
    conn: sa.Connection, filters: Mapping[str, str], *, limit: int, offset: int, before_id: int
) -> dict[str, Any]:
    """Return {items, total, total_is_exact}; ``before_id`` 0: from the newest on.

    Raises:
        InvalidQuery: an unknown filter, or a value that cannot be.
    """
    wanted = read_filter(filters)
    before = [work_items.c.item_id < before_id] if before_id else []
    if wanted.exact or wanted.error or wanted.times:
        plan = _plan(conn, wanted)
        counted = plan.counted().limit(EXACT_TOTAL + 1).subquery()
        total = int(conn.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one())
        exact, total = total <= EXACT_TOTAL, min(total, EXACT_TOTAL)
        query = plan.ordered(*before).limit(limit).offset(offset)
        ids = list(conn.execute(query).scalars())
    else:
        total, exact = _facet_total(conn, wanted), True
        ids = _newest(conn, wanted, total, limit + offset, before)[offset:]
    return {"items": _items(conn, ids), "total": total, "total_is_exact": exact}


def task(conn: sa.Connection, item_id: int) -> dict[str, Any]:
    """Return one item. Raises NotFound."""
    item = find(conn, item_id)
    if item is None:
        raise NotFound(f"no work item {item_id}", item_id=item_id)
    return {str(name): value for name, value in item.items() if name not in _HIDDEN}


def _items(conn: sa.Connection, ids: Sequence[int]) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for some in in_lists(ids):
        rows = conn.execute(sa.select(*_SHOWN).where(work_items.c.item_id.in_(some)))
        found |= {row["item_id"]: dict(row) for row in rows.mappings()}
    return [found[item_id] for item_id in ids if item_id in found]


def _of_facets(wanted: TaskFilter) -> _Conditions:
    return [item_facets.c[name].in_(values) for name, values in wanted.facets.items()]


def _in_facets(wanted: TaskFilter) -> _Conditions:
    """Return the condition on an item that its facet matches."""
    if not wanted.facets:
        return []
    matching = sa.select(item_facets.c.facet_id).where(
        item_facets.c["items"] > 0, *_of_facets(wanted)
    )
    return [work_items.c.facet_id.in_(matching)]


def _facet_total(conn: sa.Connection, wanted: TaskFilter) -> int:
    items = sa.func.coalesce(sa.func.sum(item_facets.c["items"]), 0)
    return int(conn.execute(sa.select(items).where(*_of_facets(wanted))).scalar_one())


def _plan(conn: sa.Connection, wanted: TaskFilter) -> _Plan:
    """Choose what leads: the fewest entries to look through."""
    if "updated_before" in wanted.times and "created_before" not in wanted.times:
        # What was changed before was made before; a day for clocks that were set back.
        bound_s = wanted.times["updated_before"] + _DAY_S
        wanted = replace(wanted, times={**wanted.times, "created_before": bound_s})
    plan = _Plan([*_in_facets(wanted), *wanted.row_conditions])
    if wanted.exact:
        return plan
    if wanted.error:
        return replace(plan, hint=_BY_ERROR)
    created = any(name.startswith("created") for name in wanted.times)
    by_time = replace(plan, hint=_BY_CREATED if created else _BY_UPDATED)
    in_time = replace(by_time, conditions=wanted.row_conditions).query().limit(SCANNED + 1)
    counted = sa.select(sa.func.count()).select_from(in_time.subquery())
    if conn.execute(counted).scalar_one() <= SCANNED:
        return replace(by_time, sorts=True)
    if wanted.facets and _facet_total(conn, wanted) <= SCANNED:
        return replace(plan, hint=_BY_FACET, sorts=True)
    # Many match: the first of them, in the order of an index, are soon found.
    if created:
        return replace(by_time, by_created=True)
    return replace(plan, hint=_BY_NUMBER, count_hint=_BY_UPDATED)


def _newest(
    conn: sa.Connection, wanted: TaskFilter, total: int, most: int, before: _Conditions
) -> list[int]:
    """Return the numbers of the newest items of the facets that match."""
    plan = _Plan([*_in_facets(wanted), *before])
    if not wanted.facets:
        return list(conn.execute(replace(plan, hint=_BY_NUMBER).ordered().limit(most)).scalars())
    if total <= SCANNED:
        few = replace(plan, hint=_BY_FACET, sorts=True)
        return list(conn.execute(few.ordered().limit(most)).scalars())
    # Many match, so mostly enough of the newest items do.
    newest = sa.select(sa.func.max(work_items.c.item_id)).where(*before)
    last = conn.execute(newest).scalar() or 0
    lately = work_items.c.item_id > last - SCANNED
    query = replace(plan, hint=_BY_NUMBER).ordered(lately).limit(most)
    found = list(conn.execute(query).scalars())
    return found if len(found) >= most else _merged(conn, wanted, most, before)


def _merged(conn: sa.Connection, wanted: TaskFilter, most: int, before: _Conditions) -> list[int]:
    """Return the newest ``most`` numbers, all of them old.

    They are in the ``most`` facets whose own newest items are the newest.
    """
    own = sa.select(sa.func.max(work_items.c.item_id)).where(
        work_items.c.facet_id == item_facets.c.facet_id, *before
    )
    query = sa.select(own.scalar_subquery().label("newest"), item_facets.c.facet_id)
    rows = conn.execute(query.where(item_facets.c["items"] > 0, *_of_facets(wanted)))
    heads = heapq.nlargest(
        most, [(row.newest, row.facet_id) for row in rows if row.newest is not None]
    )
    found: list[int] = []
    for newest, facet_id in heads:
        if len(found) >= most and newest < found[most - 1]:
            break
        one = _Plan([work_items.c.facet_id == facet_id, *before], _BY_FACET)
        ids = conn.execute(one.ordered().limit(most)).scalars()
        found = sorted([*found, *ids], reverse=True)[:most]
    return found
