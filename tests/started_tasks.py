"""Tasks that tests start and finish by hand, in place of Ray's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from raypacs.cluster.pool import TaskPool


class ByHand:
    """Notes what is started and cancelled; a test says what becomes of it. Keys are arguments."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.canceled: list[tuple[Any, bool]] = []
        self._done: dict[Any, Callable[[Any], None]] = {}
        self._changed = threading.Condition()

    def start(
        self, function: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None]
    ) -> Any:
        with self._changed:
            self.started.append(args[0])
            self._done[args[0]] = done
            self._changed.notify_all()
        return args[0]

    def cancel(self, handle: Any, *, force: bool) -> None:
        with self._changed:
            self.canceled.append((handle, force))
            self._changed.notify_all()

    def finish(self, key: Any, value: Any) -> None:
        """Let a started task end with ``value``."""
        self._done.pop(key)(value)

    def wait(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
        """Wait until starting or cancelling made ``condition`` true."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)


class Inline:
    """Runs each task at once."""

    def start(
        self, function: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None]
    ) -> Any:
        done(function(*args))

    def cancel(self, handle: Any, *, force: bool) -> None:
        raise AssertionError("nothing runs")


def settle(pool: TaskPool) -> None:
    """Wait until the pool did everything it was told, and what followed from it."""
    for _ in range(3):
        done = threading.Event()
        pool._told.put(done.set)
        assert done.wait(30)
