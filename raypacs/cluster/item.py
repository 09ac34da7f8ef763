"""One leased item while this node works on it: is the lease still ours, and which tasks are out."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from raypacs.cluster.pool import Task, TaskPool
from raypacs.errors import StaleLease
from raypacs.records import Lease
from raypacs.work.run import TaskFailure

_log = logging.getLogger("raypacs.cluster.item")
CHECK_S = 1.0
SOFT_S = 2.0  # a task is interrupted; one that does not end by then loses its process
FORCED_S = 30.0
CRASHES = 2  # times that a task whose process died is run again
_orders = itertools.count()


class LeasedItem:
    """A lease, how long it is good, and the tasks of its work (``work.run.Tasks``).

    ``good_until`` is ``time.monotonic()`` seconds: the clock of the master may be another, and of
    its times only the differences are of use here. One thread works on the item and calls what
    ``Tasks`` has; the others are for any thread.
    """

    def __init__(self, lease: Lease, pool: TaskPool, good_until: float) -> None:
        self.lease = lease
        self._pool = pool
        self._given_until = self._good_until = good_until
        self._lock = threading.Lock()
        self._stopped = ""
        self._reporting = False
        self._priority = lease.priority
        self._order = next(_orders)
        self._numbers = itertools.count()
        self._out = 0
        self._ended: queue.SimpleQueue[tuple[Task | None, Any]] = queue.SimpleQueue()

    # The lease

    def renewed(self, expires_at_s: float, at_most: float) -> None:
        """Note when the lease expires by the master's clock; by ours ``at_most`` then."""
        gained_s = expires_at_s - self.lease.expires_at_s
        self._good_until = max(self._good_until, min(self._given_until + gained_s, at_most))

    def prioritise(self, priority: int) -> None:
        """Let what is not started yet go by another priority."""
        with self._lock:
            if priority != self._priority:
                self._priority = priority
                self._pool.prioritise(self.lease.token, priority)

    def stop(self, why: str) -> None:
        """End the work, unless it is being reported: then the answer to the report decides."""
        with self._lock:
            if self._reporting or self._stopped:
                return
            self._stopped = why
        self._ended.put((None, None))  # whoever waits for tasks is to look

    def check(self) -> None:
        """Raise StaleLease once the lease is not ours any more, or may not be."""
        if not self._stopped and time.monotonic() >= self._good_until:
            self.stop("it could not be renewed in time")
        if self._stopped:
            raise StaleLease(
                f"item {self.lease.item_id}: the lease is lost: {self._stopped}",
                item_id=self.lease.item_id,
                attempt=self.lease.attempt,
            )

    def begin_report(self) -> None:
        """From now on nothing but the report's answer ends the attempt. Raises StaleLease."""
        with self._lock:
            self._reporting = not self._stopped and time.monotonic() < self._good_until
        if not self._reporting:
            self.check()

    # Its tasks

    def submit(self, key: Hashable, function: Callable[..., Any], *args: Any) -> None:
        """Have ``function(*args)`` run by a worker process."""
        self.check()
        rank = (-self._priority, self._order, next(self._numbers))
        self._submit(Task(rank, self.lease.token, key, function, args, self._done))

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Yield (key, value) as tasks finish, until none is left."""
        while self._out:
            self.check()
            task, value = self._next(CHECK_S)
            if task is None:
                continue
            if isinstance(value, TaskFailure) and value.crashed and task.crashes < CRASHES:
                _log.warning("worker died", extra={"item": self.lease.item_id, "why": value.error})
                task.crashes += 1
                self._submit(task)
                continue
            yield task.key, value
        self.check()

    def cancel(self) -> list[Any]:
        """End the tasks that are out; return values of those that finished all the same."""
        values: list[Any] = []
        for force, patience_s in ((False, SOFT_S), (True, FORCED_S)):
            if self._out:
                self._pool.cancel(self.lease.token, force=force)
                values += self._until_ended(time.monotonic() + patience_s)
        if self._out:
            _log.error("tasks do not end", extra={"item": self.lease.item_id, "tasks": self._out})
        return [value for value in values if not isinstance(value, TaskFailure)]

    def _until_ended(self, deadline: float) -> Iterator[Any]:
        while self._out and (left_s := deadline - time.monotonic()) > 0:
            task, value = self._next(left_s)
            if task is not None:
                yield value

    def _submit(self, task: Task) -> None:
        self._out += 1
        with self._lock:  # a change of priority comes wholly before, or after
            task.rank = (-self._priority, *task.rank[1:])
            self._pool.submit(task)

    def _done(self, task: Task, value: Any) -> None:
        self._ended.put((task, value))

    def _next(self, timeout_s: float) -> tuple[Task | None, Any]:
        try:
            task, value = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return None, None
        if task is not None:
            self._out -= 1
        return task, value
