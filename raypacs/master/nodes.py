"""The master's events about nodes, and about itself: seen, left, drained, moved."""

from __future__ import annotations

import logging
from typing import Any

from raypacs import __version__
from raypacs.errors import NotFound
from raypacs.master.base import MasterBase
from raypacs.policy.nodes import DUPLICATE, problems, refusals, silent
from raypacs.records import Lease, NodeAnswer, NodeInfo

log = logging.getLogger(__name__)

HEARD_EVERY_S = 5.0
MOVE_FOR_S = 60.0


class NodeEvents(MasterBase):
    """Nodes: seen, lost, drained; the master's own place."""

    def node_seen(self, node: NodeInfo) -> NodeAnswer:
        """Note a heartbeat; a new boot ends the node's leases and grants."""
        now = self._clock()
        if self._roll.superseded(node):
            return NodeAnswer((DUPLICATE,))
        found = problems(
            node,
            bootstrap_hash=self._bootstrap_hash,
            version=__version__,
            tiers=[tier.name for tier in self._tiers.reachable()],
        )
        if refusals(found) and self._roll.names_another(node):
            # The node that is there keeps its name, its leases and its work.
            log.warning("node refused", extra={"node": node.name, "problems": list(found)})
            return NodeAnswer(found)
        if self._roll.news(node, found):
            self._writer.node_seen(node, now, found)
            self._polls.changed()
        self._roll.heard(node, found, now)
        wanted, until_s = self._wanted
        take = wanted == node.name and now < until_s
        if take:
            self._wanted = ("", 0.0)
        return NodeAnswer(found, take_master=take)

    def node_left(self, name: str, boot: str) -> None:
        """Note that a node ended in order; what it did not finish is given to others."""
        self._writer.node_left(name, boot, self._clock())
        self._roll.left(name, boot)
        self._polls.changed()

    def drain(self, name: str, who: str) -> dict[str, Any]:
        """Let a node finish what runs and get nothing new; return the node. Raises NotFound."""
        self._writer.drain(name, who, self._clock(), draining=True)
        self._polls.changed()
        return self._node(name)

    def undrain(self, name: str, who: str) -> dict[str, Any]:
        """Let a node work again; return it. Raises NotFound."""
        self._writer.drain(name, who, self._clock(), draining=False)
        self._polls.changed()
        return self._node(name)

    def move_master(self, to: str, who: str) -> dict[str, Any]:
        """Let node ``to`` ('': any other live one) take the master over with its next heartbeat.

        Returns:
            from, to (node names) and the epoch that ends.

        Raises:
            NotFound: no such node, or it is not live or not of role master.
        """
        now = self._clock()
        able = [
            node["name"]
            for node in self._reader.nodes(now)
            if node["state"] == "live" and "master" in node["roles"]
        ]
        others = [name for name in able if name != self._node_name]
        if to not in able and (to or not others):
            who_can = ", ".join(able) or "none"
            raise NotFound(f"node {to or '(any other)'} cannot be master; these can: {who_can}")
        target = to or others[0]
        if target != self._node_name:
            self._wanted = (target, now + MOVE_FOR_S)
        detail = {"from": self._node_name, "to": target, "epoch": self.epoch}
        self._writer.audit("master moves", now, node=target, who=who, detail=detail)
        return detail

    def _node(self, name: str) -> dict[str, Any]:
        for node in self._reader.nodes(self._clock()):
            if node["name"] == name:
                return node
        raise NotFound(f"no node {name!r}", node=name)

    def _look_for_nodes(self, now: float) -> list[Lease]:
        """Declare nodes lost that were not heard; return the attempts that died with them."""
        dead: list[Lease] = []
        lost_s = self._reader.settings()[1].node_lost_s
        gone = silent(self._roll.heard_s(), lost_s=lost_s, now=now)
        if gone:
            log.warning("nodes lost", extra={"nodes": gone})
            dead = self._writer.nodes_lost(gone, now)
            self._roll.forget(gone)
            self._polls.changed()  # what was bound to them is for others now
        if now >= self._due.nodes_s:
            self._due.nodes_s = now + HEARD_EVERY_S
            unwritten = self._roll.unwritten_s()
            if unwritten:
                self._writer.nodes_heard(unwritten, now)
        return dead
