"""The work queue on both databases: polls, admission, deaths, what operators ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raypacs.errors import InvalidQuery, NotFound, StaleLease
from raypacs.index.queue import Wish
from raypacs.policy.queue import State
from raypacs.records import WorkResult
from tests.contract.queue_world import Queue, T, queue_at


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    with queue_at(database_url) as world:
        world.node("n1")
        yield world


class TestPoll:
    def test_gives_renews_and_tells_what_to_stop(self, queue: Queue) -> None:
        queue.item("1.1")
        lease = queue.taken()
        assert (lease.kind, lease.study_uid, lease.attempt, lease.node) == (
            "PREPARE",
            "1.1",
            1,
            "n1",
        )
        soon = queue.poll(now=T + 5, running=(lease,))
        assert soon.renewed == ((lease.token, lease.expires_at_s, 10),), "young: nothing is written"
        later = queue.poll(now=T + 40, running=(lease,))
        assert later.renewed == ((lease.token, T + 100, 10),)
        assert (later.stop, later.leases) == ((), ())
        queue.writer.expire(T + 101)
        after = queue.poll(now=T + 101, running=(lease,), free=0)
        assert (after.stop, after.renewed) == ((lease.token,), ())
        assert queue.counts_are_right()

    def test_a_lease_that_ran_out_is_not_renewed(self, queue: Queue) -> None:
        queue.item("1.1")
        lease = queue.taken()
        late = queue.poll(now=T + 60, running=(lease,), free=0)
        assert (late.stop, late.renewed) == ((lease.token,), ())

    def test_a_lease_whose_answer_was_lost_is_given_again_soon(self, queue: Queue) -> None:
        queue.item("1.1")
        lost = queue.taken()
        assert queue.poll(now=T + 5).leases == (), "it may still be on its way"
        assert queue.poll(now=T + 11).leases == ()
        assert queue.row(lost.item_id)["state"] == State.SCHEDULED_FOR_RETRY
        again = queue.taken(now=T + 20)
        assert (again.item_id, again.attempt) == (lost.item_id, 1)
        with pytest.raises(StaleLease):
            queue.writer.report(lost, queue.prepared(lost), T + 20)

    def test_highest_priority_first_then_the_longest_due(self, queue: Queue) -> None:
        queue.item("1.1", priority="low")
        queue.item("1.2", due_s=T - 1)
        queue.item("1.3", due_s=T - 2)
        queue.item("1.4", priority="stat")
        queue.item("1.5", priority="stat", due_s=T + 100)
        queue.node("n8", cores=8)
        leases = queue.poll("n8", free=8).leases
        assert [lease.study_uid for lease in leases] == ["1.4", "1.3", "1.2", "1.1"]

    def test_a_node_gets_no_more_than_admission_lets_it(self, queue: Queue) -> None:
        for number in range(20):
            queue.item(f"1.{number}")
            queue.item(f"1.{number}", "ARCHIVE", priority="low")
        leases = queue.poll(free=100).leases
        kinds = [lease.kind for lease in leases]
        assert (kinds.count("PREPARE"), kinds.count("ARCHIVE")) == (2, 4)
        assert queue.poll(free=100, running=leases).leases == ()
        queue.item("1.3", "VERIFY", priority="low")
        queue.item("1.4", "VERIFY", priority="stat")
        assert len(queue.poll(free=100, running=leases).leases) == 2

    @pytest.mark.parametrize(
        "why",
        ["unknown", "draining", "refused", "lost", "tier", "no tier", "halted kind", "halted"],
    )
    def test_who_gets_nothing(self, queue: Queue, why: str) -> None:
        queue.item("1.1")
        if why == "draining":
            queue.node("n2")
            queue.set_node("n2", draining=True)
        elif why == "refused":
            queue.node("n2")
            queue.set_node("n2", problems=["refused: another version"])
        elif why == "lost":
            queue.node("n2")
            queue.set_node("n2", lost_s=T)
        elif why == "tier":
            queue.node("n2", tiers=("image1",))
        elif why == "no tier":
            queue.node("n2", tiers=())
        elif why != "unknown":
            queue.node("n2")
            queue.writer.halt("PREPARE" if why == "halted kind" else "", "me", T)
        assert queue.poll("n2").leases == ()
        if not why.startswith("halted"):
            assert queue.poll("n1").leases != ()

    def test_an_item_bound_to_a_node_goes_to_no_other(self, queue: Queue) -> None:
        queue.node("n2")
        queue.item("1.1", wanted_node="n2")
        assert queue.poll("n1").leases == ()
        assert queue.taken("n2").study_uid == "1.1"


class TestDeaths:
    def test_a_death_is_no_try_but_ten_in_a_row_are_enough(self, queue: Queue) -> None:
        item_id = queue.item("1.1")
        queue.node("n2")
        now = T
        for death in range(1, 11):
            now += 400
            lease = queue.taken("n1" if death % 2 else "n2", now=now)
            assert lease.attempt == 1
            now = lease.expires_at_s
            (dead,) = queue.writer.expire(now)
            assert dead.token == lease.token
            assert queue.row(item_id)["deaths"] == death
        row = queue.row(item_id)
        assert row["state"] == State.FAILED
        assert row["error"] == "10 attempts in a row died, on node n1, node n2"
        assert queue.reader.study("1.1")["state"] == "failed"
        assert queue.counts_are_right()

    def test_any_report_ends_the_row_of_deaths(self, queue: Queue) -> None:
        item_id = queue.item("1.1")
        queue.writer.expire(queue.taken().expires_at_s)
        lease = queue.taken(now=T + 100)
        queue.writer.report(lease, WorkResult(error="no"), T + 101)
        assert queue.row(item_id)["deaths"] == 0


class TestReports:
    def test_many_at_once_each_with_its_answer(self, queue: Queue) -> None:
        for number in range(3):
            queue.item(f"1.{number}")
        queue.node("n8", cores=8)
        first, second, third = queue.poll("n8", free=8).leases
        queue.writer.expire(T + 61)
        again = queue.taken("n8", now=T + 70)
        answers = queue.writer.report_many(
            [(again, queue.prepared(again)), (second, queue.prepared(second))], T + 71
        )
        assert answers[0] == State.COMPLETED
        assert isinstance(answers[1], StaleLease)
        assert {first.study_uid, third.study_uid} == {"1.0", "1.2"}
        assert queue.counts_are_right()

    def test_other_kinds_end_with_what_they_say(self, queue: Queue) -> None:
        queue.item("1.1", "VERIFY")
        warned = queue.taken(kinds=("VERIFY",))
        state = queue.writer.report(warned, WorkResult(warning="2 objects differ"), T)
        assert state == State.WARNING
        assert queue.row(warned.item_id)["error"] == "2 objects differ"
        assert queue.reader.study("1.1")["state"] == "received", "only PREPARE prepares"
        queue.item("1.1", "VERIFY")
        failed = queue.taken(kinds=("VERIFY",))
        assert queue.writer.report(failed, WorkResult(error="x", retryable=False), T) == (
            State.FAILED
        )
        assert queue.reader.study("1.1")["state"] == "received"


class TestAskedFor:
    def test_one_waits_at_most_and_takes_what_is_wished(self, queue: Queue) -> None:
        first = queue.item("1.1", priority="low", due_s=T + 100)
        assert queue.item("1.1", priority="stat") == first
        row = queue.row(first)
        assert (row["priority"], row["due_s"]) == (30, T)
        assert (row["patient_id"], row["ae_title"]) == ("P1.1", "CT1")
        assert queue.item("1.1", "VERIFY") != first
        lease = queue.taken()
        second = queue.item("1.1", payload={"why": "again"})
        assert second != lease.item_id, "one runs, one waits"
        assert queue.row(second)["payload"] == {"why": "again"}

    def test_what_there_is_not_is_said(self, queue: Queue) -> None:
        with pytest.raises(NotFound, match=r"9\.9"):
            queue.writer.enqueue_item("PREPARE", "9.9", Wish(), T)
        queue.study("1.1")
        with pytest.raises(InvalidQuery, match="known: ADOPT, ARCHIVE"):
            queue.writer.enqueue_item("BAKE", "1.1", Wish(), T)
        with pytest.raises(NotFound, match="n7"):
            queue.writer.enqueue_item("PREPARE", "1.1", Wish(wanted_node="n7"), T)
