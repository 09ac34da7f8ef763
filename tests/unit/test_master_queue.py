"""Polls, leases and lost answers through a whole master."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raypacs.records import WorkResult
from tests.master_queue import MasterQueue


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MasterQueue]:
    made = MasterQueue(tmp_path)
    made.node("n1")
    made.node("n2")
    yield made
    made.master.close()


def idle(site: MasterQueue, *names: str) -> None:
    """These nodes polled, got nothing, and are answered from memory from now on."""
    for name in names:
        assert not site.poll(name).leases
        assert not site.poll(name).leases


def test_what_was_bound_to_a_lost_node_is_given_to_an_idle_one(site: MasterQueue) -> None:
    item_id = site.verify("1.1", wanted_node="n1")
    idle(site, "n2")
    site.passes(30, "n2")
    assert site.taken("n2").item_id == item_id


def test_a_node_that_asked_for_nothing_is_not_an_idle_one(site: MasterQueue) -> None:
    item_id = site.verify("1.1")
    assert not site.poll("n1", free=0).leases
    assert site.taken("n1").item_id == item_id


def test_what_a_node_left_unclaimed_is_given_to_an_idle_one(site: MasterQueue) -> None:
    """The answer to the poll of n1 was lost, and n1 drains: it names no lease for 10 s."""
    item_id = site.verify("1.1")
    assert site.taken("n1").item_id == item_id
    site.master.drain("n1", "ann")
    idle(site, "n2")
    site.passes(9, "n1", "n2")
    assert not site.poll("n1", free=0).leases
    assert not site.poll("n2").leases
    site.passes(2, "n1", "n2")
    site.poll("n1", free=0)
    site.passes(3, "n1", "n2")
    assert site.taken("n2").item_id == item_id


def test_a_poll_of_an_earlier_life_ends_nothing_and_gets_nothing(site: MasterQueue) -> None:
    """Its process was stopped and goes on after another life of the node began."""
    site.verify("1.1")
    old = site.taken("n1")
    site.node("n1", boot="b2")
    site.passes(5, "n2")
    lease = site.taken("n1", boot="b2")
    site.verify("1.2")
    for _ in range(12):
        site.passes(1, "n2")
        answer = site.poll("n1", [old], boot="b1")
        assert (answer.stop, answer.leases, answer.renewed) == ((old.token,), (), ())
        assert site.poll("n1", [lease], boot="b2", free=0).stop == ()
    assert site.item(lease.item_id)["state"] == "IN PROCESS"
    assert site.item(lease.item_id)["deaths"] == 1, "of the life that ended"


def test_a_poll_of_an_earlier_life_is_no_sign_of_the_node(site: MasterQueue) -> None:
    site.node("n1", boot="b2")
    for _ in range(30):
        site.passes(1, "n2")
        site.poll("n1", boot="b1")
    assert {n["name"]: n["state"] for n in site.master.status()["nodes"]}["n1"] == "lost"


def test_an_earlier_life_does_not_make_the_node_idle(site: MasterQueue) -> None:
    site.node("n1", boot="b2")
    site.poll("n1", boot="b1")
    item_id = site.verify("1.1")
    site.poll("n1", boot="b1")
    assert site.taken("n1", boot="b2").item_id == item_id


def test_work_that_waits_for_room_again_and_again_is_stalled(site: MasterQueue) -> None:
    item_id = site.verify("1.1")
    waits = WorkResult(error="waits for room: TierFull: web1", waits=True)
    states = set()
    for second in range(900):
        site.passes(1, "n1")
        for lease in site.poll("n1").leases:
            site.master.report(lease, waits)
        if second > 30:
            found = site.kind()
            states.add(found["state"])
            assert found["why"] == f"item {item_id}: {waits.error}"
    assert states == {"running", "stalled"}
    assert found["state"] == "stalled"
    site.fails(site.taken_when_due("n1"))
    assert site.kind()["state"] == "running"


def test_stalled_counts_from_the_end_of_a_halt_and_the_masters_start(site: MasterQueue) -> None:
    site.verify("1.1")
    site.master.halt("VERIFY", "ann")
    site.now += 3600
    assert site.master.resume("VERIFY", "ann")["state"] == "running"
    site.now += 601
    assert site.kind()["state"] == "stalled"
    site.master.close()
    site.master = site.start()
    assert site.kind()["state"] == "running"


def test_a_cancelled_item_is_not_a_finished_one(site: MasterQueue) -> None:
    site.verify("1.1")
    other = site.verify("1.2")
    site.now += 601
    assert site.kind()["state"] == "stalled"
    site.master.cancel_items_matching({"item_id": str(other)})
    assert site.kind()["state"] == "stalled"


def test_a_running_item_is_told_its_new_priority(site: MasterQueue) -> None:
    item_id = site.verify("1.1", priority="low")
    lease = site.taken("n1")
    site.master.set_priority({"item_id": str(item_id)}, "stat")
    ((token, _, priority),) = site.poll("n1", [lease]).renewed
    assert (token, priority) == (lease.token, 30)
