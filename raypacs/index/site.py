"""What the index knows of itself as a site: its identity, its epoch, the tiers it adopted.

All of it lies in ``meta``. A tier that was adopted carries this site's marker
(``layout.site_marker``); one that lost it is not mounted, and nothing may be written to or deleted
from what lies in its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from raypacs.index import audit
from raypacs.index.engine import Txn, insert
from raypacs.index.schema import audit as audit_rows
from raypacs.index.schema import meta

_TIER = "tier "


@dataclass(frozen=True, slots=True)
class Site:
    """The site as the index says it is; ``site_id`` is '' before the first claim.

    ``adopted``: URLs of the tiers that carry the site's marker. ``reconcile``: why index and tiers
    must be compared before anything is deleted ('': they need not).
    """

    site_id: str
    epoch: int
    adopted: frozenset[str]
    reconcile: str


def read(conn: sa.Connection) -> Site:
    """Return what the index says of its site."""
    ours = sa.or_(
        meta.c.name.in_(("site_id", "epoch", "reconcile")),
        meta.c.name.startswith(_TIER, autoescape=True),
    )
    rows = {row.name: row for row in conn.execute(sa.select(meta).where(ours))}
    epoch, site_id, again = (rows.get(name) for name in ("epoch", "site_id", "reconcile"))
    return Site(
        site_id=site_id.value if site_id else "",
        epoch=epoch.number if epoch else 0,
        adopted=frozenset(
            name.removeprefix(_TIER) for name, row in rows.items() if name.startswith(_TIER)
        ),
        reconcile=(again.value or "asked for") if again and again.number else "",
    )


def name_site(engine: sa.Engine, site_id: str, now: float) -> None:
    """Give an index that is new the identity of the site whose tiers it is made from."""
    row = {"name": "site_id", "number": 0, "value": site_id, "at_s": now}
    with engine.begin() as conn:
        statement = insert(conn, meta).values(row)
        conn.execute(statement.on_conflict_do_nothing(index_elements=["name"]))


def epoch(conn: sa.Connection) -> int:
    """Return the newest epoch that was claimed, 0 without any."""
    return int(conn.execute(sa.select(meta.c.number).where(meta.c.name == "epoch")).scalar() or 0)


def sequence(conn: sa.Connection) -> int:
    """Return the number of the newest change: it never goes down in one index's life."""
    newest = conn.execute(sa.select(sa.func.max(audit_rows.c.audit_id))).scalar() or 0
    kept = conn.execute(sa.select(meta.c.number).where(meta.c.name == "sequence")).scalar() or 0
    return max(int(newest), int(kept))


def keep_sequence(txn: Txn, at_least: int = 0) -> int:
    """Write the sequence down, ``at_least`` that of the tiers' markers, and return it."""
    now = max(sequence(txn.conn), at_least)
    put(txn, "sequence", now, "")
    return now


def adopt(txn: Txn, url: str, tier: str) -> None:
    """Note that the tier at ``url`` carries this site's marker."""
    put(txn, f"{_TIER}{url}", 1, tier)
    audit.record(txn, "tier adopted", detail={"tier": tier})


def need_reconcile(txn: Txn, why: str) -> None:
    """Switch deletions off until index and tiers were compared."""
    put(txn, "reconcile", 1, why)
    audit.record(txn, "reconcile needed", detail={"why": why})


def reconciled(txn: Txn, detail: dict[str, int]) -> None:
    """Switch deletions on again: index and tiers were compared."""
    put(txn, "reconcile", 0, "")
    audit.record(txn, "reconciled", detail=detail)


def put(txn: Txn, name: str, number: int, value: str) -> None:
    """Write one value of ``meta``."""
    row = {"name": name, "number": number, "value": value, "at_s": txn.now}
    statement = insert(txn.conn, meta).values(row)
    txn.conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_={"number": number, "value": value, "at_s": txn.now}
        )
    )
