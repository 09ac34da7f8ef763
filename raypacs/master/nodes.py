"""The master's events about nodes."""

from __future__ import annotations

from raypacs.master.base import MasterBase
from raypacs.records import NodeInfo


class NodeEvents(MasterBase):
    """Nodes: seen."""

    def node_seen(self, node: NodeInfo) -> None:
        """Note a heartbeat; a new boot ends the node's leases and grants."""
        self._writer.node_seen(node, self._clock())
