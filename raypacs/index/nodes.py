"""The nodes of the cluster: as they last described themselves, drained, lost, gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.errors import NotFound
from raypacs.index import audit, ledger
from raypacs.index.engine import Txn, add
from raypacs.index.items import find_where, is_running, is_waiting
from raypacs.index.leasing import end_attempts
from raypacs.index.queue import end_leases_of
from raypacs.index.schema import nodes, work_items
from raypacs.policy.nodes import refusals, state
from raypacs.policy.retry import Retry
from raypacs.records import Lease, NodeInfo


def seen(txn: Txn, node: NodeInfo, problems: Sequence[str] = ()) -> None:
    """Note what a node says of itself, and what is wrong with it.

    A boot that is not the one known means that its processes started anew: what they held is let
    go (leases, and byte grants of the holders ``name`` and ``name/...``). One that is refused takes
    nothing from a node of its name that is there.
    """
    known = (
        txn.conn.execute(sa.select(nodes).where(nodes.c.name == node.name)).mappings().one_or_none()
    )
    if refusals(problems) and known is not None and known["boot"] != node.boot and _there(known):
        return
    joined_s, event = txn.now, "node joined"
    if known is not None and known["boot"] == node.boot:
        joined_s = known["joined_s"]
        event = "node back" if known["lost_s"] or known["left_s"] else ""
    else:
        end_leases_of(txn, node.name)
        ledger.release(txn, node.name)
    row = {
        "name": node.name,
        "boot": node.boot,
        "info": asdict(node),
        "joined_s": joined_s,
        "seen_s": txn.now,
        "lost_s": 0.0,
        "left_s": 0.0,
        "problems": list(problems),
    }
    add(txn.conn, nodes, [row], counters=[], replace=[name for name in row if name != "name"])
    if event:
        detail = {"boot": node.boot, "version": node.version, "roles": list(node.roles)}
        audit.record(txn, event, node=node.name, detail=detail)
    if list(problems) != (known["problems"] if known is not None else []):
        audit.record(txn, "node problems", node=node.name, detail={"problems": list(problems)})


def _there(row: Mapping[str, Any] | sa.RowMapping) -> bool:
    return not (row["lost_s"] or row["left_s"] or refusals(row["problems"]))


def heard(txn: Txn, seen_s: Mapping[str, float]) -> None:
    """Keep when nodes were last heard."""
    if seen_s:
        txn.conn.execute(
            sa.update(nodes)
            .where(nodes.c.name == sa.bindparam("_name"))
            .values(seen_s=sa.bindparam("_seen_s")),
            [{"_name": name, "_seen_s": at_s} for name, at_s in seen_s.items()],
        )


def lost(txn: Txn, name: str, settings: Settings, retry: Retry, chance: float) -> list[Lease]:
    """Declare a node lost: its attempts are dead, its bound items go to any other.

    Returns:
        The dead attempts.
    """
    txn.conn.execute(sa.update(nodes).where(nodes.c.name == name).values(lost_s=txn.now))
    items = find_where(txn.conn, is_running, work_items.c.node == name)
    dead = end_attempts(txn, items, settings, retry, chance, "lost with its node")
    unbound = _unbind(txn, name)
    ledger.release(txn, name)
    audit.record(txn, "node lost", node=name, detail={"attempts": len(dead), "unbound": unbound})
    return dead


def left(
    txn: Txn, name: str, boot: str, settings: Settings, retry: Retry, chance: float
) -> list[Lease]:
    """Note that this life of a node ended in order; what it did not finish goes to others.

    Returns:
        The attempts that were not finished; none if another life of the node began already.
    """
    changed = txn.conn.execute(
        sa.update(nodes).where(nodes.c.name == name, nodes.c.boot == boot).values(left_s=txn.now)
    )
    if not changed.rowcount:
        return []
    items = find_where(txn.conn, is_running, work_items.c.node == name)
    dead = end_attempts(txn, items, settings, retry, chance, "left unfinished")
    unbound = _unbind(txn, name)
    ledger.release(txn, name)
    audit.record(txn, "node left", node=name, detail={"attempts": len(dead), "unbound": unbound})
    return dead


def _unbind(txn: Txn, name: str) -> int:
    changed = txn.conn.execute(
        sa.update(work_items)
        .where(is_waiting, work_items.c.wanted_node == name)
        .values(wanted_node="", note=f"node {name} is gone, so any", updated_s=txn.now)
    )
    return int(changed.rowcount)


def master_was_away(txn: Txn, since_s: float, by_s: float) -> None:
    """Move the end of the leases that ran at ``since_s`` by ``by_s`` seconds.

    Nobody could renew them: the master did nothing for so long, or its clock was set (``by_s`` is
    less than 0 where it was set back).
    """
    changed = txn.conn.execute(
        sa.update(work_items)
        .where(is_running, work_items.c.expires_at_s > since_s)
        .values(expires_at_s=work_items.c.expires_at_s + by_s)
    )
    detail = {"away_s": round(by_s, 3), "leases": int(changed.rowcount)}
    audit.record(txn, "master was away", detail=detail)


def drain(txn: Txn, name: str, who: str, *, draining: bool) -> None:
    """Let a node finish what runs and get nothing new, or work again. Raises NotFound."""
    changed = txn.conn.execute(
        sa.update(nodes).where(nodes.c.name == name).values(draining=draining)
    )
    if not changed.rowcount:
        raise NotFound(f"no node {name!r}", node=name)
    audit.record(txn, "node drains" if draining else "node works again", node=name, who=who)


def read(conn: sa.Connection, now: float, lost_s: float) -> list[dict[str, Any]]:
    """Return every node: the fields of NodeInfo, joined_s, seen_s, lost_s, left_s, draining,
    problems, running (its work items) and state (``policy.nodes.state``)."""
    counted = sa.select(work_items.c.node, sa.func.count()).where(is_running)
    running = {row[0]: row[1] for row in conn.execute(counted.group_by(work_items.c.node))}
    found = []
    for row in conn.execute(sa.select(nodes).order_by(nodes.c.name)).mappings():
        works = running.get(row["name"], 0)
        own = {name: value for name, value in row.items() if name not in ("info", "boot", "name")}
        found.append(
            {
                **row["info"],
                "tiers": row["info"].get("tiers") or [],  # a node that has not looked has none
                **own,
                "running": works,
                "state": state(own, running=works, lost_s=lost_s, now=now),
            }
        )
    return found
