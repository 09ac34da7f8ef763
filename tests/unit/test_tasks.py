"""What a Ray task hands back when it fails."""

from __future__ import annotations

import pytest

from raypacs.cluster import tasks
from raypacs.cluster.tasks import TaskFailure
from raypacs.errors import NotFound, PackCorrupt, TierFull, TierUnavailable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TierFull("web1"), TaskFailure("waits for room: web1", True, waits=True)),
        (TierUnavailable("web1"), TaskFailure("waits for a tier: web1", True, waits=True)),
        (NotFound("part"), TaskFailure("NotFound: part", True)),
        (PackCorrupt("part"), TaskFailure("PackCorrupt: part", False)),
        (ZeroDivisionError("by 0"), TaskFailure("ZeroDivisionError: by 0", True)),
    ],
)
def test_a_failure_says_if_it_waits(error: Exception, expected: TaskFailure) -> None:
    def fails() -> None:
        raise error

    assert tasks._guarded(fails) == expected
