"""The story of a study: every step in order, with the rule and the numbers behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from raypacs.errors import NotFound
from raypacs.index import why
from raypacs.index.engine import open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.reader import IndexReader
from raypacs.index.why import tell
from raypacs.index.writer import IndexWriter
from raypacs.records import AsideRecord, Lease, Outcome, WorkResult
from tests.factories import instance_record, prepared_series

T = 1_700_000_000.0
STUDY = "1.2.3"


@dataclass
class World:
    """Both sides of an index, and one study."""

    writer: IndexWriter
    reader: IndexReader

    def receive(self, count: int, now: float) -> None:
        self.writer.register([instance_record(study=STUDY) for _ in range(count)], now)

    def lease(self, now: float) -> Lease:
        self.writer.enqueue_due(now)
        (lease,) = self.writer.lease("n1", ["PREPARE"], 1, now)
        return lease

    def packs(self, lease: Lease) -> WorkResult:
        by_series: dict[str, list[Any]] = {}
        for one in self.reader.unprepared(STUDY):
            by_series.setdefault(one.record.series_uid, []).append(one)
        return WorkResult(tuple(prepared_series(stored, lease) for stored in by_series.values()))

    def story(self) -> list[tuple[str, str]]:
        return [(one["event"], one["text"]) for one in self.reader.why(STUDY)]


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    engine = open_engine(database_url)
    writer = IndexWriter.claim_epoch(engine, [], T, chance=lambda: 1.0)
    room = 10**10
    writer.tiers_seen([TierSeen("image1", room, True), TierSeen("web1", room, True)], T)
    reader = IndexReader(database_url)
    yield World(writer, reader)
    reader.close()
    engine.dispose()


def test_the_whole_story_in_order(world: World) -> None:
    world.receive(3, T)
    first = world.lease(T + 10)
    world.writer.report(first, WorkResult(error="disk error on web1"), T + 11)
    second = world.lease(T + 1000)
    world.writer.report(second, world.packs(second), T + 1002)
    world.writer.touched([STUDY], T + 2000)
    events = [event for event, _ in world.story()]
    assert events == [
        "received",
        "scheduled",
        "leased",
        "scheduled for retry",
        "leased",
        "prepared",
        "accessed",
    ]
    times = [one["at_s"] for one in world.reader.why(STUDY)]
    assert times == sorted(times)
    told = dict(world.story())
    assert "received 3 objects" in told["received"]
    assert "no new instance for 5 s" in told["scheduled"]
    assert "disk error on web1" in told["scheduled for retry"]
    assert "again in " in told["scheduled for retry"]
    assert told["leased"] == "attempt 2 of PREPARE began, on node n1"
    assert told["prepared"].startswith("prepared 3 instances into ")
    assert told["accessed"] == "last accessed"


def test_a_study_whose_sender_was_done(world: World) -> None:
    world.receive(1, T)
    world.writer.hint_complete([STUDY], T + 1)
    world.lease(T + 1)
    assert "its sender was done" in dict(world.story())["scheduled"]


def test_a_deleted_study_has_its_story_still(world: World) -> None:
    world.receive(2, T)
    world.writer.delete_study(STUDY, T + 1)
    assert world.story()[0][0] == "received"
    assert dict(world.story())["deleted"].startswith("deleted from every cache: 2 objects")


def test_what_is_kept_aside_is_told_with_the_reason(world: World) -> None:
    world.receive(1, T)
    aside = AsideRecord(
        Outcome.CONFLICT,
        "image1",
        "conflicts/x",
        5,
        "other bytes",
        "CT1",
        T,
        STUDY,
        "1.2.3.4",
        "ab",
    )
    world.writer.aside(aside, T + 1)
    assert (
        "1.2.3.4 from CT1 is kept aside on image1: other bytes" in dict(world.story())["conflict"]
    )


def test_a_long_story_keeps_its_beginning_and_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "_MOST_EVENTS", 4)
    world.receive(1, T)
    for number in range(1, 9):
        world.receive(1, T + 1000 * number)
    story = world.reader.why(STUDY)
    assert [one["at_s"] - T for one in story] == [0, 1000, 1000, 7000, 8000]
    assert story[2]["text"] == "... 5 events left out"
    assert (story[2]["event"], story[2]["detail"]) == ("left out", {"events": 5})


def test_a_study_that_nobody_knows(world: World) -> None:
    world.receive(1, T)
    with pytest.raises(NotFound, match=r"9\.9"):
        world.reader.why("9.9")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"event": "prepared", "detail": {
                "instances": 3, "packs": 1, "raw_bytes": 3_000_000, "prepared_bytes": 1_000_000,
                "copied": 2, "tiers": ["web1"], "proven": 1, "reasons": {"rule no clips": 2},
                "seconds": 1.26, "attempt": 1}},
            "prepared 3 instances into 1 pack on web1: 3.0 MB became 1.0 MB, 3.00 times smaller, "
            "1 proven lossless, 2 copied as received (2 x rule no clips), "
            "1.3 s of work (attempt 1)",
        ),
        (
            {"event": "failed", "detail": {"attempt": 3, "error": "bad"}},
            "FAILED after attempt 3: bad",
        ),
        (
            {"event": "canceled", "who": "CLI a@b", "detail": {"error": "not wanted"}},
            "CANCELED: not wanted, asked by CLI a@b",
        ),
        (
            {"event": "archived", "node": "n2", "detail": {"tier": "lib1", "rule_name": "old"}},
            "archived: tier lib1, rule name old, on node n2",
        ),
        ({"event": "noted", "detail": {}}, "noted"),
        (
            {"event": "prepared", "detail": {"instances": 0, "attempt": 2}},
            "nothing was left to prepare (attempt 2)",
        ),
        (
            {
                "event": "rescheduled",
                "at_s": 5.0,
                "detail": {
                    "kind": "VERIFY",
                    "due_s": 86400.0,
                    "wanted_node": "n2",
                    "note": "n1 is gone",
                },
            },
            "VERIFY rescheduled for 1970-01-02T00:00:00+00:00, to run on node n2 (n1 is gone)",
        ),
        (
            {"event": "rescheduled", "at_s": 5.0, "detail": {"kind": "VERIFY", "due_s": 1.7e12}},
            "VERIFY rescheduled for 1700000000000.0 s",
        ),
        (
            {"event": "priority", "detail": {"kind": "PREPARE", "priority": "stat"}},
            "PREPARE has priority stat now",
        ),
    ],
)  # fmt: skip
def test_sentences(event: dict[str, Any], text: str) -> None:
    assert tell(event) == text
