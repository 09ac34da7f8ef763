"""Stateless Ray tasks. Arguments and results are paths and small values, never pixels (RAY.md 8).

Retry has one owner, the work queue, so every task runs with ``max_retries=0`` and a failure comes
back as a value that says if another try can help.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypacs import logs
from raypacs.config import Bootstrap
from raypacs.errors import RaypacsError, StaleLease
from raypacs.policy.retry import After, after
from raypacs.work import prepare, source
from raypacs.work.run import TaskFailure

_log = logging.getLogger("raypacs.cluster.tasks")
# The process that ran a task is gone, which says nothing about the task.
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, LocalRayletDiedError)


def guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Return what ``function`` returns, or a TaskFailure; one of the places that catch everything.

    Raises:
        StaleLease: whoever works must stop, and nothing is to be reported.
    """
    try:
        return function(*args)
    except StaleLease:
        raise
    except Exception as exc:  # noqa: BLE001 - the task wrapper
        then, what = after(exc)
        unforeseen = not isinstance(exc, RaypacsError)
        _log.warning("task failed", extra={"why": repr(exc), "then": then}, exc_info=unforeseen)
        if then is After.WAIT:
            return TaskFailure(f"waits for {what}: {exc}", True, waits=True)
        return TaskFailure(f"{type(exc).__name__}: {exc}", then is After.TRY)


@ray.remote(num_cpus=1, max_retries=0)
def warm_up(bootstrap: dict[str, Any]) -> int:
    """Import what tasks need, so that the first study does not wait for it."""
    logs.setup("worker", Bootstrap.model_validate(bootstrap))
    return os.getpid()


@ray.remote(num_cpus=1, max_retries=0)
def run_task(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Run a module's function in a worker process; a cancel interrupts it."""
    try:
        return guarded(function, *args)
    except KeyboardInterrupt:
        # It may have come between any two steps: nothing that is kept from task to task may stay.
        prepare.metadata_of.cache_clear()
        source.tier_of.cache_clear()
        raise


class RayTasks:
    """Starts tasks on the cores of this node: the tasks of its items run nowhere else."""

    def __init__(self) -> None:
        here = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(here, soft=False)

        @cache
        def remote(function: Callable[..., Any]) -> Any:
            return run_task.options(name=function.__name__, scheduling_strategy=strategy)

        self._remote = remote

    def start(
        self, function: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None]
    ) -> Any:
        """Start a task; ``done`` gets its value or a TaskFailure, in a thread of Ray's."""
        ref = guarded(self._remote(function).remote, function, args)
        if isinstance(ref, TaskFailure):  # Ray did not take it
            done(ref)
            return None
        ref.future().add_done_callback(lambda future: done(value_of(future)))
        return ref

    def cancel(self, handle: Any, *, force: bool) -> None:
        """Interrupt a task, or (``force``) end its worker process."""
        if handle is not None:
            ray.cancel(handle, force=force)


def value_of(future: Future[Any]) -> Any:
    """Return what a task returned, or why it did not."""
    exc = future.exception()
    if exc is None:
        return future.result()
    crashed = isinstance(exc, _DEATHS)
    text = str(exc).strip().partition("\n")[0] if isinstance(exc, RayError) else str(exc)
    return TaskFailure(f"{type(exc).__name__}: {text}", True, crashed)
