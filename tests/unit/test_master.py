"""The master: epochs over index and tiers, one event a method, what time brings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raypacs import layout, stats
from raypacs.config import Settings, TierSettings, default_tiers
from raypacs.errors import NotFound, StaleEpoch, TierUnavailable
from raypacs.index.reader import IndexReader
from raypacs.master import DELETE_GRACE_S, Master
from raypacs.master.core import DELETED_LATELY_S
from raypacs.policy.queue import State
from raypacs.records import AsideRecord, Lease, Outcome, WorkResult
from raypacs.storage.tier import Tier, open_tier
from tests.factories import instance_record, node_info, prepared_series

T = 1_700_000_000.0


class Clock:
    """Time that stands still until told."""

    def __init__(self) -> None:
        self.now = T

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Master]]:
    """Start masters on one index; closed at the end."""
    started: list[Master] = []

    def _start(index: str = "index", **options: object) -> Master:
        url = f"sqlite:///{tmp_path / index / 'index.sqlite'}"
        master = Master(url, tmp_path, clock=clock, chance=lambda: 1.0, **options)
        started.append(master)
        return master

    yield _start
    for master in started:
        master.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[IndexReader]:
    found = IndexReader(f"sqlite:///{tmp_path / 'index' / 'index.sqlite'}")
    yield found
    found.close()


@pytest.fixture
def tiers(tmp_path: Path) -> dict[str, Tier]:
    return {settings.name: open_tier(settings) for settings in default_tiers(tmp_path)}


def markers(tier: Tier) -> list[int]:
    return [layout.epoch_of(info.path) for info in tier.walk(layout.EPOCH_MARKERS)]


def prepare(master: Master, reader: IndexReader, lease: Lease) -> WorkResult:
    return WorkResult(packs=(prepared_series(reader.unprepared(lease.study_uid), lease),))


def put_pack(tier: Tier, result: WorkResult) -> None:
    for pack in result.packs:
        tier.put_durable(pack.pack_path, b"x" * pack.pack_bytes)
        tier.put_durable(pack.header_path, b"x" * pack.header_bytes)


class TestEpoch:
    def test_first_start_writes_settings_and_markers(
        self, start: Callable[..., Master], tiers: dict[str, Tier], tmp_path: Path
    ) -> None:
        master = start()
        assert master.epoch == 1
        assert master.settings() == (1, Settings(tiers=default_tiers(tmp_path)))
        assert [markers(tier) for tier in tiers.values()] == [[1], [1]]

    def test_the_older_of_two_changes_nothing(
        self, start: Callable[..., Master], reader: IndexReader, clock: Clock
    ) -> None:
        old = start()
        old.register([instance_record()])
        clock.now += 10
        old.tick()
        (lease,) = old.lease("n1", ["PREPARE"], 1)
        new = start()
        assert new.epoch == 2
        before = reader.status(T), reader.study("1.2.3")
        aside = AsideRecord(Outcome.QUARANTINED, "image1", "q", 1, "bad", "AE", T)
        for write in (
            lambda: old.register([instance_record()]),
            lambda: old.aside(aside),
            lambda: old.hint(["1.2.3"]),
            lambda: old.touched(["1.2.3"]),
            lambda: old.grant("image1", "n1", 5),
            lambda: old.release_grants("n1"),
            lambda: old.lease("n1", ["PREPARE"], 1),
            lambda: old.renew(lease),
            lambda: old.report(lease, prepare(old, reader, lease)),
            lambda: old.node_seen(node_info()),
            lambda: old.delete_study("1.2.3"),
            lambda: old.apply_settings(Settings(), "me"),
            lambda: old.tick(clock.now + 1000),
        ):
            with pytest.raises(StaleEpoch):
                write()
        old.close()
        assert (reader.status(T), reader.study("1.2.3")) == before
        assert new.report(lease, prepare(new, reader, lease)) == State.COMPLETED

    def test_a_restored_older_index_does_not_lower_the_epoch(
        self, start: Callable[..., Master], tiers: dict[str, Tier], tmp_path: Path
    ) -> None:
        start().close()
        shutil.copytree(tmp_path / "index", tmp_path / "another index")
        for _ in range(2):
            start()
        restored = start("another index")
        assert restored.epoch == 4
        assert [markers(tier) for tier in tiers.values()] == [[4], [4]]

    def test_a_tier_that_comes_back_with_a_later_marker_stops_the_master(
        self, start: Callable[..., Master], clock: Clock, tmp_path: Path
    ) -> None:
        start().close()
        shutil.copytree(tmp_path / "index", tmp_path / "another index")
        for _ in range(2):
            start()
        away = {"image1", "web1"}

        def opener(settings: TierSettings) -> Tier:
            if settings.name in away:
                raise TierUnavailable("away")
            return open_tier(settings)

        master = start("another index", tier_opener=opener)
        assert master.epoch == 2
        assert master.status()["tiers"][1]["reachable"] is False
        assert master.grant("web1", "n1", 1) == 0
        away.clear()
        clock.now += 60
        with pytest.raises(StaleEpoch):
            master.tick()

    def test_changed_settings_of_a_tier_keep_its_marker(
        self, start: Callable[..., Master], tmp_path: Path
    ) -> None:
        master = start()
        image, web = default_tiers(tmp_path)
        small = image.model_copy(update={"capacity_bytes": 1000})
        assert master.apply_settings(Settings(tiers=(small, web)), "me") == 2
        assert master.status()["tiers"][0]["capacity_bytes"] == 1000
        assert master.grant("image1", "n1", 5000) == 1000


class TestDeletion:
    def test_a_call_whose_answer_was_lost_is_answered_again(
        self, start: Callable[..., Master], clock: Clock
    ) -> None:
        master = start()
        master.register([instance_record(), instance_record()])
        assert master.delete_study("1.2.3") == 2
        assert master.delete_study("1.2.3") == 2
        clock.now += DELETE_GRACE_S
        assert master.tick().deleted_objects == 2
        assert master.delete_study("1.2.3") == 2
        clock.now += DELETED_LATELY_S
        for study in ("1.2.3", "1.2.4"):
            with pytest.raises(NotFound):
                master.delete_study(study)
        master.register([instance_record()])
        assert master.delete_study("1.2.3") == 1
        assert master.delete_study("1.2.3") == 1


class TestWork:
    def test_a_study_from_arrival_to_prepared(
        self, start: Callable[..., Master], reader: IndexReader, clock: Clock
    ) -> None:
        master = start()
        assert master.grant("image1", "n1", 10_000_000) == 10_000_000
        master.register([instance_record() for _ in range(3)], "n1")
        assert master.tick().enqueued == 0
        master.hint(["1.2.3"])
        assert master.tick().enqueued == 1
        (lease,) = master.lease("n1", ["PREPARE"], 4)
        clock.now += 30
        lease = master.renew(lease)
        clock.now += 50
        assert master.tick().expired == ()
        result = prepare(master, reader, lease)
        assert master.report(lease, result) == State.COMPLETED
        assert master.report(lease, result) == State.COMPLETED
        found = master.status()
        assert found["studies"]["prepared"] == 1
        assert found["queue"] == {"PREPARE": {"COMPLETED": 1}}
        image = found["tiers"][0]
        assert image["granted_bytes"] == 10_000_000 - 3 * 526_000
        assert image["available_bytes"] > 0
        assert image["hours_left"] > 0

    def test_a_full_web_tier_delays_a_study_and_never_fails_it(
        self, start: Callable[..., Master], reader: IndexReader, clock: Clock
    ) -> None:
        master = start()
        master.register([instance_record()])
        master.hint(["1.2.3"])
        master.tick()
        for _ in range(10):
            (lease,) = master.lease("n1", ["PREPARE"], 1)
            full = WorkResult(error="waits for room: tier web1 is full", waits=True)
            assert master.report(lease, full) == State.SCHEDULED_FOR_RETRY
            (item,) = reader.queue()
            assert (item["attempt"], item["error"]) == (0, full.error)
            assert reader.study("1.2.3")["state"] == "received"
            assert master.lease("n1", ["PREPARE"], 1) == []
            clock.now += 30
        (lease,) = master.lease("n1", ["PREPARE"], 1)  # somebody raised the capacity
        assert master.report(lease, prepare(master, reader, lease)) == State.COMPLETED

    def test_what_failed_is_tried_again_when_somebody_asks(
        self, start: Callable[..., Master], reader: IndexReader
    ) -> None:
        master = start()
        master.register([instance_record()])
        master.hint(["1.2.3"])
        master.tick()
        (lease,) = master.lease("n1", ["PREPARE"], 1)
        assert master.report(lease, WorkResult(error="no", retryable=False)) == State.FAILED
        assert master.tick().enqueued == 0
        master.hint(["1.2.3"])
        assert master.tick().enqueued == 1
        (lease,) = master.lease("n1", ["PREPARE"], 1)
        assert master.report(lease, prepare(master, reader, lease)) == State.COMPLETED

    def test_a_dead_attempt_is_swept_twice_and_only_it(
        self,
        start: Callable[..., Master],
        reader: IndexReader,
        tiers: dict[str, Tier],
        clock: Clock,
    ) -> None:
        master = start()
        master.register([instance_record()])
        master.hint(["1.2.3"])
        master.tick()
        (dead,) = master.lease("n1", ["PREPARE"], 1)
        published = prepare(master, reader, dead)
        put_pack(tiers["web1"], published)
        part = layout.attempt_part(dead.token, "1.2.3.1", 0)
        tiers["web1"].put_transient(part, b"part")
        for _ in range(60):  # as nobody renews it
            ticked = master.tick()
            assert ticked.expired == ()
            clock.now += 1
        ticked = master.tick()
        assert [one.token for one in ticked.expired] == [dead.token]
        assert ticked.swept_objects == 3
        assert list(tiers["web1"].walk("studies/")) == []

        clock.now += 60
        (second,) = master.lease("n2", ["PREPARE"], 1)
        good = prepare(master, reader, second)
        put_pack(tiers["web1"], good)
        assert master.report(second, good) == State.COMPLETED
        put_pack(tiers["web1"], published)  # the node that was cut off still writes
        clock.now += 130
        assert master.tick().swept_objects == 2
        left = {info.path for info in tiers["web1"].walk("studies/")}
        assert left == {good.packs[0].pack_path, good.packs[0].header_path}
        clock.now += 1000
        assert master.tick().swept_objects == 0

    def test_parts_without_a_running_attempt_go_at_start(
        self, start: Callable[..., Master], tiers: dict[str, Tier]
    ) -> None:
        master = start()
        master.register([instance_record()])
        master.hint(["1.2.3"])
        master.tick()
        (lease,) = master.lease("n1", ["PREPARE"], 1)
        live = layout.attempt_part(lease.token, "1.2.3.1", 0)
        tiers["web1"].put_transient(live, b"live")
        tiers["web1"].put_transient(layout.attempt_part("0" * 16, "1.2.3.1", 0), b"dead")
        start().tick()
        assert [info.path for info in tiers["web1"].walk(layout.ATTEMPTS)] == [live]

    def test_deleting_takes_the_bytes_after_the_grace_period(
        self,
        start: Callable[..., Master],
        reader: IndexReader,
        tiers: dict[str, Tier],
        clock: Clock,
    ) -> None:
        master = start()
        gone, kept = instance_record(), instance_record(study="1.9")
        for record in (gone, kept):
            tiers["image1"].put_durable(record.path, b"x" * record.size_bytes)
        master.register([gone, kept])
        master.hint(["1.2.3"])
        master.tick()
        (lease,) = master.lease("n1", ["PREPARE"], 1)
        result = prepare(master, reader, lease)
        put_pack(tiers["web1"], result)
        master.report(lease, result)
        assert master.delete_study("1.2.3") == 3
        assert master.tick().deleted_objects == 0
        assert tiers["image1"].exists(gone.path)
        clock.now += DELETE_GRACE_S
        start()  # a new master goes on where the old one stopped
        with pytest.raises(StaleEpoch):
            master.tick()
        assert start().tick().deleted_objects == 3
        paths = {info.path for tier in tiers.values() for info in tier.walk("studies/")}
        assert paths == {kept.path}
        assert reader.ledger()["image1"].used_bytes == kept.size_bytes
        assert reader.ledger()["web1"].used_bytes == 0


class TestStatistics:
    def test_events_and_samples_become_parquet(
        self, start: Callable[..., Master], reader: IndexReader, clock: Clock, tmp_path: Path
    ) -> None:
        master = start()
        master.register([instance_record() for _ in range(3)])
        master.hint(["1.2.3"])
        master.tick()
        clock.now += 1  # two files: events of one instant have no order between files
        (lease,) = master.lease("n1", ["PREPARE"], 1)
        master.report(lease, prepare(master, reader, lease))
        clock.now += 31
        master.tick()
        events = stats.load_events(tmp_path / "stats").to_pylist()
        assert [(row["event"], row["objects"]) for row in events] == [
            ("received", 3),
            ("prepared", 3),
        ]
        assert events[0]["study_key"] == events[1]["study_key"] != ""
        assert events[1]["bytes_in"] == 3 * 526_000
        samples = stats.load_samples(tmp_path / "stats").to_pylist()
        assert [row["tier"] for row in samples] == ["image1", "web1"]
        master.close()
        assert stats.load_samples(tmp_path / "stats").num_rows == 4
        for file in (tmp_path / "stats").rglob("*.parquet"):
            content = file.read_bytes()
            assert b"1.2.3" not in content
            assert b"Doe" not in content


class TestLostBytes:
    def test_known_bytes_that_are_gone_are_replaced_by_the_new_ones(
        self, start: Callable[..., Master], reader: IndexReader, tiers: dict[str, Tier]
    ) -> None:
        master, record = start(), instance_record()
        tiers["image1"].put_durable(record.path, b"x")
        master.register([record])
        again = replace(record, path=record.path.replace(".dcm", "b.dcm"))
        assert [answer.outcome for answer in master.register([again])] == [Outcome.KNOWN]
        tiers["image1"].delete(record.path)
        assert [answer.outcome for answer in master.register([again])] == [Outcome.STORED]
        known = reader.known(record.sop_instance_uid)
        assert known is not None
        assert known[2] == again.path
