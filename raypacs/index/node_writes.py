"""Writes about nodes: heartbeats, draining, loss."""

from __future__ import annotations

from raypacs.index import nodes
from raypacs.index.writing import Writing
from raypacs.records import NodeInfo


class NodeWrites(Writing):
    """The nodes' part of the writer."""

    def node_seen(self, node: NodeInfo, now: float) -> None:
        """Note a node's heartbeat."""
        with self.transaction(now) as txn:
            nodes.seen(txn, node)
