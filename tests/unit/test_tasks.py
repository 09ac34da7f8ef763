"""What a Ray task hands back when it fails, or when its process is gone."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, TaskCancelledError, WorkerCrashedError

from raypacs.cluster import tasks
from raypacs.cluster.tasks import TaskFailure
from raypacs.errors import (
    ConfigError,
    IndexUnavailable,
    ManifestCorrupt,
    NotFound,
    PackCorrupt,
    StaleLease,
    StudySealed,
    TierFull,
    TierUnavailable,
)
from raypacs.work import prepare, source


def fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TierFull("web1"), TaskFailure("waits for room: web1", True, waits=True)),
        (TierUnavailable("web1"), TaskFailure("waits for a tier: web1", True, waits=True)),
        (IndexUnavailable("away"), TaskFailure("waits for the index: away", True, waits=True)),
        (ConfigError("a"), TaskFailure("waits for other settings: a", True, waits=True)),
        (ManifestCorrupt("a"), TaskFailure("ManifestCorrupt: a", False)),
        (StudySealed("a"), TaskFailure("StudySealed: a", True)),
        (OSError(5, "I/O"), TaskFailure("OSError: [Errno 5] I/O", True)),
        (NotFound("part"), TaskFailure("NotFound: part", True)),
        (PackCorrupt("part"), TaskFailure("PackCorrupt: part", False)),
        (ZeroDivisionError("by 0"), TaskFailure("ZeroDivisionError: by 0", True)),
    ],
)
def test_the_type_of_an_error_decides_if_it_is_tried_again(
    error: Exception, expected: TaskFailure
) -> None:
    assert tasks.guarded(fails, error) == expected


def test_a_lost_lease_is_no_failure() -> None:
    with pytest.raises(StaleLease):
        tasks.guarded(fails, StaleLease("given to another"))


@pytest.mark.parametrize(
    ("error", "crashed"),
    [
        (WorkerCrashedError(), True),
        (OutOfMemoryError("killed"), True),
        (TaskCancelledError(), False),
        (ValueError("cannot be pickled"), False),
    ],
)
def test_a_process_that_is_gone_says_nothing_of_the_task(error: Exception, crashed: bool) -> None:
    future: Future[Any] = Future()
    future.set_exception(error)
    value = tasks.value_of(future)
    assert (value.crashed, value.retryable) == (crashed, True)
    assert value.error.startswith(type(error).__name__)


def test_a_value_is_handed_on() -> None:
    future: Future[Any] = Future()
    future.set_result(5)
    assert tasks.value_of(future) == 5


def test_an_interrupted_worker_forgets_what_it_kept_from_task_to_task() -> None:
    prepare.metadata_of("1.2.3", 100, 1)
    with pytest.raises(KeyboardInterrupt):
        tasks.run_task._function(fails, (KeyboardInterrupt(),))
    assert prepare.metadata_of.cache_info().currsize == 0
    assert source.tier_of.cache_info().currsize == 0
