"""In which order studies leave a cache: the least recently accessed first, and others beside it.

raypacs evicts by :class:`LeastRecent` (FEATURES B5). The others are there to be compared with it
by simulation (docs/decisions/0015): S3-FIFO, GreedyDual-Size with frequency, and, as a limit,
the one that knows the future. Studies are numbers; sizes are bytes.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from raypacs.policy.load import Floats, Ints, Load

ORDERS = ("lru", "s3-fifo", "gdsf", "gdsf-sqrt", "offline", "offline-size")


class Order(Protocol):
    """The order of eviction in one cache."""

    def add(self, study: int) -> None:
        """A study is in the cache now: it arrived, or was restored."""

    def touch(self, studies: Ints, reads: slice) -> None:
        """Studies were opened, in order of time; those not in the cache as well.

        ``reads``: their places in the load's reads.
        """

    def remove(self, study: int) -> None:
        """A study left the cache."""

    def walk(self) -> Iterator[int]:
        """Yield studies in order, the next victim first. Closing it keeps what is not removed."""


class _Heap:
    """Studies by a key that only grows while they are in the cache; the least one first.

    An entry whose key grew since is put back when it comes up, so that an access costs nothing.
    """

    def __init__(self, keys: Floats) -> None:
        self._keys = keys
        self._heap: list[tuple[float, int]] = []
        self._present: set[int] = set()
        self._entered: set[int] = set()  # has an entry in the heap

    def add(self, study: int) -> None:
        self._present.add(study)
        if study not in self._entered:
            self._entered.add(study)
            heapq.heappush(self._heap, (float(self._keys[study]), study))

    def remove(self, study: int) -> None:
        self._present.discard(study)  # its entry goes when it comes up

    def walk(self) -> Iterator[int]:
        heap, keys = self._heap, self._keys
        passed: list[tuple[float, int]] = []
        try:
            while heap:
                key, study = heap[0]
                if study not in self._present:
                    heapq.heappop(heap)
                    self._entered.discard(study)
                    continue
                now = float(keys[study])
                if now != key:
                    heapq.heapreplace(heap, (now, study))
                    continue
                passed.append(heapq.heappop(heap))
                yield study
        finally:
            for entry in passed:
                if entry[1] in self._present:
                    heapq.heappush(heap, entry)
                else:
                    self._entered.discard(entry[1])


class LeastRecent:
    """The study that nobody opened for longest leaves first: what raypacs does."""

    def __init__(self, accessed_s: Floats) -> None:
        """``accessed_s``: effective time of access by study, kept up to date by its owner."""
        self._heap = _Heap(accessed_s)
        self.add, self.remove, self.walk = self._heap.add, self._heap.remove, self._heap.walk

    def touch(self, studies: Ints, reads: slice) -> None:
        """Nothing: the owner keeps the times."""


class GreedyDualSize:
    """GreedyDual-Size with frequency (Cherkasova 1998): large studies that are rarely opened first.

    key = clock + times opened / size ** ``weight``; ``weight`` 0 leaves sizes out.
    """

    def __init__(self, size_bytes: Ints, *, weight: float = 1.0) -> None:
        self._worth = 1.0 / np.maximum(1.0, size_bytes / 1e6) ** weight
        self._opened = np.zeros(len(size_bytes))
        self._keys = np.zeros(len(size_bytes))
        self._clock = 0.0
        self._heap = _Heap(self._keys)

    def add(self, study: int) -> None:
        self._opened[study] = 1
        self._keys[study] = self._clock + self._worth[study]
        self._heap.add(study)

    def touch(self, studies: Ints, reads: slice) -> None:
        np.add.at(self._opened, studies, 1)
        self._keys[studies] = self._clock + self._opened[studies] * self._worth[studies]

    def remove(self, study: int) -> None:
        self._clock = max(self._clock, float(self._keys[study]))
        self._heap.remove(study)

    def walk(self) -> Iterator[int]:
        return self._heap.walk()


class S3Fifo:
    """S3-FIFO (Yang et al., SOSP 2023): a small queue for what is opened once, a main one, a ghost.

    ``small`` is the part of the cache's bytes that the small queue has; a study that leaves it
    unopened is remembered, and goes to the main queue when it comes again.
    """

    def __init__(self, size_bytes: Ints, capacity_bytes: int, *, small: float = 0.1) -> None:
        self._size = size_bytes
        self._opened = np.zeros(len(size_bytes), dtype=np.int64)
        self._where = np.zeros(len(size_bytes), dtype=np.int8)  # 0 out, 1 small, 2 main, 3 ghost
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghost: deque[int] = deque()
        self._limit = small * capacity_bytes
        self._capacity = capacity_bytes
        self._bytes = [0, 0, 0, 0]

    def add(self, study: int) -> None:
        self._move(study, 2 if self._where[study] == 3 else 1)
        self._opened[study] = 0
        (self._main if self._where[study] == 2 else self._small).append(study)

    def touch(self, studies: Ints, reads: slice) -> None:
        np.add.at(self._opened, studies, 1)
        self._opened[studies] = np.minimum(3, self._opened[studies])

    def remove(self, study: int) -> None:
        ghost = self._where[study] == 1
        self._move(study, 3 if ghost else 0)
        if ghost:
            self._ghost.append(study)
        while self._ghost and self._bytes[3] > self._capacity - self._limit:
            old = self._ghost.popleft()
            if self._where[old] == 3:
                self._move(old, 0)

    def walk(self) -> Iterator[int]:
        passed: list[int] = []
        steps = 4 * (len(self._small) + len(self._main)) + 1  # each is passed over thrice at most
        try:
            while (self._small or self._main) and steps > 0:
                steps -= 1
                from_small = bool(self._small) and (self._bytes[1] > self._limit or not self._main)
                study = (self._small if from_small else self._main).popleft()
                if self._where[study] != (1 if from_small else 2):
                    continue
                if from_small and self._opened[study] > 1:
                    self._move(study, 2)
                    self._opened[study] = 0
                    self._main.append(study)
                elif not from_small and self._opened[study] > 0:
                    self._opened[study] -= 1
                    self._main.append(study)
                else:
                    passed.append(study)
                    yield study
        finally:
            for study in reversed(passed):
                if self._where[study] in (1, 2):
                    (self._small if self._where[study] == 1 else self._main).appendleft(study)

    def _move(self, study: int, where: int) -> None:
        self._bytes[int(self._where[study])] -= int(self._size[study])
        self._where[study] = where
        self._bytes[where] += int(self._size[study])


class Offline:
    """The study that is opened again last, or never, leaves first: it knows the future.

    A limit for hits by bytes; with ``by_size``, time until then times size decides: a limit for
    hits by studies. Both are close to the best possible where sizes differ, not proven to be it.
    """

    PIECE = 512

    def __init__(self, load: Load, *, by_size: bool = False) -> None:
        self._next = _next_reads(load)
        self._read_s = load.read_s
        self._size = load.size_bytes.astype(np.float64) if by_size else None
        self._due = np.full(len(load.arrived_s), np.inf)  # when it is opened next
        self._reads: Ints | None = load.reads
        self._now = load.start_s
        self._present = np.zeros(len(load.arrived_s), dtype=bool)

    def add(self, study: int) -> None:
        self._present[study] = True

    def touch(self, studies: Ints, reads: slice) -> None:
        if self._reads is not None:  # from here on: what was read before is not the future
            first = np.unique(self._reads[reads.start :], return_index=True)
            self._due[first[0]] = self._read_s[reads.start :][first[1]]
            self._reads = None
        self._due[studies] = self._next[reads]  # of several reads the last one counts
        self._now = float(self._read_s[reads.stop - 1])

    def remove(self, study: int) -> None:
        self._present[study] = False

    def walk(self) -> Iterator[int]:
        here = np.flatnonzero(self._present)
        worth = self._due[here]
        if self._size is not None:
            worth = np.maximum(worth - self._now, 1.0) * self._size[here]
        piece = min(self.PIECE, len(here))  # most walks end soon
        if not piece:
            return
        parted = np.argpartition(-worth, piece - 1)
        for part in (parted[:piece], parted[piece:]):
            yield from here[part[np.argsort(-worth[part], kind="stable")]].tolist()


def _next_reads(load: Load) -> Floats:
    """Return for each read when the same study is read next, infinity for the last one."""
    order = np.lexsort((load.read_s, load.reads))
    later = np.full(len(order), np.inf)
    same = load.reads[order][1:] == load.reads[order][:-1]
    later[order[:-1][same]] = load.read_s[order[1:][same]]
    return later


def order_of(name: str, load: Load, accessed_s: Floats, capacity_bytes: int) -> Order:
    """Return the order of eviction by name.

    Raises:
        ValueError: no such order.
    """
    if name == "lru":
        return LeastRecent(accessed_s)
    if name == "s3-fifo":
        return S3Fifo(load.size_bytes, capacity_bytes)
    if name in ("gdsf", "gdsf-sqrt"):
        return GreedyDualSize(load.size_bytes, weight=1.0 if name == "gdsf" else 0.5)
    if name in ("offline", "offline-size"):
        return Offline(load, by_size=name == "offline-size")
    raise ValueError(f"no order of eviction {name!r}; known: {', '.join(ORDERS)}")
