"""The count of used bytes: corrected before it refuses, but not with every refusal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raypacs.errors import TierFull
from raypacs.storage.objects import ObjectInfo
from raypacs.storage.used import RECOUNT_EVERY_S, UsedBytes


def test_objects_are_counted_again_at_most_every_few_seconds() -> None:
    now_s, walks, sizes = 100.0, 0, [9]

    def walk() -> Iterator[ObjectInfo]:
        nonlocal walks
        walks += 1
        return (ObjectInfo(f"studies/{n}", size, 0.0) for n, size in enumerate(sizes))

    used = UsedBytes("t1", 10, walk, lambda: now_s)
    for _ in range(3):
        with pytest.raises(TierFull):
            used.begin(2)
    assert walks == 1
    now_s += RECOUNT_EVERY_S
    for _ in range(3):
        with pytest.raises(TierFull):
            used.begin(2)
    assert walks == 2
    sizes.clear()  # another process deleted it
    now_s += RECOUNT_EVERY_S
    used.begin(2)
    assert (walks, used.now()) == (3, 2)
    used.end("studies/1", 2, committed=False)
    assert used.now() == 0


def test_what_is_being_written_by_several_counts_together() -> None:
    used = UsedBytes("t1", 10, lambda: ())
    used.begin(6)
    with pytest.raises(TierFull):
        used.begin(6)
    used.end("studies/1", 6, committed=True)
    assert used.now() == 6
    used.deleted("studies/1", 6)
    used.begin(10)
