"""The task list: items that match a filter, newest first, a page at a time, with their number.

Fast however many items there are. What facets tell (kind, state, node, AE title, priority) is
counted from them and found by an index on (facet, item); every other filter has an index of its
own. A number above ``EXACT_TOTAL`` is exact only where facets tell it; else it is said to be at
least that.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index.engine import in_lists
from raypacs.index.items import find
from raypacs.index.schema import item_facets, work_items
from raypacs.index.task_filter import TaskFilter, read_filter

EXACT_TOTAL = 10_000
# Newest items looked through one by one before each facet is asked for its newest.
_NEWEST = 2_000
# Columns of an item that only the index itself needs.
_HIDDEN = ("token", "facet_id")
_SHOWN = [column for column in work_items.c if column.name not in _HIDDEN]


def page(
    conn: sa.Connection, filters: Mapping[str, str], *, limit: int, offset: int, before_id: int
) -> dict[str, Any]:
    """Return {items, total, total_is_exact}; ``before_id`` 0: from the newest on.

    Raises:
        InvalidQuery: an unknown filter, or a value that cannot be.
    """
    wanted = read_filter(filters)
    before = [work_items.c.item_id < before_id] if before_id else []
    if wanted.row_conditions:
        conditions = wanted.conditions
        matching = sa.select(work_items.c.item_id).where(*conditions)
        counted = matching.limit(EXACT_TOTAL + 1).subquery()
        total = int(conn.execute(sa.select(sa.func.count()).select_from(counted)).scalar_one())
        exact = total <= EXACT_TOTAL
        total = min(total, EXACT_TOTAL)
        query = matching.where(*before).order_by(work_items.c.item_id.desc())
        ids = list(conn.execute(query.limit(limit).offset(offset)).scalars())
    else:
        facets, total = _facets(conn, wanted)
        exact = True
        ids = _newest(conn, facets, total, limit + offset, before)[offset:]
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


def _facets(conn: sa.Connection, wanted: TaskFilter) -> tuple[list[int] | None, int]:
    """Return the facets that match, None for all, and how many items they have together."""
    query = sa.select(item_facets.c.facet_id, item_facets.c["items"]).where(
        item_facets.c["items"] > 0,
        *(item_facets.c[name].in_(values) for name, values in wanted.facets.items()),
    )
    rows = conn.execute(query).all()
    total = sum(row[1] for row in rows)
    return ([row[0] for row in rows] if wanted.facets else None), total


def _newest(
    conn: sa.Connection,
    facets: list[int] | None,
    total: int,
    most: int,
    before: list[sa.ColumnElement[bool]],
) -> list[int]:
    """Return the ids of the newest items of facets (None: of all)."""
    query = sa.select(work_items.c.item_id).where(*before).order_by(work_items.c.item_id.desc())
    if facets is None:
        return list(conn.execute(query.limit(most)).scalars())
    if total <= EXACT_TOTAL:
        return _merged(conn, facets, most, before)
    # Many items match, so mostly some of the newest do; reading them is cheapest.
    newest = sa.select(work_items.c.item_id, work_items.c.facet_id).where(*before)
    newest = newest.order_by(work_items.c.item_id.desc()).limit(_NEWEST)
    ours = set(facets)
    seen = [row.item_id for row in conn.execute(newest) if row.facet_id in ours]
    return seen[:most] if len(seen) >= most else _merged(conn, facets, most, before)


def _merged(
    conn: sa.Connection, facets: list[int], most: int, before: list[sa.ColumnElement[bool]]
) -> list[int]:
    """Return the newest ``most`` ids of facets.

    They are in the ``most`` facets whose own newest items are the newest.
    """
    own = sa.select(sa.func.max(work_items.c.item_id)).where(
        work_items.c.facet_id == item_facets.c.facet_id, *before
    )
    heads: list[tuple[int, int]] = []
    for some in in_lists(facets):
        query = sa.select(own.scalar_subquery().label("newest"), item_facets.c.facet_id)
        rows = conn.execute(query.where(item_facets.c.facet_id.in_(some)))
        heads += [(row.newest, row.facet_id) for row in rows if row.newest is not None]
    heads = heapq.nlargest(most, heads)
    found: list[int] = []
    for newest, facet_id in heads:
        if len(found) >= most and newest < found[most - 1]:
            break
        query = (
            sa.select(work_items.c.item_id)
            .where(work_items.c.facet_id == facet_id, *before)
            .order_by(work_items.c.item_id.desc())
            .limit(most)
        )
        found = sorted([*found, *conn.execute(query).scalars()], reverse=True)[:most]
    return found
