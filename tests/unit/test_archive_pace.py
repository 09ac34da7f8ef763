"""The bandwidth limit of archiving, by a clock that only the pacing moves; shares of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from raypacs.autopilot.archiving import ArchiveSettings
from raypacs.config import TierSettings
from raypacs.records import Lease
from raypacs.work import archive_series
from raypacs.work.archive import ArchiveRun, _Found
from raypacs.work.run import Libraries, Moves
from tests.inline_tasks import InlineTasks, site


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(archive_series, "time", fake)
    return clock


def test_bytes_take_the_time_that_the_limit_wants(clock: SimpleNamespace) -> None:
    pace = archive_series.pacing(1000.0)
    for _ in range(10):
        pace(500)
    assert clock.now == pytest.approx(105.0)
    clock.now += 60  # what was waited for something else is not made up for by a burst
    pace(500)
    assert clock.now == pytest.approx(165.5)


def test_without_a_limit_nothing_is_waited_for(clock: SimpleNamespace) -> None:
    archive_series.pacing(0)(10**12)
    assert clock.now == 100.0


@pytest.mark.parametrize(("limit", "running", "shares"), [(0, 3, [0, 0]), (900, 3, [300])])
def test_items_that_run_share_the_limit(
    tmp_path: Path, limit: int, running: int, shares: list[float]
) -> None:
    tier = TierSettings(name="lib1", role="library", url=tmp_path.as_uri())
    lease = Lease(1, "ARCHIVE", "1.2.3", 1, 1, "00ff", 1, "n1", 0.0)
    submitted: list[archive_series.SeriesOrder] = []

    class Noting(InlineTasks):
        def submit(self, key: object, function: object, *args: object) -> None:
            assert isinstance(args[0], archive_series.SeriesOrder)
            submitted.append(args[0])

    plain = site((tier,))
    settings = plain.settings.model_copy(
        update={"archive": ArchiveSettings(bandwidth_bytes_per_s=limit)}
    )
    ports = replace(
        plain,
        settings=settings,
        moves=Moves(
            containers=lambda uid: [],
            study=lambda uid: {},
            plan=lambda lease, places: None,
            reserve=lambda lease, tier, size: size,
            progress=lambda lease, told: None,
        ),
        libraries=Libraries(
            seal=lambda uid: True,
            may_go_on=lambda lease: True,
            archived=lambda lease, told: None,
            running=lambda kind: running,
        ),
    )
    orders = [
        archive_series.SeriesOrder("1.2.3", f"1.2.3.{n}", "00ff", "lib1", "p", ("i", "m"), "htj2k")
        for n in range(3)
    ]
    ArchiveRun(lease, ports)._archive(orders, _Found(), Noting())
    assert [one.bytes_per_s for one in submitted] == shares
