"""What was made a moment ago: pictures by their entity tag, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class Kept(Generic[T]):
    """The least recently used values, at most ``most_bytes``; made once for all who ask."""

    most_bytes: int
    _kept: OrderedDict[str, tuple[T, int]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _busy: dict[str, threading.Lock] = field(default_factory=dict)

    def get(self, key: str) -> T | None:
        """Return the value if it is there."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def once(self, key: str, make: Callable[[], tuple[T, int]]) -> T:
        """Return the value; ``make`` gives it and its size in bytes. Raises what ``make`` does."""
        found = self.get(key)
        if found is not None:
            return found
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            # Whoever held `busy` before has just made it.
            found = self.get(key)
            if found is not None:
                return found
            try:
                made, size = make()
            finally:
                with self._lock:
                    self._busy.pop(key, None)
            self._keep(key, made, size)
        return made

    def _keep(self, key: str, made: T, size: int) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = (made, size)
            self._bytes += size
            while self._bytes > self.most_bytes and self._kept:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped
