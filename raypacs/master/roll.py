"""What the master knows of nodes between two writes: when each was heard, and what it said.

Heartbeats of a thousand nodes are not a thousand transactions: only what changed is written at
once, the times of all together every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raypacs.records import NodeInfo


@dataclass
class Member:
    """A node as it was last heard (``heard_s``); ``problems`` as they are written down.

    ``spared``: it got time because the master was away, and was not heard since.
    """

    info: NodeInfo | None
    boot: str
    heard_s: float
    problems: tuple[str, ...] = ()
    spared: bool = False


class Roll:
    """The nodes that count as there, by name."""

    def __init__(self, known: Iterable[dict[str, Any]], now: float) -> None:
        """Begin with the nodes of the index: each has time to be heard by a new master.

        However long ago it was heard: one that died while there was no master must be found lost.
        """
        self.members = {
            row["name"]: Member(None, row["boot"], now)
            for row in known
            if not row["lost_s"] and not row["left_s"]
        }
        self._past: set[str] = set()  # boots of lives that another life of the node followed
        self._written_s: dict[str, float] = {}

    def superseded(self, info: NodeInfo) -> bool:
        """Whether a later life of the node, or another node of its name, was heard already."""
        return info.boot in self._past

    def names_another(self, info: NodeInfo) -> bool:
        """Whether the node of that name that is there is another (life of it)."""
        member = self.members.get(info.name)
        return member is not None and member.boot != info.boot

    def news(self, info: NodeInfo, problems: tuple[str, ...]) -> bool:
        """Whether what a node says is not written down yet."""
        member = self.members.get(info.name)
        return member is None or member.info != info or member.problems != problems

    def heard(self, info: NodeInfo, problems: tuple[str, ...], now: float) -> None:
        """Keep what a node said."""
        member = self.members.get(info.name)
        if member is not None and member.boot != info.boot:
            self._past.add(member.boot)
        self.members[info.name] = Member(info, info.boot, now, problems)

    def polled(self, name: str, boot: str, now: float) -> bool:
        """Note that a node's dispatcher polled: it is there; False: its life ended already."""
        member = self.members.get(name)
        if member is None:
            return boot not in self._past
        if member.boot != boot:
            return False
        member.heard_s, member.spared = now, False
        return True

    def later(self, by_s: float, now: float) -> None:
        """The master could hear nobody for ``by_s`` seconds, or its clock was set: no silence.

        Only once for each word: a master that is away again and again must find the dead as well.
        """
        for member in self.members.values():
            if not member.spared or by_s < 0:
                member.heard_s = min(now, member.heard_s + by_s)
                member.spared = True

    def left(self, name: str, boot: str) -> None:
        """This life of a node ended; another one of it may be there already."""
        member = self.members.get(name)
        if member is not None and member.boot == boot:
            del self.members[name]

    def forget(self, names: Iterable[str]) -> None:
        """These are lost."""
        for name in names:
            self.members.pop(name, None)

    def heard_s(self) -> dict[str, float]:
        """When each node was last heard."""
        return {name: member.heard_s for name, member in self.members.items()}

    def unwritten_s(self) -> dict[str, float]:
        """Return the times that are not written down yet; they count as written now."""
        now = self.heard_s()
        new = {name: at_s for name, at_s in now.items() if self._written_s.get(name) != at_s}
        self._written_s = now
        return new
