"""Writes about nodes: heartbeats, draining, loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from raypacs.index import nodes, settings, site
from raypacs.index.schema import meta
from raypacs.index.writing import Writing, retry_of
from raypacs.records import Lease, NodeInfo

_MASTERS = "masters"


class NodeWrites(Writing):
    """The nodes' part of the writer."""

    def master_began(self, now: float) -> int:
        """Count a master that began; return how many did before. Maintenance does not count."""
        with self.transaction(now) as txn:
            query = sa.select(meta.c.number).where(meta.c.name == _MASTERS)
            before = int(txn.conn.execute(query).scalar() or 0)
            site.put(txn, _MASTERS, before + 1, "")
            return before

    def node_seen(self, node: NodeInfo, now: float, problems: Sequence[str] = ()) -> None:
        """Note what a node says of itself, and its problems."""
        with self.transaction(now) as txn:
            nodes.seen(txn, node, problems)

    def nodes_heard(self, seen_s: Mapping[str, float], now: float) -> None:
        """Keep when nodes were last heard, all in one transaction."""
        with self.transaction(now) as txn:
            nodes.heard(txn, seen_s)

    def nodes_lost(self, names: Iterable[str], now: float) -> list[Lease]:
        """Declare nodes lost; return the attempts that died with them."""
        with self.transaction(now, durable=True) as txn:
            current, retry = settings.read(txn.conn)[1], retry_of(txn)
            return [
                lease
                for name in names
                for lease in nodes.lost(txn, name, current, retry, self._chance())
            ]

    def node_left(self, name: str, boot: str, now: float) -> list[Lease]:
        """Note that a node ended in order; return the attempts that it did not finish."""
        with self.transaction(now) as txn:
            current, retry = settings.read(txn.conn)[1], retry_of(txn)
            return nodes.left(txn, name, boot, current, retry, self._chance())

    def master_was_away(self, since_s: float, now: float) -> None:
        """Give the leases that ran at ``since_s`` the time until ``now`` back."""
        with self.transaction(now) as txn:
            nodes.master_was_away(txn, since_s, now - since_s)

    def drain(self, name: str, who: str, now: float, *, draining: bool) -> None:
        """Let a node finish what runs and get nothing new, or work again. Raises NotFound."""
        with self.transaction(now, durable=True) as txn:
            nodes.drain(txn, name, who, draining=draining)
