"""What operators order for items that match a filter, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raypacs.errors import InvalidQuery, NotFound, StaleLease
from raypacs.index.bulk import Again, Chosen
from raypacs.policy.queue import Priority, State
from raypacs.records import Lease, WorkResult
from tests.contract.queue_world import Queue, T, queue_at


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    with queue_at(database_url) as world:
        world.node("n1")
        world.node("n2")
        yield world


def failed(queue: Queue, uid: str, node: str = "n1") -> Lease:
    """An item that failed on a node."""
    queue.item(uid)
    lease = queue.taken(node)
    queue.writer.report(lease, WorkResult(error="no pixels", retryable=False), T)
    return lease


def again(queue: Queue, filters: dict[str, str], **how: Any) -> dict[str, Any]:
    return queue.writer.reschedule_items(Chosen(filters, "ann"), Again(**how), T)


class TestReschedule:
    def test_on_the_same_node_with_all_its_tries(self, queue: Queue) -> None:
        lease = failed(queue, "1.1", "n2")
        answer = again(queue, {"item_id": str(lease.item_id)})
        assert (answer["matched"], answer["changed"], answer["refused"]) == (1, 1, [])
        row = queue.row(lease.item_id)
        assert (row["state"], row["attempt"], row["error"]) == (State.SCHEDULED, 0, "")
        assert (row["wanted_node"], row["note"]) == ("n2", "")
        assert queue.reader.study("1.1")["state"] == "received"
        assert queue.poll("n1").leases == ()
        assert queue.taken("n2").attempt == 1
        assert queue.counts_are_right()

    def test_where_that_node_is_gone_on_any_other_and_noted(self, queue: Queue) -> None:
        lease = failed(queue, "1.1", "n2")
        queue.set_node("n2", lost_s=T)
        again(queue, {"study_uid": "1.1"})
        row = queue.row(lease.item_id)
        assert (row["wanted_node"], row["note"]) == ("", "node n2 is gone: any other")
        assert queue.taken("n1").item_id == lease.item_id

    @pytest.mark.parametrize("due_s", [1.7e12, float("inf"), float("nan"), -5.0])
    def test_at_what_is_no_time(self, queue: Queue, due_s: float) -> None:
        lease = failed(queue, "1.1")
        with pytest.raises(InvalidQuery, match="is not in seconds"):
            again(queue, {"state": "failed"}, due_s=due_s)
        with pytest.raises(InvalidQuery, match="is not in seconds"):
            queue.item("1.2", due_s=due_s)
        assert queue.row(lease.item_id)["state"] == State.FAILED
        assert queue.reader.tasks({}, 10)["total"] == 1

    def test_at_a_later_time(self, queue: Queue) -> None:
        lease = failed(queue, "1.1")
        again(queue, {"state": "failed"}, due_s=T + 3600)
        assert queue.poll("n1", now=T + 3599).leases == ()
        assert queue.taken("n1", now=T + 3600).item_id == lease.item_id

    def test_on_a_named_node_or_spread_over_several(self, queue: Queue) -> None:
        for number in range(4):
            failed(queue, f"1.{number}")
        again(queue, {"study_uid": "1.0"}, nodes=["n2"], mode="node")
        answer = again(queue, {"state": "FAILED"}, nodes=["n1", "n2"], mode="spread")
        assert answer["changed"] == 3
        places = {item["study_uid"]: item["wanted_node"] for item in queue.reader.queue()}
        assert places == {"1.0": "n2", "1.1": "n1", "1.2": "n2", "1.3": "n1"}

    def test_what_cannot_be_done_again_is_said(self, queue: Queue) -> None:
        one = failed(queue, "1.1")
        queue.item("1.2")
        running = queue.taken()
        gone = failed(queue, "1.3")
        queue.writer.delete_study("1.3", T)
        queue.item("1.2")  # one more waits while the first runs
        answer = again(queue, {})
        assert answer["changed"] == 2
        assert {refused["item_id"]: refused["why"] for refused in answer["refused"]} == {
            running.item_id: "it runs: cancel it first",
            gone.item_id: "its study was deleted",
        }
        assert queue.row(one.item_id)["state"] == State.SCHEDULED

    def test_of_two_for_one_study_only_one_waits(self, queue: Queue) -> None:
        queue.item("1.1", "VERIFY")
        first = queue.taken(kinds=("VERIFY",))
        queue.writer.report(first, WorkResult(), T)
        queue.item("1.1", "VERIFY")
        second = queue.taken(kinds=("VERIFY",))
        queue.writer.report(second, WorkResult(), T)
        answer = again(queue, {"kind": "VERIFY"})
        assert answer["changed"] == 1
        assert answer["refused"] == [
            {"item_id": second.item_id, "why": f"item {first.item_id} waits for it already"}
        ]

    @pytest.mark.parametrize(
        "how",
        [
            {"mode": "best"},
            {"mode": "node"},
            {"mode": "same", "nodes": ["n1"]},
            {"mode": "spread", "nodes": ["n1", "n3"]},
        ],
    )
    def test_orders_that_cannot_be(self, queue: Queue, how: dict[str, Any]) -> None:
        queue.node("n3")
        queue.set_node("n3", left_s=T)
        with pytest.raises(InvalidQuery):
            again(queue, {}, **how)
        with pytest.raises(NotFound):
            again(queue, {}, mode="node", nodes=["n9"])


class TestCancel:
    def test_a_running_item_is_stopped_at_the_next_poll_and_swept(self, queue: Queue) -> None:
        item_id = queue.quiet("1.1")
        lease = queue.taken()
        answer = queue.writer.cancel_items_matching(Chosen({"item_id": str(item_id)}, "ann"), T)
        assert answer["changed"] == 1
        assert queue.row(item_id)["state"] == State.CANCELED
        assert queue.row(item_id)["error"] == "canceled by ann"
        assert queue.poll(running=(lease,)).stop == (lease.token,)
        with pytest.raises(StaleLease):
            queue.writer.report(lease, queue.prepared(lease), T)
        assert [one[0] for one in queue.writer.sweepable(T)] == [lease.token]
        assert queue.reader.study("1.1")["state"] == "failed", "nobody will prepare it"
        assert queue.counts_are_right()

    def test_what_has_ended_is_refused(self, queue: Queue) -> None:
        queue.item("1.1")
        lease = queue.taken()
        queue.writer.report(lease, queue.prepared(lease), T)
        answer = queue.writer.cancel_items_matching(Chosen({}), T)
        assert answer["refused"] == [{"item_id": lease.item_id, "why": "it is COMPLETED"}]
        assert queue.reader.study("1.1")["state"] == "prepared"

    def test_a_study_whose_next_images_are_due_is_not_given_up(self, queue: Queue) -> None:
        queue.quiet("1.1")
        queue.study("1.1", count=2)
        queue.writer.cancel_items_matching(Chosen({"study_uid": "1.1"}), T)
        assert queue.reader.study("1.1")["state"] == "received"
        assert not queue.reader.idle("1.1")


class TestDeleteAndPriority:
    def test_items_leave_the_list_but_running_ones(self, queue: Queue) -> None:
        running = queue.item("1.1")
        queue.taken()
        waiting = queue.quiet("1.2")
        answer = queue.writer.delete_items(Chosen({}, "ann"), T)
        assert answer["refused"] == [{"item_id": running, "why": "it runs: cancel it first"}]
        with pytest.raises(NotFound):
            queue.reader.task(waiting)
        assert queue.reader.study("1.2")["state"] == "failed"
        assert queue.counts_are_right()

    def test_a_report_told_again_after_its_item_was_deleted_keeps_its_packs(
        self, queue: Queue
    ) -> None:
        """Who hears StaleLease removes what the attempt wrote."""
        queue.quiet("1.1")
        lease = queue.taken()
        result = queue.prepared(lease)
        assert queue.writer.report(lease, result, T) == State.COMPLETED
        queue.writer.delete_items(Chosen({}), T)
        assert queue.writer.report(lease, result, T + 1) == State.COMPLETED

    def test_a_priority_for_what_waits(self, queue: Queue) -> None:
        queue.item("1.1")
        queue.item("1.2", priority="low")
        queue.writer.set_priority(Chosen({"study_uid": "1.2"}), Priority.STAT, T)
        assert queue.taken().study_uid == "1.2"
        assert queue.reader.tasks({"priority": "stat"})["total"] == 1
        assert queue.counts_are_right()


class TestBatches:
    def test_a_call_does_at_most_its_limit_and_says_where_to_go_on(self, queue: Queue) -> None:
        for number in range(5):
            queue.item(f"1.{number}")
        seen, after_id, more = 0, 0, True
        while more:
            chosen = Chosen({"kind": "prepare"}, "ann", limit=2, after_id=after_id)
            answer = queue.writer.set_priority(chosen, Priority.HIGH, T)
            seen += answer["changed"]
            after_id, more = answer["after_id"], answer["more"]
            assert answer["matched"] <= 2
        assert seen == 5
        stories = queue.reader.study("1.3")["story"]
        assert [one["who"] for one in stories if one["event"] == "priority"] == ["ann"]


class TestNodesThatGetNoWork:
    def test_same_is_any_other_where_its_node_drains_or_is_refused(self, queue: Queue) -> None:
        first, second = failed(queue, "1.1", "n1"), failed(queue, "1.2", "n2")
        queue.writer.drain("n1", "ann", T, draining=True)
        queue.set_node("n2", problems=["refused: its version 1 is not the cluster's (2)"])
        again(queue, {})
        rows = [queue.row(lease.item_id) for lease in (first, second)]
        assert [row["wanted_node"] for row in rows] == ["", ""]
        assert rows[0]["note"] == "node n1 is draining: any other"
        assert "is refused: its version 1" in rows[1]["note"]

    def test_a_named_one_is_refused_with_the_reason(self, queue: Queue) -> None:
        failed(queue, "1.1")
        queue.writer.drain("n2", "ann", T, draining=True)
        with pytest.raises(InvalidQuery, match="node n2 is draining"):
            again(queue, {}, mode="node", nodes=["n2"])
        with pytest.raises(InvalidQuery, match="node n2 is draining"):
            queue.item("1.2", wanted_node="n2")
        queue.set_node("n1", lost_s=T)
        with pytest.raises(InvalidQuery, match="node n1 is gone"):
            queue.item("1.2", wanted_node="n1")
        for name in ("n9", "n\x009"):
            with pytest.raises(NotFound):
                queue.item("1.2", wanted_node=name)

    def test_a_kind_that_no_node_does_is_refused_with_what_they_do(self, queue: Queue) -> None:
        queue.node("n1", kinds=("PREPARE", "VERIFY"))
        queue.node("n2", kinds=("PREPARE",))
        queue.item("1.1", "VERIFY")
        with pytest.raises(InvalidQuery, match=r"no node does COMPACT; .*: PREPARE, VERIFY"):
            queue.item("1.1", "COMPACT")


def test_spreading_goes_on_over_several_calls(queue: Queue) -> None:
    for number in range(5):
        queue.item(f"1.{number}")
    places, after_id, done, more = [], 0, 0, True
    while more:
        answer = queue.writer.reschedule_items(
            Chosen({}, "ann", limit=1, after_id=after_id),
            Again(None, ("n1", "n2"), "spread", done),
            T,
        )
        after_id, more, done = answer["after_id"], answer["more"], done + answer["changed"]
        places.append(queue.row(after_id)["wanted_node"])
    assert places == ["n1", "n2", "n1", "n2", "n1"]


class TestAudit:
    def events(self, queue: Queue, uid: str, name: str) -> list[dict[str, Any]]:
        return [one["detail"] for one in queue.reader.why(uid) if one["event"] == name]

    def test_items_that_a_deleted_study_cancels_say_so(self, queue: Queue) -> None:
        queue.item("1.1", "VERIFY")
        queue.taken(kinds=("VERIFY",))
        queue.writer.delete_study("1.1", T)
        (told,) = self.events(queue, "1.1", "canceled")
        assert told == {"kind": "VERIFY", "was": "IN PROCESS", "error": "study deleted"}

    def test_items_whose_work_another_one_did_say_so(self, queue: Queue) -> None:
        queue.quiet("1.1")
        lease = queue.taken()
        waiting = queue.item("1.1")
        queue.writer.report(lease, queue.prepared(lease), T)
        assert queue.row(waiting)["state"] == State.CANCELED
        (told,) = self.events(queue, "1.1", "canceled")
        assert told["error"] == f"item {lease.item_id} prepared everything"

    def test_waiting_for_the_same_again_is_told_once(self, queue: Queue) -> None:
        queue.item("1.1")
        for number, cause in enumerate(["room"] * 5 + ["a tier"] * 5):
            lease = queue.taken(now=T + 100 * number)
            result = WorkResult(error=f"waits for {cause}", waits=True)
            queue.writer.report(lease, result, T + 100 * number)
        told = self.events(queue, "1.1", "scheduled for retry")
        assert [one["error"] for one in told] == ["waits for room", "waits for a tier"]
        assert len(self.events(queue, "1.1", "leased")) == 1


def test_texts_of_reports_are_freed_of_control_characters(queue: Queue) -> None:
    """PostgreSQL takes no NUL; the other reports of the batch must not fail for it."""
    leases = []
    for number in range(2):
        queue.item(f"1.{number}", "VERIFY")
        leases.append(queue.taken(kinds=("VERIFY",)))
    results = [WorkResult(error="bad\x00\x1b[0m text"), WorkResult(warning="see\x00\nthis")]
    states = queue.writer.report_many(list(zip(leases, results, strict=True)), T)
    assert states == [State.SCHEDULED_FOR_RETRY, State.WARNING]
    rows = [queue.row(lease.item_id) for lease in leases]
    assert [row["error"] for row in rows] == ["bad  [0m text", "see \nthis"]
    assert "\x00" not in str(queue.reader.why("1.0"))
