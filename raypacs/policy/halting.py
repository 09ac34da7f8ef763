"""How a kind of work stands: running, halting, halted or stalled, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from raypacs import moments
from raypacs.policy.kinds import Kind


class QueueState(StrEnum):
    """State of the queue, or of one kind of work."""

    RUNNING = "running"  # work is given out as it comes due
    HALTING = "halting"  # nothing new is given out; what runs goes on
    HALTED = "halted"  # nothing runs
    STALLED = "stalled"  # work is due, and nothing was finished for long


@dataclass(frozen=True, slots=True)
class NodeView:
    """What matters of a node: can it get work of a kind, and if not, why."""

    name: str
    draining: bool = False
    kinds: tuple[str, ...] = ()
    roles_lacking: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KindView:
    """What matters of a kind: its items, and the one that is due longest.

    ``oldest_due_s`` None: nothing waits; of an item that was tried, since when it is due, not when
    its next try comes. ``bound_to``: the node that this oldest item is bound to, '' any.
    ``finished_s``: when an item was last finished, 0 never. ``begun_s``: since when work of the
    kind is given out (resumed, or the master's start). ``cause``: why the oldest item that was
    tried waits, '' without any.
    """

    running: int = 0
    halted_by: str | None = None
    oldest_due_s: float | None = None
    bound_to: str = ""
    finished_s: float = 0.0
    begun_s: float = 0.0
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Live nodes, and roles of tiers of which none can be reached, or all are full."""

    nodes: tuple[NodeView, ...] = ()
    tiers_missing: Mapping[str, str] = field(default_factory=dict)
    """Role to what is wrong with its tiers: 'no web tier can be reached', 'every ... is full'."""


def state_of(
    kind: Kind, view: KindView, around: Surroundings, *, now: float, stalled_after_s: float
) -> tuple[QueueState, str]:
    """Return how a kind stands, and what it waits for ('': nothing)."""
    if view.halted_by is not None:
        by = f"halted by {view.halted_by}" if view.halted_by else "halted"
        if view.running:
            return QueueState.HALTING, f"{by}; waits for the end of {view.running} running"
        return QueueState.HALTED, by
    if view.oldest_due_s is None:
        return QueueState.RUNNING, ""
    if view.oldest_due_s > now:
        return QueueState.RUNNING, f"next due at {moments.told(view.oldest_due_s)}"
    why = _waits_for(kind, view, around)
    runs = f"{view.running} running" if view.running else ""
    since_s = now - max(view.oldest_due_s, view.finished_s, view.begun_s)
    if since_s < stalled_after_s:
        return QueueState.RUNNING, why or runs or view.cause
    nothing = f"nothing was finished for {since_s / 60:.0f} minutes"
    return QueueState.STALLED, why or view.cause or (f"{nothing}; {runs}" if runs else nothing)


def _waits_for(kind: Kind, view: KindView, around: Surroundings) -> str:
    """Say why nobody can take the item that is due longest; '' where somebody can."""
    for role in kind.tiers:
        if role in around.tiers_missing:
            return around.tiers_missing[role]
    nodes = [node for node in around.nodes if kind.name in node.kinds]
    if not nodes:
        return f"no live node does {kind.name}" if around.nodes else "no live node"
    if view.bound_to:
        nodes = [node for node in nodes if node.name == view.bound_to]
        if not nodes:
            return f"bound to node {view.bound_to}, which is not there"
    blocked = [reason for node in nodes if (reason := _blocked(kind, node))]
    if len(blocked) < len(nodes):
        return ""
    bound = f"bound to node {view.bound_to}: " if view.bound_to else ""
    return bound + "; ".join(sorted(blocked))


def _blocked(kind: Kind, node: NodeView) -> str:
    if node.draining:
        return f"node {node.name} is draining"
    lacking = sorted(node.roles_lacking.intersection(kind.tiers))
    return f"node {node.name} does not reach every {lacking[0]} tier" if lacking else ""


def whole(
    kinds: Iterable[tuple[str, QueueState, str]], *, halted_by: str | None, running: int
) -> tuple[QueueState, str]:
    """Return how the whole queue stands, from its kinds (name, state, why)."""
    if halted_by is not None:
        by = f"halted by {halted_by}" if halted_by else "halted"
        if running:
            return QueueState.HALTING, f"{by}; waits for the end of {running} running"
        return QueueState.HALTED, by
    stalled = [f"{name}: {why}" for name, state, why in kinds if state == QueueState.STALLED]
    if stalled:
        return QueueState.STALLED, "; ".join(stalled)
    return QueueState.RUNNING, ""
