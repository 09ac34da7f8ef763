"""The nodes of the cluster, as they last described themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from raypacs.index import audit, ledger, queue
from raypacs.index.engine import Txn, add
from raypacs.index.schema import nodes
from raypacs.records import NodeInfo


def seen(txn: Txn, node: NodeInfo) -> None:
    """Note a node's heartbeat.

    A boot that is not the one known means that its processes started anew: what they held is let
    go (leases, and byte grants of the holders ``name`` and ``name/...``).
    """
    known = txn.conn.execute(
        sa.select(nodes.c.boot, nodes.c.joined_s).where(nodes.c.name == node.name)
    ).one_or_none()
    joined_s = txn.now
    if known is not None and known.boot == node.boot:
        joined_s = known.joined_s
    else:
        queue.end_leases_of(txn, node.name)
        ledger.release(txn, node.name)
        audit.record(
            txn,
            "node joined",
            node=node.name,
            detail={"boot": node.boot, "version": node.version, "roles": list(node.roles)},
        )
    row = {
        "name": node.name,
        "boot": node.boot,
        "info": asdict(node),
        "joined_s": joined_s,
        "seen_s": txn.now,
    }
    add(txn.conn, nodes, [row], counters=[], replace=["boot", "info", "joined_s", "seen_s"])


def read(conn: sa.Connection) -> list[dict[str, Any]]:
    """Return every node: the fields of NodeInfo, joined_s and seen_s."""
    found = conn.execute(sa.select(nodes).order_by(nodes.c.name)).mappings()
    return [{**row["info"], "joined_s": row["joined_s"], "seen_s": row["seen_s"]} for row in found]
