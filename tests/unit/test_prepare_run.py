"""PREPARE as a run: what it reports, and what it does when tasks fail or their workers die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inline_tasks import LEASE, InlineTasks, site
from stored_series import Store, image, noise, part10

from raypacs import layout
from raypacs.records import StoredInstance
from raypacs.work.prepare_run import PrepareRun
from raypacs.work.run import TaskFailure

CRASHED = TaskFailure("WorkerCrashedError: gone", True, crashed=True)
CHUNK = {"chunk_bytes": 1024 * 1024}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def two_series(store: Store, slices: int = 3) -> list[StoredInstance]:
    """Instances of two series of one study."""
    return [
        store.add(part10(image(frames, SeriesInstanceUID=f"1.2.3.{series}", InstanceNumber=n)))
        for series in (4, 5)
        for n, frames in enumerate(
            (noise(1, 32, 32, seed=10 * series + seed) for seed in range(slices)), 1
        )
    ]


def web_paths(store: Store) -> list[str]:
    return sorted(info.path for info in store.web.walk())


def test_a_pack_a_series_is_reported_and_parts_go(store: Store) -> None:
    run = PrepareRun(LEASE, site(store.settings, two_series(store), settings=CHUNK))
    result = run.run(InlineTasks())
    assert (result.error, result.waits, result.died) == ("", False, False)
    assert [(one.series_uid, len(one.instances)) for one in result.packs] == [
        ("1.2.3.4", 3),
        ("1.2.3.5", 3),
    ]
    run.clean_up(reported=True)
    told = [path for one in result.packs for path in (one.pack_path, one.header_path)]
    assert web_paths(store) == sorted(told)


def test_an_attempt_that_is_not_reported_leaves_nothing(store: Store) -> None:
    run = PrepareRun(LEASE, site(store.settings, two_series(store)))
    assert run.run(InlineTasks()).packs
    run.clean_up(reported=False)
    run.clean_up(reported=False)
    assert web_paths(store) == []


def test_nothing_to_prepare_is_done(store: Store) -> None:
    run = PrepareRun(LEASE, site(store.settings))
    assert run.run(InlineTasks()).packs == ()
    run.clean_up(reported=True)


def test_without_a_web_tier_the_study_waits(store: Store) -> None:
    run = PrepareRun(LEASE, site(store.settings[:1], two_series(store)))
    result = run.run(InlineTasks())
    assert result.waits
    assert result.error.startswith("waits for a tier: no web tier")
    run.clean_up(reported=True)


@pytest.mark.parametrize("waits", [False, True])
def test_a_failed_chunk_ends_the_attempt_and_what_was_published_counts(
    store: Store, waits: bool
) -> None:
    refused: list[str] = []

    def fate(key: Any, times: int) -> Any:
        return TaskFailure("no", False, waits=waits) if key == ("1.2.3.5", -1) else None

    tasks = InlineTasks(fate)
    result = PrepareRun(LEASE, site(store.settings, two_series(store), refused=refused)).run(tasks)
    assert [one.series_uid for one in result.packs] == ["1.2.3.4"]
    assert (result.error, result.retryable, result.waits) == ("no", False, waits)
    assert refused == (["web1"] if waits else [])


def test_a_chunk_on_which_workers_die_is_copied_as_received(store: Store) -> None:
    def fate(key: Any, times: int) -> Any:
        return CRASHED if key == ("1.2.3.4", 0) and not times else None

    result = PrepareRun(LEASE, site(store.settings, two_series(store))).run(InlineTasks(fate))
    forms = {one.series_uid: {i.form for i in one.instances} for one in result.packs}
    assert forms == {"1.2.3.4": {"copied"}, "1.2.3.5": {"htj2k"}}
    (copied,) = (one for one in result.packs if one.series_uid == "1.2.3.4")
    assert {"crashed" in one.reason for one in copied.instances} == {True}


@pytest.mark.parametrize("key", [("1.2.3.4", 0), ("1.2.3.4", -1)])
def test_workers_that_die_again_are_a_death_and_not_a_try(store: Store, key: Any) -> None:
    tasks = InlineTasks(lambda asked, times: CRASHED if asked == key else None)
    result = PrepareRun(LEASE, site(store.settings, two_series(store))).run(tasks)
    assert (result.died, result.retryable) == (True, True)
    assert "WorkerCrashedError" in result.error
    assert tasks.times[key] == (1 if key[1] < 0 else 2)


def test_parts_carry_the_token_of_the_lease(store: Store) -> None:
    run = PrepareRun(LEASE, site(store.settings, two_series(store)))
    run.run(InlineTasks())
    assert all(
        path.startswith(layout.attempt_prefix(LEASE.token)) or f"/{LEASE.token}." in path
        for path in web_paths(store)
    )
