"""Reports of ended attempts, many in one call: a transaction that is flushed costs the same.

No report waits for another to come: while one call is under way, the next ones gather.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ray.exceptions import RayError

from raypacs.errors import MasterUnavailable, RaypacsError, StaleLease
from raypacs.policy.queue import State
from raypacs.records import Lease, WorkResult

MOST_A_CALL = 100
_Waiting = tuple[Lease, WorkResult, "Future[State]"]


class Reporter:
    """Reports to the master through ``call(event, ...)``, which repeats what can be repeated."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="reports")
        self._thread.start()

    def report(self, lease: Lease, result: WorkResult) -> State:
        """Report an attempt; return the item's state.

        Raises:
            StaleLease: the item is not ours; what the attempt wrote counts for nothing.
            MasterUnavailable: nobody knows if it counts.
        """
        told: Future[State] = Future()
        self._waiting.put((lease, result, told))
        return told.result()

    def close(self) -> None:
        """Report what waits, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, goes_on = self._gathered(first)
            self._send(batch)
            if not goes_on:
                return

    def _gathered(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        batch = [first]
        while len(batch) < MOST_A_CALL:
            try:
                one = self._waiting.get_nowait()
            except queue.Empty:
                return batch, True
            if one is None:
                return batch, False
            batch.append(one)
        return batch, True

    def _send(self, batch: list[_Waiting]) -> None:
        try:
            answers = self._call("report_many", [(lease, result) for lease, result, _ in batch])
        except (RaypacsError, RayError) as exc:
            error = exc if isinstance(exc, MasterUnavailable) else _unavailable(exc)
            for _, _, told in batch:
                told.set_exception(error)
            return
        for (_, _, told), answer in zip(batch, answers, strict=True):
            if isinstance(answer, StaleLease):
                told.set_exception(answer)
            else:
                told.set_result(State(answer))


def _unavailable(exc: Exception) -> MasterUnavailable:
    """The master failed on the batch as a whole, so nobody knows what became of each report."""
    return MasterUnavailable(f"reports were not taken: {type(exc).__name__}: {exc}")
