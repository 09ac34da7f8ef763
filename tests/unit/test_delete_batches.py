"""Deletions in threads: a slow tier holds up no tick, and nothing is confirmed that is not gone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from raypacs.master import batches, deleting
from raypacs.master.batches import AtOnce, InThreads
from tests.evicting_site import EvictingSite

A = "1.2.3"
LONG_S = 30.0


@pytest.fixture
def site(tmp_path: Path) -> Any:
    site = EvictingSite(tmp_path, f"sqlite:///{tmp_path / 'index.sqlite'}")
    yield site
    site.close()


class Held:
    """``delete``, each object of which waits until it is let go."""

    def __init__(self) -> None:
        self.let, self.began = threading.Semaphore(0), threading.Semaphore(0)
        self.threads: set[str] = set()

    def __call__(self, tier: Any, paths: Any, check: Any) -> int:
        self.threads.add(threading.current_thread().name)
        self.began.release()
        assert self.let.acquire(timeout=LONG_S)
        return _real(tier, paths, check)


_real = deleting.delete


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    found = Held()
    monkeypatch.setattr(deleting, "delete", found)
    return found


def _joined(threads: InThreads) -> None:
    for thread, _ in threads._under_way.values():
        thread.join(LONG_S)


def _tick(site: EvictingSite) -> int:
    site.now += 1
    return site.master._delete_due(site.now)


def _evicted(site: EvictingSite) -> InThreads:
    site.ready(A, count=3)
    site.master.evict_study(A, "ann")
    site.now += site.settings.eviction.grace_s + 1
    threads = InThreads()
    site.master.delete_with(threads)
    return threads


def test_a_slow_tier_holds_up_no_tick(site: EvictingSite, held: Held) -> None:
    threads = _evicted(site)
    assert _tick(site) == 0
    assert held.began.acquire(timeout=LONG_S)
    # One batch of the tier is under way: it is left alone, and nothing of it confirmed.
    for _ in range(3):
        assert _tick(site) == 0
    assert len(site.files("image1", A)) == 3
    assert site.intents()[0].begun_s > 0
    held.let.release(3)
    _joined(threads)
    assert _tick(site) == 1
    assert held.threads == {"delete image1"}
    assert not site.files("image1", A)
    assert not site.intents()
    assert site.balanced()


def test_what_was_cut_off_by_closing_is_found_again(site: EvictingSite, held: Held) -> None:
    threads = _evicted(site)
    _tick(site)
    assert held.began.acquire(timeout=LONG_S)
    closing = threading.Thread(target=threads.close)
    closing.start()
    assert threads._stop.wait(LONG_S)
    held.let.release(3)
    closing.join(LONG_S)
    _joined(threads)
    held.let.release(10)  # for the next master
    assert len(site.files("image1", A)) == 2  # the object under way, and no other
    assert not threads.takes("image1")
    site.master.close()
    site.master = site.start()
    for _ in range(3):
        _tick(site)
    assert not site.files("image1", A)
    assert not site.intents()
    assert site.balanced()


def test_closing_does_not_wait_for_a_tier_that_hangs(
    site: EvictingSite, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "CLOSE_S", 0.01)
    threads = _evicted(site)
    _tick(site)
    assert held.began.acquire(timeout=LONG_S)
    threads.close()
    assert len(site.files("image1", A)) == 3
    held.let.release(3)
    _joined(threads)


def test_missing_on_a_tier_that_is_away_is_not_gone(
    site: EvictingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = _evicted(site)
    monkeypatch.setattr(deleting, "delete", lambda *_: 0)  # an empty folder where the disk was
    _tick(site)
    _joined(threads)
    monkeypatch.setattr(site.master, "_is_there", lambda tier: False)
    assert _tick(site) == 0
    assert site.intents()


def test_at_once_looks_at_the_time_after_each_object(
    site: EvictingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    _evicted(site)
    clock = [0.0]

    def slow(*args: Any) -> int:
        clock[0] += deleting.DELETE_FOR_S / 2
        return _real(*args)

    monkeypatch.setattr(deleting, "delete", slow)
    site.master.delete_with(AtOnce(lambda: clock[0]))
    _tick(site)
    assert len(site.files("image1", A)) == 1
    _tick(site)
    assert not site.files("image1", A)
    assert not site.intents()
