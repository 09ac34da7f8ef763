"""Halting the queue, or a kind of work, and how it stands (``policy.halting``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import audit, ledger, settings, site
from raypacs.index.engine import Txn, add
from raypacs.index.items import find, is_waiting
from raypacs.index.schema import halts, item_counts, item_facets, meta, nodes, work_items
from raypacs.policy.halting import KindView, NodeView, Surroundings, state_of, whole
from raypacs.policy.kinds import KINDS, kind_of
from raypacs.policy.nodes import refusals
from raypacs.policy.queue import FINISHED, State

# In ``meta``: when a kind ('': the queue) was last resumed.
_RESUMED = "resumed "


def halt(txn: Txn, kind: str, who: str) -> None:
    """Give out no more work of ``kind`` ('' = any). Raises InvalidQuery."""
    if kind:
        kind_of(kind)
    row = {"kind": kind, "who": who, "at_s": txn.now}
    add(txn.conn, halts, [row], counters=[], replace=["who", "at_s"])
    audit.record(txn, "queue halted", who=who, detail={"kind": kind})


def resume(txn: Txn, kind: str, who: str) -> None:
    """Give out work of ``kind`` ('' = the queue as a whole) again. Raises InvalidQuery."""
    if kind:
        kind_of(kind)
    txn.conn.execute(sa.delete(halts).where(halts.c.kind == kind))
    site.put(txn, f"{_RESUMED}{kind}", 1, who)
    audit.record(txn, "queue resumed", who=who, detail={"kind": kind})


def queue_state(conn: sa.Connection, now: float) -> dict[str, Any]:
    """Return how the queue and each kind of which there are items, or that is halted, stands.

    Keys: state, why, kinds ({kind: {state, why, counts: {state: items}}}).
    """
    current = settings.read(conn)[1]
    counts, finished_s = _counts(conn)
    halted: dict[str, str] = {row.kind: row.who for row in conn.execute(sa.select(halts))}
    around = _surroundings(conn, current)
    begun_s = _begun_s(conn)
    running = sum(states.get(State.IN_PROCESS, 0) for states in counts.values())
    found: dict[str, dict[str, Any]] = {}
    for name in sorted((counts.keys() | halted.keys()) & KINDS.keys()):
        of_kind = counts.get(name, {})
        view = replace(
            _view(conn, name, of_kind),
            halted_by=halted.get("", halted.get(name)),
            finished_s=finished_s.get(name, 0.0),
            begun_s=max(begun_s[""], begun_s.get(name, 0.0)),
        )
        state, why = state_of(
            KINDS[name], view, around, now=now, stalled_after_s=current.stalled_after_s
        )
        found[name] = {"state": state, "why": why, "counts": of_kind}
    state, why = whole(
        [(name, kind["state"], kind["why"]) for name, kind in found.items()],
        halted_by=halted.get(""),
        running=running,
    )
    return {"state": state, "why": why, "kinds": found}


def counts_by_state(conn: sa.Connection) -> dict[str, dict[str, int]]:
    """Return how many items of each kind are in each state."""
    return _counts(conn)[0]


def _counts(conn: sa.Connection) -> tuple[dict[str, dict[str, int]], dict[str, float]]:
    counts: dict[str, dict[str, int]] = {}
    finished_s: dict[str, float] = {}
    rows = conn.execute(sa.select(item_counts).order_by(item_counts.c.kind, item_counts.c.state))
    for row in rows.mappings():
        if row["items"]:
            counts.setdefault(row["kind"], {})[row["state"]] = row["items"]
        if row["state"] in FINISHED and row["state"] != State.CANCELED:
            finished_s[row["kind"]] = max(finished_s.get(row["kind"], 0.0), row["last_s"])
    return counts, finished_s


def _begun_s(conn: sa.Connection) -> dict[str, float]:
    """Return since when work is given out: of a kind that was resumed, and ('') of any."""
    rows = conn.execute(
        sa.select(meta.c.name, meta.c.at_s).where(
            sa.or_(meta.c.name == "epoch", meta.c.name.startswith(_RESUMED))
        )
    )
    found = {row.name: float(row.at_s) for row in rows}
    claimed_s = found.pop("epoch", 0.0)
    by_kind = {name.removeprefix(_RESUMED): at_s for name, at_s in found.items()}
    return by_kind | {"": max(claimed_s, by_kind.get("", 0.0))}


def _view(conn: sa.Connection, kind: str, counts: dict[str, int]) -> KindView:
    oldest = conn.execute(
        sa.select(work_items.c.due_s, work_items.c.wanted_node)
        .where(is_waiting, work_items.c.kind == kind)
        .order_by(work_items.c.due_s)
        .limit(1)
    ).one_or_none()
    found = KindView(
        running=counts.get(State.IN_PROCESS, 0),
        oldest_due_s=oldest.due_s if oldest else None,
        bound_to=oldest.wanted_node if oldest else "",
    )
    tried = _tried_longest(conn, kind) if counts.get(State.SCHEDULED_FOR_RETRY) else None
    if tried is None:
        return found
    found = replace(found, cause=f"item {tried['item_id']}: {tried['error']}")
    due_s = _due_since_s(conn, tried)
    if found.oldest_due_s is not None and found.oldest_due_s <= due_s:
        return found
    return replace(found, oldest_due_s=due_s, bound_to=tried["wanted_node"])


def _tried_longest(conn: sa.Connection, kind: str) -> sa.RowMapping | None:
    """Return the oldest item that was tried and waits for another try."""
    facets = sa.select(item_facets.c.facet_id).where(
        item_facets.c.kind == kind,
        item_facets.c.state == State.SCHEDULED_FOR_RETRY.value,
        item_facets.c["items"] > 0,
    )
    query = sa.select(sa.func.min(work_items.c.item_id)).where(work_items.c.facet_id.in_(facets))
    item_id = conn.execute(query).scalar()
    return None if item_id is None else find(conn, item_id)


def _due_since_s(conn: sa.Connection, item: sa.RowMapping) -> float:
    """Return since when an item that was tried is due: each try pushed its time ahead."""
    asked = audit.newest(conn, item["study_uid"], item["item_id"], ("scheduled", "rescheduled"))
    if asked is None:
        return float(item["created_s"])
    return max(float(asked["at_s"]), float(asked["detail"].get("due_s") or 0.0))


def _surroundings(conn: sa.Connection, current: Settings) -> Surroundings:
    accounts = ledger.read(conn)
    there = {name for name, account in accounts.items() if account.reachable}
    missing: dict[str, str] = {}
    for role in sorted({tier.role for tier in current.tiers}):
        of_role = [tier for tier in current.tiers if tier.role == role]
        reached = [tier for tier in of_role if tier.name in there]
        if not reached:
            missing[role] = f"no {role} tier can be reached"
        elif role == "web" and all(accounts[t.name].available_bytes <= 0 for t in reached):
            missing[role] = f"every {role} tier is full"
    live = conn.execute(sa.select(nodes).where(nodes.c.lost_s == 0, nodes.c.left_s == 0))
    return Surroundings(
        tuple(
            _node(row, current, there) for row in live.mappings() if not refusals(row["problems"])
        ),
        tiers_missing=missing,
    )


def _node(row: sa.RowMapping, current: Settings, there: set[str]) -> NodeView:
    return NodeView(
        row["name"],
        draining=bool(row["draining"]),
        kinds=tuple(row["info"].get("kinds") or KINDS),
        roles_lacking=frozenset(roles_lacking(row["info"], current, there)),
    )


def roles_lacking(info: dict[str, Any], current: Settings, there: set[str]) -> set[str]:
    """Return the roles of tiers that are ``there`` (the master reaches them), but not for a node.

    What nobody reaches is no fault of the node: its work waits for the tier, and says so.
    """
    reached = info.get("tiers")
    if reached is None:
        return set()  # it has not looked yet
    return {tier.role for tier in current.tiers if tier.name in there.difference(reached)}
