"""The tasks of a run without a cluster, and a site made of plain values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

from raypacs.config import Settings, TierSettings
from raypacs.records import Lease, PackRef, StoredInstance
from raypacs.work.run import Site

LEASE = Lease(1, "PREPARE", "1.2.3", 1, 1, "0123456789abcdef", 1, "n1", 0.0)


class InlineTasks:
    """Runs each task when its turn comes, in the order of submission.

    ``fate`` may decide what becomes of a task instead: it is asked with (key, times before), and
    anything but None is the task's value.
    """

    def __init__(self, fate: Callable[[Any, int], Any] = lambda key, times: None) -> None:
        self._fate = fate
        self._waiting: deque[tuple[Hashable, Callable[..., Any], tuple[Any, ...]]] = deque()
        self.times: dict[Hashable, int] = {}
        self.canceled: list[Hashable] = []

    def submit(self, key: Hashable, function: Callable[..., Any], *args: Any) -> None:
        self._waiting.append((key, function, args))

    def finished(self) -> Iterator[tuple[Any, Any]]:
        while self._waiting:
            key, function, args = self._waiting.popleft()
            times = self.times.get(key, 0)
            self.times[key] = times + 1
            fate = self._fate(key, times)
            yield key, function(*args) if fate is None else fate

    def cancel(self) -> list[Any]:
        self.canceled += [key for key, _, _ in self._waiting]
        self._waiting.clear()
        return []


def site(
    tiers: tuple[TierSettings, ...],
    instances: Iterable[StoredInstance] = (),
    packs: Mapping[str, list[PackRef]] | None = None,
    *,
    manifests: Iterable[tuple[str, str]] = (),
    refused: list[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Site:
    """A site with one study; what a run calls tells what it is given here."""
    stored = list(instances)
    noted = [] if refused is None else refused
    return Site(
        settings=Settings(tiers=tiers, **(settings or {})),
        cores=2,
        instances=lambda study_uid: stored,
        unprepared=lambda study_uid: [one for one in stored if not one.form],
        packs=lambda study_uid: dict(packs or {}),
        manifests=lambda study_uid: list(manifests),
        available_bytes=lambda: {tier.name: 10**12 for tier in tiers},
        refused=noted.append,
    )
