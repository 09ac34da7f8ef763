"""Old finished items leave the task list for the statistics: pseudonymous, without their texts."""

from __future__ import annotations

import re

import sqlalchemy as sa

from raypacs.index import audit
from raypacs.index.engine import Txn
from raypacs.index.items import remove
from raypacs.index.schema import work_items
from raypacs.policy.queue import FINISHED, Priority

# As in "TierFull: web1 has no room": what follows may name files or studies.
_ERROR_KIND = re.compile(r"([A-Za-z]\w*):")
_KEPT = ("study_uid", "kind", "state", "node", "created_s", "started_s", "finished_s")


def retire(txn: Txn, before_s: float, limit: int) -> int:
    """Let up to ``limit`` items that ended before ``before_s`` leave; return how many did."""
    query = (
        sa.select(work_items)
        .where(work_items.c.updated_s < before_s, work_items.c.state.in_(FINISHED))
        .order_by(work_items.c.updated_s)
        .limit(limit)
    )
    items = list(txn.conn.execute(query).mappings())
    audit.publish(
        txn,
        "items",
        [
            {
                **{name: item[name] for name in _KEPT},
                "source": item["ae_title"],
                "priority": Priority(item["priority"]).name.lower(),
                "attempts": item["attempt"],
                "deaths": item["deaths"],
                "error": error_kind(item["error"]),
            }
            for item in items
        ],
    )
    remove(txn, items)
    return len(items)


def error_kind(error: str) -> str:
    """Return the kind of an error text: the class it begins with, 'other', or '' for none."""
    found = _ERROR_KIND.match(error)
    return found[1] if found else "other" if error else ""
