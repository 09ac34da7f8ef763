"""Leases are renewed beside the work, whatever it does."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from raypacs.cluster.lease_keeper import LeaseKeeper
from raypacs.errors import MasterUnavailable, StaleLease
from raypacs.records import Lease

LEASE = Lease(1, "PREPARE", "1.2.3", 1, 1, "0" * 16, 1, "n1", 0.0)
PATIENCE_S = 30.0


def test_renews_while_the_work_is_busy_and_in_spite_of_a_master_that_is_away() -> None:
    seen: list[float] = []
    thrice = threading.Event()

    def renew(lease: Lease) -> Lease:
        seen.append(lease.expires_at_s)
        if len(seen) == 2:
            raise MasterUnavailable("away")
        if len(seen) == 4:
            thrice.set()
        return replace(lease, expires_at_s=lease.expires_at_s + 1)

    with LeaseKeeper(LEASE, renew, 0.001) as keeper:
        assert thrice.wait(PATIENCE_S)  # the work: planning, that never asks for its lease
        keeper.check()
    assert seen[:4] == [0.0, 1.0, 1.0, 2.0]


def test_a_stale_lease_is_told() -> None:
    asked = threading.Event()

    def renew(lease: Lease) -> Lease:
        asked.set()
        raise StaleLease("given to another")

    with LeaseKeeper(LEASE, renew, 0.001) as keeper:
        assert asked.wait(PATIENCE_S)
        keeper._thread.join(PATIENCE_S)
        with pytest.raises(StaleLease):
            keeper.check()


def test_ends_with_the_work() -> None:
    with LeaseKeeper(LEASE, lambda lease: lease, 0.001) as keeper:
        pass
    keeper._thread.join(PATIENCE_S)
    assert not keeper._thread.is_alive()
