"""What the master remembers of polls, so that idle nodes cost nothing.

Lost with the master's process, and that does no harm: the index is asked again.
"""

from __future__ import annotations

from raypacs.policy.admission import poll_after_s
from raypacs.records import Assignment, Poll

_FORGOTTEN_AFTER_S = 60.0


class Polls:
    """Nodes that polled, and until when there is nothing for an idle one of them."""

    def __init__(self) -> None:
        self._idle_until_s: dict[str, float] = {}
        self._seen_s: dict[str, float] = {}

    def changed(self) -> None:
        """Something happened to the queue, to a node or to the settings: ask the index again."""
        self._idle_until_s.clear()

    def answer(self, asked: Poll, now: float) -> Assignment | None:
        """Return what an idle node gets where that is known to be nothing, else None."""
        self._seen_s[asked.node] = now
        if asked.running or now >= self._idle_until_s.get(asked.node, 0.0):
            return None
        return Assignment(poll_after_s=self.poll_after_s(now))

    def idle(self, asked: Poll, until_s: float) -> None:
        """Note that a node has nothing and gets nothing before ``until_s``, if nothing changes."""
        self._idle_until_s[asked.node] = until_s

    def poll_after_s(self, now: float) -> float:
        """Return the seconds after which a node should poll again."""
        lately = now - _FORGOTTEN_AFTER_S
        if min(self._seen_s.values(), default=now) < lately:
            self._seen_s = {node: at_s for node, at_s in self._seen_s.items() if at_s >= lately}
        return poll_after_s(len(self._seen_s))
