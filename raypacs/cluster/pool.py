"""The tasks of all items of a node, and the window of them that Ray is given at a time.

A backlog in Ray is lost with its driver and goes first come, first served; so only about two tasks
a core are given to Ray, and the rest waits here: higher priority first, then the item that was
leased first, then the order in which they were submitted.

One thread owns the window: whatever else happens is told to it, one thing after the other.
"""

from __future__ import annotations

import heapq
import logging
import queue
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from raypacs.work.run import TaskFailure

_log = logging.getLogger("raypacs.cluster.pool")
TASKS_PER_CORE = 2
CANCELED = TaskFailure("cancelled", retryable=True)


class Starter(Protocol):
    """What starts a task: Ray, or a test."""

    def start(
        self, function: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None]
    ) -> Any:
        """Start a task and return a handle; ``done`` gets its value once, from any thread."""

    def cancel(self, handle: Any, *, force: bool) -> None:
        """End a task soon; ``force``: with its process. Its ``done`` is still called."""


@dataclass(order=True)
class Task:
    """One task of one item; tasks sort in the order in which they are to be started.

    ``rank``: (priority, higher first; order of the lease; order of submission).
    """

    rank: tuple[int, int, int]
    owner: Hashable = field(compare=False)
    key: Hashable = field(compare=False)
    function: Callable[..., Any] = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    done: Callable[[Task, Any], None] = field(compare=False)
    crashes: int = field(default=0, compare=False)


class TaskPool:
    """Starts tasks in their order, at most ``window`` at a time; thread-safe."""

    def __init__(self, starter: Starter, window: int) -> None:
        self._starter, self._window = starter, window
        self._told: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: list[Task] = []
        self._started: dict[int, tuple[Task, Any]] = {}
        self._thread = threading.Thread(target=self._work, daemon=True, name="tasks")
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Start ``task`` when it is its turn; its ``done`` is called once, in the pool's thread."""
        self._told.put(lambda: heapq.heappush(self._waiting, task))

    def cancel(self, owner: Hashable, *, force: bool = False) -> None:
        """End the tasks of an item: those that wait at once, those that run as Ray can.

        Each is still told to its ``done``, with CANCELED or what it came to all the same.
        """
        self._told.put(lambda: self._cancel(owner, force=force))

    def prioritise(self, owner: Hashable, priority: int) -> None:
        """Give the tasks of an item that wait another priority; what runs goes on."""
        self._told.put(lambda: self._prioritise(owner, priority))

    def close(self) -> None:
        """End the thread; what is out is told to nobody."""
        self._told.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (act := self._told.get()) is not None:
            act()
            while self._waiting and len(self._started) < self._window:
                self._start(heapq.heappop(self._waiting))

    def _start(self, task: Task) -> None:
        number = id(task)

        def done(value: Any) -> None:
            self._told.put(lambda: self._finished(number, value))

        handle = self._starter.start(task.function, task.args, done)
        self._started[number] = (task, handle)

    def _finished(self, number: int, value: Any) -> None:
        task, _ = self._started.pop(number)
        task.done(task, value)

    def _prioritise(self, owner: Hashable, priority: int) -> None:
        for task in self._waiting:
            if task.owner == owner:
                task.rank = (-priority, *task.rank[1:])
        heapq.heapify(self._waiting)

    def _cancel(self, owner: Hashable, *, force: bool) -> None:
        dropped = [task for task in self._waiting if task.owner == owner]
        if dropped:
            self._waiting = [task for task in self._waiting if task.owner != owner]
            heapq.heapify(self._waiting)
        for task in dropped:
            task.done(task, CANCELED)
        for task, handle in list(self._started.values()):
            if task.owner == owner:
                self._starter.cancel(handle, force=force)
