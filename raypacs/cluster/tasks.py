"""Stateless Ray tasks. Arguments and results are paths and small values, never pixels (RAY.md 8).

Retry has one owner, the work queue, so every task runs with ``max_retries=0`` and a failure comes
back as a value that says if another try can help.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from raypacs import logs
from raypacs.config import Bootstrap
from raypacs.errors import (
    PackCorrupt,
    RaypacsError,
    StaleEpoch,
    StaleLease,
    TierFull,
    TierUnavailable,
)
from raypacs.work import prepare

_log = logging.getLogger("raypacs.cluster.tasks")
_NOT_RETRYABLE = (PackCorrupt, StaleEpoch, StaleLease)


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """Why a task failed, if another try can help, and if its worker process died.

    ``waits``: it met a full or unreachable tier, which says nothing about the study.
    """

    error: str
    retryable: bool
    crashed: bool = False
    waits: bool = False


def _guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Run ``function``; this wrapper is one of the three places that catch everything."""
    try:
        return function(*args)
    except (TierFull, TierUnavailable) as exc:
        what = "room" if isinstance(exc, TierFull) else "a tier"
        _log.warning("task waits for %s", what, extra={"why": str(exc)})
        return TaskFailure(f"waits for {what}: {exc}", True, waits=True)
    except RaypacsError as exc:
        _log.warning("task failed: %s", type(exc).__name__, extra={"why": str(exc)})
        return TaskFailure(f"{type(exc).__name__}: {exc}", not isinstance(exc, _NOT_RETRYABLE))
    except Exception as exc:  # noqa: BLE001 - the task wrapper
        _log.exception("task failed")
        return TaskFailure(f"{type(exc).__name__}: {exc}", True)


@ray.remote(num_cpus=1, max_retries=0)
def warm_up(bootstrap: dict[str, Any]) -> int:
    """Import what tasks need, so that the first study does not wait for it."""
    logs.setup("worker", Bootstrap.model_validate(bootstrap))
    return os.getpid()


@ray.remote(num_cpus=1, max_retries=0)
def prepare_chunk(chunk: Any, context: Any) -> Any:
    """Prepare one chunk of frames; returns its part, or a TaskFailure."""
    return _guarded(prepare.prepare_chunk, chunk, context)


@ray.remote(num_cpus=1, max_retries=0)
def publish_series(parts: list[Any], context: Any) -> Any:
    """Publish the pack of one series; returns a PreparedSeries, or a TaskFailure."""
    return _guarded(prepare.publish_series, parts, context)
