"""Objects that raypacs makes: asked for by a report, registered by another; on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from raypacs import layout
from raypacs.config import CompressionRule, Settings
from raypacs.errors import StaleLease
from raypacs.index.queue import Wish
from raypacs.policy import deriving
from raypacs.policy.queue import Priority, State
from raypacs.records import InstanceRecord, Lease, WorkResult
from tests.contract.queue_world import TIERS, Queue, T, queue_at
from tests.factories import instance_record

TEN = CompressionRule(name="ten", action="lossy", ratio=10, modalities=("CT",))
STUDY = "1.1"


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    with queue_at(database_url) as world:
        world.node("n1")
        world.writer.apply_settings(Settings(tiers=TIERS, compression=(TEN,)), "test", T)
        yield world


def prepare(queue: Queue, uid: str, now: float, *, count: int = 2) -> None:
    """A study arrives, grows quiet and is prepared."""
    if count:
        queue.study(uid, now, count=count)
    queue.writer.hint_complete([uid], now)
    assert queue.writer.enqueue_due(now) == 1
    lease = queue.taken(now=now, kinds=("PREPARE",))
    assert queue.writer.report(lease, queue.prepared(lease), now) == State.COMPLETED


def derive_items(queue: Queue, uid: str = STUDY) -> list[dict]:
    return [one for one in queue.reader.queue({"study_uid": uid}) if one["kind"] == "DERIVE"]


def taken(queue: Queue, now: float) -> Lease:
    return queue.taken(now=now, kinds=("DERIVE",))


def made(queue: Queue, lease: Lease) -> tuple[InstanceRecord, ...]:
    """What a worker would have written for a DERIVE."""
    records = [stored.record for stored in queue.reader.instances(lease.study_uid)]
    return tuple(
        replace(
            one.record,
            series_uid=one.series_uid,
            sop_instance_uid=one.sop_instance_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.4.203",
            sha256=f"{lease.token}{number}",
            source=deriving.SOURCE,
            size_bytes=100,
            path=layout.instance(
                lease.study_uid, one.series_uid, one.sop_instance_uid, lease.token
            ),
        )
        for number, one in enumerate(deriving.wanted(records, [TEN]))
    )


def ledger_is_right(queue: Queue) -> bool:
    used = {name: row.used_bytes for name, row in queue.reader.ledger().items()}
    return {name: size for name, size in used.items() if size} == queue.writer.recount(T)


def test_a_prepared_study_is_derived_once_and_prepared_again(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    (item,) = derive_items(queue)
    assert (item["state"], item["priority"]) == ("SCHEDULED", Priority.LOW)
    lease = taken(queue, T + 1)
    records = made(queue, lease)
    assert len(records) == 2
    result = WorkResult(records=records)
    assert queue.writer.report(lease, result, T + 2) == State.COMPLETED
    study = queue.reader.study(STUDY)
    assert (study["instance_count"], study["state"]) == (4, "received")
    assert {one["Modality"] for one in study["series"]} == {"CT"}
    assert len(study["series"]) == 2
    # What was made is prepared as anything else, and nothing is made of it.
    prepare(queue, STUDY, T + 60, count=0)
    assert queue.reader.study(STUDY)["state"] == "prepared"
    assert [one["state"] for one in derive_items(queue)] == ["COMPLETED"]
    assert queue.counts_are_right()
    assert ledger_is_right(queue)
    story = [one["text"] for one in queue.reader.why(STUDY)]
    assert any("DERIVE scheduled" in text and "a rule wants" in text for text in story)
    assert any("DERIVE done (attempt 1), 2 objects made" in text for text in story)
    assert any(text.startswith("received 2 objects") and "raypacs" in text for text in story)


def test_without_a_lossy_rule_that_matches_nothing_is_asked_for(queue: Queue) -> None:
    mr = CompressionRule(name="mr", action="lossy", ratio=5, modalities=("MR",))
    for number, rules in enumerate(((), (mr,)), 1):
        settings = Settings(tiers=TIERS, compression=rules)
        queue.writer.apply_settings(settings, "test", T)
        prepare(queue, f"1.{number}", T)
        assert derive_items(queue, f"1.{number}") == []


def test_a_study_that_grows_gets_what_is_missing(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    lease = taken(queue, T)
    assert queue.writer.report(lease, WorkResult(records=made(queue, lease)), T) == State.COMPLETED
    prepare(queue, STUDY, T + 60, count=1)
    lease = taken(queue, T + 61)
    records = made(queue, lease)
    assert len(records) == 1
    assert queue.writer.report(lease, WorkResult(records=records), T + 62) == State.COMPLETED


def test_the_same_report_again_changes_nothing(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    lease = taken(queue, T)
    result = WorkResult(records=made(queue, lease))
    assert queue.writer.report(lease, result, T) == State.COMPLETED
    before = queue.reader.study(STUDY)["instance_count"]
    assert queue.writer.report(lease, result, T + 1) == State.COMPLETED
    # Also when another attempt of the item runs by then: what counts is not to be removed.
    assert queue.writer.enqueue_item("DERIVE", STUDY, Wish(), T + 2) != lease.item_id
    assert queue.writer.report(lease, result, T + 3) == State.COMPLETED
    assert queue.reader.study(STUDY)["instance_count"] == before
    assert ledger_is_right(queue)


def test_what_another_attempt_made_first_is_passed_over(queue: Queue) -> None:
    """Its node was cut off after it wrote: other bytes under the same UIDs."""
    prepare(queue, STUDY, T)
    first = taken(queue, T)
    late = made(queue, first)
    queue.writer.expire(T + 3600)
    second = taken(queue, T + 7200)
    # One of the first attempt's files was registered by a recovery meanwhile.
    queue.writer.register([late[0]], T + 7201)
    records = made(queue, replace(second, token=second.token))
    assert len(records) == 1
    both = (replace(late[0], path=records[0].path + "x", sha256="other"), *records)
    assert queue.writer.report(second, WorkResult(records=both), T + 7202) == State.COMPLETED
    paths = {one.record.path for one in queue.reader.instances(STUDY)}
    assert late[0].path in paths
    assert records[0].path in paths
    assert both[0].path not in paths
    assert queue.reader.aside(STUDY) == []
    with pytest.raises(StaleLease):
        queue.writer.report(first, WorkResult(records=late[1:]), T + 7203)
    assert len(queue.reader.instances(STUDY)) == 4
    assert ledger_is_right(queue)


def test_what_was_made_counts_where_the_attempt_failed(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    lease = taken(queue, T)
    records = made(queue, lease)
    failed = WorkResult(records=records[:1], error="waits for room", waits=True)
    assert queue.writer.report(lease, failed, T) == State.SCHEDULED_FOR_RETRY
    assert len(queue.reader.instances(STUDY)) == 3
    again = taken(queue, T + 600)
    rest = made(queue, again)
    assert len(rest) == 1
    assert queue.writer.report(again, WorkResult(records=rest), T + 600) == State.COMPLETED


def test_what_was_left_out_is_told_and_not_asked_for_again(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    lease = taken(queue, T)
    result = WorkResult(warning="nothing lossy was made of 2 instances (2: too deep)")
    assert queue.writer.report(lease, result, T) == State.WARNING
    assert queue.reader.study(STUDY)["state"] == "prepared"
    assert queue.writer.enqueue_due(T + 3600) == 0


def leave_one_out(queue: Queue, now: float) -> None:
    """Of a study with two images, a DERIVE makes one object; that is prepared."""
    prepare(queue, STUDY, now)
    lease = taken(queue, now)
    result = WorkResult(records=made(queue, lease)[:1], warning="nothing lossy was made of 1")
    assert queue.writer.report(lease, result, now) == State.WARNING
    prepare(queue, STUDY, now + 60, count=0)


def test_what_was_left_out_is_tried_again_with_new_instances_only(queue: Queue) -> None:
    leave_one_out(queue, T + 600)
    assert [one["state"] for one in derive_items(queue)] == ["WARNING"]
    prepare(queue, STUDY, T + 900, count=1)
    assert {one["state"] for one in derive_items(queue)} == {"WARNING", "SCHEDULED"}


def test_what_was_left_out_is_tried_again_by_other_rules(queue: Queue) -> None:
    leave_one_out(queue, T + 600)
    five = CompressionRule(name="five", action="lossy", ratio=5, modalities=("CT",))
    queue.writer.apply_settings(Settings(tiers=TIERS, compression=(five,)), "test", T + 700)
    lease = taken_anew(queue, T + 800)
    assert lease.kind == "DERIVE"


def taken_anew(queue: Queue, now: float) -> Lease:
    """Let something of the study that rules do not concern arrive; return the DERIVE it makes."""
    other = instance_record(study=STUDY, modality="SR", size_bytes=1000)
    queue.writer.register([other], now)
    prepare(queue, STUDY, now, count=0)
    return taken(queue, now)


def test_what_was_left_out_before_a_study_was_deleted_does_not_count(queue: Queue) -> None:
    leave_one_out(queue, T + 600)
    queue.writer.delete_study(STUDY, T + 700)
    prepare(queue, STUDY, T + 800)
    assert {one["state"] for one in derive_items(queue)} == {"WARNING", "SCHEDULED"}


def test_an_object_of_another_study_is_refused(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    lease = taken(queue, T)
    strange = replace(made(queue, lease)[0], study_uid="9.9")
    with pytest.raises(StaleLease, match=r"an object of study 9\.9"):
        queue.writer.report(lease, WorkResult(records=(strange,)), T)
    assert len(queue.reader.instances(STUDY)) == 2
    assert queue.row(lease.item_id)["state"] == "IN PROCESS"


def test_a_deleted_study_stays_deleted(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    lease = taken(queue, T)
    records = made(queue, lease)
    queue.writer.delete_study(STUDY, T + 1)
    with pytest.raises(StaleLease):
        queue.writer.report(lease, WorkResult(records=records), T + 2)
    assert queue.reader.instances(STUDY) == []


def test_a_bad_record_fails_its_own_attempt_only(queue: Queue) -> None:
    prepare(queue, STUDY, T)
    prepare(queue, "1.2", T)
    leases = queue.poll(free=2, kinds=("DERIVE",)).leases
    results = [WorkResult(records=made(queue, lease)) for lease in leases]
    bad = tuple(replace(one, size_bytes=2**70) for one in results[0].records)
    results[0] = WorkResult(records=bad)
    answers = queue.writer.report_many(list(zip(leases, results, strict=True)), T)
    assert answers == [State.SCHEDULED_FOR_RETRY, State.COMPLETED]
    assert len(queue.reader.instances(leases[0].study_uid)) == 2
    assert len(queue.reader.instances(leases[1].study_uid)) == 4
    assert ledger_is_right(queue)
