"""Nodes: what is wrong with one, and its state. Pure; times are seconds since the epoch (UTC)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raypacs.records import NodeInfo

REFUSED = "refused: "
"""Begins the problems with which a node gets no work at all."""

DUPLICATE = f"{REFUSED}another node has taken its name"


def problems(
    node: NodeInfo,
    *,
    bootstrap_hash: str,
    version: str,
    tiers: Iterable[str],
) -> tuple[str, ...]:
    """Return why ``node`` gets no work, or not all of it, for people to read.

    ``bootstrap_hash`` and ``version`` are the master's ('' compares nothing), ``tiers`` the names
    of those it reaches.
    """
    found = []
    if bootstrap_hash and node.bootstrap_hash != bootstrap_hash:
        found.append(
            f"{REFUSED}its configuration (hash {node.bootstrap_hash}) is not the cluster's "
            f"({bootstrap_hash}): index_url and ae_title must agree"
        )
    if version and node.version != version:
        found.append(f"{REFUSED}its version {node.version} is not the cluster's ({version})")
    if node.tiers is not None:  # else it has not looked yet
        missing = sorted(set(tiers) - set(node.tiers))
        found += [f"it does not reach tier {name}" for name in missing]
    return tuple(found)


def refusals(found: Iterable[str]) -> tuple[str, ...]:
    """Return the problems that refuse a node, without the word."""
    return tuple(one.removeprefix(REFUSED) for one in found if one.startswith(REFUSED))


def state(row: Mapping[str, Any], *, running: int, lost_s: float, now: float) -> str:
    """Return live, draining, drained, lost, left or refused.

    ``row`` has left_s, lost_s, seen_s, problems, draining; ``running`` counts its work items,
    ``lost_s`` is the setting node_lost_s.
    """
    if row["left_s"]:
        return "left"
    if refusals(row["problems"]):
        return "refused"
    # Twice: with the master away nobody is heard, and nobody is lost for that.
    if row["lost_s"] or now - row["seen_s"] > 2 * lost_s:
        return "lost"
    if row["draining"]:
        return "draining" if running else "drained"
    return "live"


def silent(heard_s: Mapping[str, float], *, lost_s: float, now: float) -> list[str]:
    """Return the nodes that were not heard for ``lost_s`` seconds."""
    return sorted(name for name, at_s in heard_s.items() if now - at_s > lost_s)
