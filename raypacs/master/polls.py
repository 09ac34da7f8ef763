"""What the master remembers of polls, so that idle nodes cost nothing.

Lost with the master's process, and that does no harm: the index is asked again.
"""

from __future__ import annotations

from raypacs.policy.admission import poll_after_s
from raypacs.records import Assignment, Poll

_FORGOTTEN_AFTER_S = 60.0


class Polls:
    """Nodes that polled, and until when there is nothing for an idle one of them.

    A node is idle when its last poll that reached the index held nothing and got nothing: only
    then may it be answered from memory, as one whose answer was lost holds a lease unawares.
    """

    def __init__(self) -> None:
        self._idle_until_s: dict[str, float] = {}
        self._nobody_until_s = 0.0
        # In order of their last poll, the longest ago first.
        self._seen_s: dict[str, float] = {}

    def changed(self) -> None:
        """Something happened to the queue, to a node or to the settings: ask the index again."""
        self._nobody_until_s = 0.0
        self._idle_until_s = dict.fromkeys(self._idle_until_s, 0.0)

    def answer(self, asked: Poll, now: float) -> Assignment | None:
        """Return what an idle node gets where that is known to be nothing, else None."""
        self._seen_s.pop(asked.node, None)
        self._seen_s[asked.node] = now
        idle_until_s = self._idle_until_s.get(asked.node)
        if asked.running or idle_until_s is None or now >= max(idle_until_s, self._nobody_until_s):
            self._idle_until_s.pop(asked.node, None)
            return None
        return Assignment(poll_after_s=self.poll_after_s(now))

    def idle(self, asked: Poll, until_s: float, *, nobody: bool = False) -> None:
        """Note that a node has nothing and gets nothing before ``until_s``, if nothing changes.

        ``nobody``: no other node would get anything before then either.
        """
        self._idle_until_s[asked.node] = until_s
        if nobody:
            self._nobody_until_s = until_s

    def poll_after_s(self, now: float) -> float:
        """Return the seconds after which a node should poll again."""
        lately = now - _FORGOTTEN_AFTER_S
        if next(iter(self._seen_s.values()), now) < lately:
            self._seen_s = {node: at_s for node, at_s in self._seen_s.items() if at_s >= lately}
        return poll_after_s(len(self._seen_s))
