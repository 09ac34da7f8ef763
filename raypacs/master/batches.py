"""How batches of deletions are run: at once, or in a thread for each tier.

The master's thread gives a batch once its intents were begun, which no master takes back, and
confirms later what is gone. Whoever runs a batch asks the index for the epoch alone, right before
each object: a process that was stopped for hours must not go on where another master took over.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from raypacs.errors import RaypacsError
from raypacs.storage.tier import Tier

CLOSE_S = 2.0
"""So long closing waits for the objects under way; after that they are left to themselves."""


@dataclass(frozen=True, slots=True)
class Part:
    """Objects of one delete intent; with these gone, ``is_whole`` says, it is done."""

    intent_id: int
    paths: tuple[str, ...]
    is_whole: bool = True


@dataclass(slots=True)
class Batch:
    """Objects of one tier, to be deleted in their order; what became of them once it ended.

    ``check`` raises StaleEpoch if another master took over; ``delete`` answers how many objects
    there were; ``prune`` is told what is gone.
    """

    tier: Tier
    parts: Sequence[Part]
    delete: Callable[[Tier, str], int]
    prune: Callable[[Tier, Sequence[str]], None]
    check: Callable[[], None]
    gone: int = 0
    """So many of the first objects are gone."""
    missing: int = 0
    """So many of these were not there."""
    problem: str = ""
    """Why it stopped early."""

    def run(self, is_over: Callable[[], bool]) -> None:
        """Delete until ``is_over``, which is asked after each object."""
        paths = [path for part in self.parts for path in part.paths]
        try:
            for path in paths:
                self.check()
                self.missing += not self.delete(self.tier, path)
                self.gone += 1
                if is_over():
                    break
            self.prune(self.tier, paths[: self.gone])
        except (RaypacsError, OSError) as exc:
            self.problem = str(exc) or type(exc).__name__


class Batches(Protocol):
    """Runs batches, of each tier one after the other."""

    def begin(self, for_s: float) -> None:
        """Begin a tick, which may delete for so long (s) itself."""

    def takes(self, tier: str) -> bool:
        """Whether a batch of this tier may be given now."""
        ...

    def give(self, batch: Batch) -> None:
        """Run a batch, now or later."""

    def ended(self) -> list[Batch]:
        """Return batches that ended, each once."""
        ...

    def close(self) -> None:
        """Stop soon. What was not confirmed is deleted again by the next master."""


class AtOnce:
    """Runs batches in the tick itself: as long as it may, and one object at least."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that only grow."""
        self._clock = clock
        self._left_s = 0.0
        self._is_first = True
        self._ended: list[Batch] = []

    def begin(self, for_s: float) -> None:
        """See :meth:`Batches.begin`."""
        self._left_s, self._is_first = for_s, True

    def takes(self, tier: str) -> bool:
        """See :meth:`Batches.takes`."""
        return self._is_first or self._left_s > 0

    def give(self, batch: Batch) -> None:
        """See :meth:`Batches.give`."""
        until_s = self._clock() + self._left_s
        batch.run(lambda: self._clock() >= until_s)
        self._left_s = until_s - self._clock()
        self._is_first = self._is_first and not batch.gone
        self._ended.append(batch)

    def ended(self) -> list[Batch]:
        """See :meth:`Batches.ended`."""
        found, self._ended = self._ended, []
        return found

    def close(self) -> None:
        """Nothing is under way."""


class InThreads:
    """Runs each batch in a thread: at most one of each tier is under way, and one given a tick."""

    def __init__(self) -> None:
        self._under_way: dict[str, tuple[threading.Thread, Batch]] = {}
        self._given: set[str] = set()
        self._stop = threading.Event()

    def begin(self, for_s: float) -> None:
        """See :meth:`Batches.begin`."""
        self._given.clear()

    def takes(self, tier: str) -> bool:
        """See :meth:`Batches.takes`."""
        return not (self._stop.is_set() or tier in self._under_way or tier in self._given)

    def give(self, batch: Batch) -> None:
        """See :meth:`Batches.give`."""
        name = batch.tier.name
        # A daemon: a tier that hangs must not keep the process from ending.
        thread = threading.Thread(
            target=partial(batch.run, self._stop.is_set), name=f"delete {name}", daemon=True
        )
        self._under_way[name] = thread, batch
        self._given.add(name)
        thread.start()

    def ended(self) -> list[Batch]:
        """See :meth:`Batches.ended`."""
        names = [name for name, (thread, _) in self._under_way.items() if not thread.is_alive()]
        return [self._under_way.pop(name)[1] for name in names]

    def close(self) -> None:
        """See :meth:`Batches.close`."""
        self._stop.set()
        until_s = time.monotonic() + CLOSE_S
        for thread, _ in self._under_way.values():
            thread.join(max(0.0, until_s - time.monotonic()))
