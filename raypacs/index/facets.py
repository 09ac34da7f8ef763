"""Facets of work items: each combination of kind, state, node, AE title and priority there is.

There are few of them, so the task list counts and finds by any filter on these without reading
items. Rows stay when their last item goes; a combination that was there comes again.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from raypacs.index.engine import Txn, insert_into
from raypacs.index.schema import item_facets


class Facet(NamedTuple):
    """The values of a combination; names as in work_items."""

    kind: str
    state: str
    node: str
    ae_title: str
    priority: int


FIELDS = Facet._fields
_SAME = " AND ".join(f"item_facets.{name} = work_items.{name}" for name in FIELDS)
#: Statements that make facets of the items there are, after a bulk load or for the first time.
FILL = (
    "DELETE FROM item_facets",
    f"INSERT INTO item_facets ({', '.join(FIELDS)}, items) "
    f"SELECT {', '.join(FIELDS)}, COUNT(*) FROM work_items GROUP BY {', '.join(FIELDS)}",
    f"UPDATE work_items SET facet_id = (SELECT facet_id FROM item_facets WHERE {_SAME})",
)


def facet_of(item: Mapping[str, Any] | sa.RowMapping) -> Facet:
    """Return the combination that an item has."""
    return Facet(*(item[name] for name in FIELDS))


def enter(txn: Txn, facets: Iterable[Facet]) -> dict[Facet, int]:
    """Count items in; return the id of each facet."""
    ids = {}
    for facet, items in Counter(facets).items():
        row = {**facet._asdict(), "items": items}
        ids[facet] = txn.conn.execute(_entering(txn.conn.dialect.name), row).scalar_one()
    return ids


@functools.cache
def _entering(dialect: str) -> sa.Executable:
    """Return the statement of :func:`enter`: to make it costs more than to run it."""
    statement = insert_into(dialect, item_facets)
    counted = statement.on_conflict_do_update(
        index_elements=list(FIELDS),
        set_={"items": item_facets.c["items"] + statement.excluded["items"]},
    )
    return counted.returning(item_facets.c.facet_id)


def leave(txn: Txn, facet_ids: Iterable[int]) -> None:
    """Count items out."""
    rows = [{"_id": facet_id, "n": items} for facet_id, items in Counter(facet_ids).items()]
    if rows:
        statement = (
            sa.update(item_facets)
            .where(item_facets.c.facet_id == sa.bindparam("_id"))
            .values({"items": item_facets.c["items"] - sa.bindparam("n")})
        )
        txn.conn.execute(statement, rows)
