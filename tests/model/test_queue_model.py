"""Random walks through the work queue on both databases, with a plain model beside it.

After every step: one owner per item, no item or study forgotten, effects exactly once, the ledger
and the items' counts equal to a recount, and every item moved as the table below allows.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from raypacs.config import Settings
from raypacs.errors import NotFound, StaleEpoch, StaleLease
from raypacs.index.bulk import Again, Chosen
from raypacs.index.engine import open_engine
from raypacs.index.ledger import TierSeen
from raypacs.index.queue import Wish
from raypacs.index.reader import IndexReader
from raypacs.index.schema import (
    instances,
    item_counts,
    item_facets,
    packs,
    studies,
    work_items,
)
from raypacs.index.writer import IndexWriter
from raypacs.policy.queue import Priority
from raypacs.records import Assignment, Lease, Outcome, Poll, WorkResult
from tests.contract.queue_world import TIERS
from tests.factories import instance_record, node_info, prepared_series
from tests.postgres import TEMPLATE, PostgresServer

CAPACITY = 10_000_000
STUDIES = ("1.1", "1.2", "1.3")
NAMES = ("n1", "n2", "n3")
KINDS = ("PREPARE", "VERIFY")
NODES = st.sampled_from(NAMES)
STUDY = st.sampled_from(STUDIES)
LEASE_S, UNCLAIMED_S, MAX_DEATHS = 60.0, 10.0, 3

SCHEDULED, RETRY, RUNNING = "SCHEDULED", "SCHEDULED FOR RETRY", "IN PROCESS"
COMPLETED, WARNING, FAILED, CANCELED = "COMPLETED", "WARNING", "FAILED", "CANCELED"
WAITING, ENDED = (SCHEDULED, RETRY), (COMPLETED, WARNING, FAILED, CANCELED)

# What may become of an item by what happened: written down from the issue, not from the code.
DIED = {(RUNNING, RETRY), (RUNNING, FAILED), (RUNNING, CANCELED)}
ASKED = {("", SCHEDULED), (FAILED, SCHEDULED), (FAILED, CANCELED)}
MAY_BECOME: dict[str, set[tuple[str, str]]] = {
    "poll": {(SCHEDULED, RUNNING), (RETRY, RUNNING), *DIED},
    "report": {
        *((RUNNING, end) for end in (COMPLETED, WARNING, FAILED, RETRY, CANCELED)),
        *((old, CANCELED) for old in (*WAITING, FAILED)),  # another one did its work
    },
    "asked": ASKED,
    "expire": DIED,
    "cancel": {(old, CANCELED) for old in (*WAITING, RUNNING, FAILED)},
    "reschedule": {(old, SCHEDULED) for old in (*WAITING, *ENDED)},
    "delete": {(old, "") for old in (*WAITING, *ENDED)},
    "": set(),
}

FILTERS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"study_uid": STUDY}),
    st.fixed_dictionaries({"node": NODES}),
    st.fixed_dictionaries({"kind": st.sampled_from(KINDS)}),
    st.fixed_dictionaries(
        {"state": st.sampled_from([*WAITING, RUNNING, *ENDED]), "study_uid": STUDY}
    ),
)


class QueueModel(RuleBasedStateMachine):
    """The real index, and what it should hold as plain dicts."""

    leases = Bundle("leases")
    open_index: Callable[[], Any]

    def __init__(self) -> None:
        super().__init__()
        self._index = self.open_index()
        self.engine, self.reader = self._index.__enter__()
        self.now = 1_000_000.0
        self.writer = IndexWriter.claim_epoch(self.engine, [], self.now, chance=lambda: 0.5)
        chosen = Settings(tiers=TIERS, max_deaths=MAX_DEATHS, lease_s=LEASE_S)
        self.writer.apply_settings(chosen, "model", self.now)
        seen = [TierSeen("image1", CAPACITY, True), TierSeen("web1", CAPACITY, True)]
        self.writer.tiers_seen(seen, self.now)
        self.event = ""
        self.before: dict[int, dict[str, Any]] = {}
        self.held: dict[int, Lease] = {}
        self.started: dict[str, float] = {}
        self.holding: dict[str, dict[str, Lease]] = {name: {} for name in NAMES}
        self.ended: dict[str, WorkResult] = {}  # token -> what was accepted
        self.arrived: dict[str, dict[str, int]] = {}  # study -> UID -> bytes
        self.effects: Counter[str] = Counter()  # UID -> times prepared
        self.pack_paths: dict[str, set[str]] = {}
        self.used: Counter[str] = Counter()
        self.draining: set[str] = set()
        self.lost: set[str] = set()
        self.halted: set[str] = set()

    @initialize()
    def nodes_join(self) -> None:
        for name in NAMES:
            self._joins(name, "b1")

    def _joins(self, name: str, boot: str) -> None:
        info = replace(node_info(name, boot=boot), cores=2, tiers=("image1", "web1"))
        self.writer.node_seen(info, self.now)
        self.lost.discard(name)

    def teardown(self) -> None:
        self._index.__exit__(None, None, None)

    # What happens

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 40.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(study=STUDY, count=st.integers(1, 3))
    def instances_arrive(self, study: str, count: int) -> None:
        records = [instance_record(study=study, size_bytes=1000) for _ in range(count)]
        duplicate = replace(records[0], path="duplicate")
        answers = self.writer.register([*records, duplicate], self.now, holder="n1")
        assert [one.outcome for one in answers] == [Outcome.STORED] * count + [Outcome.KNOWN]
        self.arrived.setdefault(study, {}).update(
            {record.sop_instance_uid: record.size_bytes for record in records}
        )
        self.used["image1"] += 1000 * count

    @rule(study=STUDY)
    def association_ends(self, study: str) -> None:
        self.writer.hint_complete([study], self.now)

    @rule()
    def items_become_due(self) -> None:
        self.event = "asked"
        self.writer.enqueue_due(self.now)

    @rule(study=STUDY, kind=st.sampled_from(KINDS), priority=st.sampled_from(list(Priority)))
    def somebody_asks(self, study: str, kind: str, priority: Priority) -> None:
        self.event = "asked"
        wish = Wish(priority=priority, who="ann")
        if study not in self.arrived:
            with pytest.raises(NotFound):
                self.writer.enqueue_item(kind, study, wish, self.now)
            return
        item_id = self.writer.enqueue_item(kind, study, wish, self.now)
        assert self.reader.task(item_id)["state"] in WAITING

    @rule(target=leases, node=NODES, free=st.integers(0, 4))
    def polls(self, node: str, free: int) -> MultipleResults[Lease]:
        answer = self._poll(node, free)
        self.holding[node] |= {lease.token: lease for lease in answer.leases}
        return multiple(*answer.leases)

    @rule(node=NODES)
    def polls_and_the_answer_is_lost(self, node: str) -> None:
        self._poll(node, 1)

    def _poll(self, node: str, free: int) -> Assignment:
        self.event = "poll"
        told = self.holding[node]
        good = {token for token, lease in told.items() if self._good(lease)}
        running = tuple((lease.item_id, token) for token, lease in told.items())
        answer = self.writer.poll(Poll(node, "b1", KINDS, running, free), self.now).assignment
        assert set(answer.stop) == told.keys() - good
        assert {token for token, *_ in answer.renewed} == good
        for token, expires_at_s, priority in answer.renewed:
            assert priority == self.before[told[token].item_id]["priority"]
            lease = told[token] = replace(told[token], expires_at_s=expires_at_s)
            assert expires_at_s > self.now
            self.held[lease.item_id] = lease
        for token in answer.stop:
            del told[token]
        for lease in [one for one in self.held.values() if one.node == node]:
            unclaimed = lease.token not in told and self.started[lease.token] <= (
                self.now - UNCLAIMED_S
            )
            if unclaimed and lease.expires_at_s > self.now:
                del self.held[lease.item_id]
        self._given(node, free, answer.leases)
        return answer

    def _given(self, node: str, free: int, leases: tuple[Lease, ...]) -> None:
        assert len(leases) <= free
        if node in self.draining or node in self.lost or "" in self.halted:
            assert not leases
        for lease in leases:
            assert lease.kind not in self.halted
            assert lease.item_id not in self.held, "given to two owners"
            others = {(one.kind, one.study_uid) for one in self.held.values()}
            assert (lease.kind, lease.study_uid) not in others
            assert self.before[lease.item_id]["wanted_node"] in ("", node)
            self.held[lease.item_id] = lease
            self.started[lease.token] = self.now
        mine = [one for one in self.held.values() if one.node == node and one.kind == "PREPARE"]
        assert len(mine) <= 2 * 2 + 2, "low ones, as many others as cores, and 2 urgent ones"

    @rule(target=leases, study=STUDY, count=st.integers(1, 3), node=NODES)
    def arrives_and_is_taken(self, study: str, count: int, node: str) -> MultipleResults[Lease]:
        """The usual way in one step, so that short walks get far."""
        self.instances_arrive(study, count)
        self.association_ends(study)
        self.items_become_due()
        self._check_moves()
        return self.polls(node, 3)

    @rule(target=leases, node=NODES)
    def retries_come_due(self, node: str) -> MultipleResults[Lease]:
        self.now += 9.0
        self.items_become_due()
        self._check_moves()
        return self.polls(node, 3)

    @rule(target=leases, lease=consumes(leases))
    def renew(self, lease: Lease) -> Lease:
        if not self._good(lease):
            with pytest.raises(StaleLease):
                self.writer.renew(lease, self.now)
            return lease
        renewed = self.writer.renew(lease, self.now)
        self.held[lease.item_id] = renewed
        if lease.token in self.holding[lease.node]:
            self.holding[lease.node][lease.token] = renewed
        return renewed

    @rule(lease=leases, half=st.booleans())
    def report_done(self, lease: Lease, half: bool) -> None:
        self._report(lease, WorkResult(packs=self._packs(lease, half)))

    @rule(lease=leases, retryable=st.booleans())
    def report_failed(self, lease: Lease, retryable: bool) -> None:
        self._report(lease, WorkResult(error="no", retryable=retryable))

    @rule(lease=leases)
    def report_with_a_warning(self, lease: Lease) -> None:
        self._report(lease, WorkResult(packs=self._packs(lease), warning="look at it"))

    @rule(lease=leases)
    def report_waiting(self, lease: Lease) -> None:
        """A full tier: however often it is met, the study is not given up."""
        self._report(lease, WorkResult(error="waits for room", waits=True))

    @rule(lease=leases)
    def report_late(self, lease: Lease) -> None:
        """A worker that was cut off reports what it did, when its lease has run out."""
        series = self._packs(lease)
        self.now = max(self.now, lease.expires_at_s)
        self._report(lease, WorkResult(packs=series))

    def _packs(self, lease: Lease, half: bool = False) -> tuple[Any, ...]:
        if lease.kind != "PREPARE":
            return ()
        unprepared = self.reader.unprepared(lease.study_uid)
        some = unprepared[: len(unprepared) // 2] if half else unprepared
        return (prepared_series(some, lease, pack_bytes=500),) if some else ()

    def _report(self, lease: Lease, result: WorkResult) -> None:
        self.event = "report"
        self.holding[lease.node].pop(lease.token, None)
        (answer,) = self.writer.report_many([(lease, result)], self.now)
        if lease.token in self.ended:
            # Told again, perhaps differently: only the first report counts. Packs that were
            # taken over are never called stale: the worker would delete them.
            paths = self.pack_paths.get(lease.study_uid, set())
            if isinstance(answer, StaleLease):
                assert not any(lease.token in path for path in paths)
            return
        if not self._good(lease):
            assert isinstance(answer, StaleLease)
            return
        assert not isinstance(answer, StaleLease)
        del self.held[lease.item_id]
        self.ended[lease.token] = result
        for pack in result.packs:
            self.effects.update(one.sop_instance_uid for one in pack.instances)
            self.pack_paths.setdefault(lease.study_uid, set()).add(pack.pack_path)
            self.used["web1"] += pack.pack_bytes + pack.header_bytes
        assert not (result.waits and answer == FAILED)

    @rule()
    def leases_expire(self) -> None:
        self.event = "expire"
        dead = {lease.token for lease in self.writer.expire(self.now)}
        expected = {lease.token for lease in self.held.values() if lease.expires_at_s <= self.now}
        assert dead == expected
        self._forget(dead)

    def _forget(self, tokens: set[str]) -> None:
        self.held = {k: lease for k, lease in self.held.items() if lease.token not in tokens}

    @rule(node=NODES)
    def a_node_is_lost(self, node: str) -> None:
        self.event = "expire"
        dead = {lease.token for lease in self.writer.nodes_lost([node], self.now)}
        assert dead == {one.token for one in self.held.values() if one.node == node}
        self._forget(dead)
        self.lost.add(node)
        assert not [one for one in self._rows().values() if self._bound(one, node)]

    @staticmethod
    def _bound(item: dict[str, Any], node: str) -> bool:
        return item["state"] in WAITING and item["wanted_node"] == node

    @rule(node=NODES)
    def a_node_comes_back(self, node: str) -> None:
        """The link is whole again: its dispatcher still holds what it had."""
        self._joins(node, "b1")

    @rule(node=NODES, draining=st.booleans())
    def a_node_drains_or_not(self, node: str, draining: bool) -> None:
        self.writer.drain(node, "ann", self.now, draining=draining)
        (self.draining.add if draining else self.draining.discard)(node)

    @rule(kind=st.sampled_from(["", *KINDS]), halt=st.booleans())
    def the_queue_is_halted_or_resumed(self, kind: str, halt: bool) -> None:
        (self.writer.halt if halt else self.writer.resume)(kind, "ann", self.now)
        (self.halted.add if halt else self.halted.discard)(kind)

    @rule()
    def master_changes(self) -> None:
        old = self.writer
        self.writer = IndexWriter.claim_epoch(self.engine, [], self.now, chance=lambda: 0.5)
        assert self.writer.epoch == old.epoch + 1
        for late in (
            lambda: old.register([instance_record(study="1.1")], self.now),
            lambda: old.poll(Poll("n1", "b1", KINDS, (), 5), self.now),
            lambda: old.cancel_items_matching(Chosen({}), self.now),
        ):
            with pytest.raises(StaleEpoch):
                late()

    # What operators order

    @rule(filters=FILTERS)
    def items_are_cancelled(self, filters: dict[str, str]) -> None:
        self.event = "cancel"
        matching = self._matching(filters)
        answer = self.writer.cancel_items_matching(Chosen(filters, "ann"), self.now)
        able = [item for item in matching if item["state"] in (*WAITING, RUNNING, FAILED)]
        assert (answer["matched"], answer["changed"]) == (len(matching), len(able))
        rows = self._rows()
        for item in able:
            assert rows[item["item_id"]]["state"] == CANCELED
            self.held.pop(item["item_id"], None)

    @rule(
        filters=FILTERS,
        nodes=st.sampled_from([(), ("n2",), NAMES]),
        later=st.sampled_from([None, 30.0]),
    )
    def items_are_rescheduled(
        self, filters: dict[str, str], nodes: tuple[str, ...], later: float | None
    ) -> None:
        if (self.lost | self.draining).intersection(nodes):
            return
        self.event = "reschedule"
        mode = {0: "same", 1: "node"}.get(len(nodes), "spread")
        due_s = None if later is None else self.now + later
        matching = self._matching(filters)
        answer = self.writer.reschedule_items(
            Chosen(filters, "ann"), Again(due_s, nodes, mode), self.now
        )
        refused = {one["item_id"] for one in answer["refused"]}
        rows = self._rows()
        placed: Counter[str] = Counter()
        for item in matching:
            row = rows[item["item_id"]]
            if row["item_id"] in refused:
                assert row == item, "refused, and left as it was"
                continue
            assert row["state"] == SCHEDULED
            assert row["due_s"] == (self.now if due_s is None else due_s)
            placed[row["wanted_node"]] += 1
            if mode == "same":
                last = item["wanted_node"] or item["node"]
                blocked = self.lost | self.draining
                assert row["wanted_node"] == ("" if last in blocked else last)
        if mode == "spread" and placed:
            assert placed.keys() <= set(nodes)
            assert max(placed.values()) - min(placed[name] for name in nodes) <= 1

    @rule(filters=FILTERS)
    def items_are_deleted(self, filters: dict[str, str]) -> None:
        self.event = "delete"
        gone = [item["item_id"] for item in self._matching(filters) if item["state"] != RUNNING]
        answer = self.writer.delete_items(Chosen(filters, "ann"), self.now)
        assert answer["changed"] == len(gone)
        assert not self._rows().keys() & set(gone)

    @rule(filters=FILTERS, priority=st.sampled_from(list(Priority)))
    def items_get_a_priority(self, filters: dict[str, str], priority: Priority) -> None:
        self.writer.set_priority(Chosen(filters, "ann"), priority, self.now)

    def _matching(self, filters: dict[str, str]) -> list[dict[str, Any]]:
        return [
            item
            for item in self._rows().values()
            if all(item[name] == value for name, value in filters.items())
        ]

    @rule(study=STUDY)
    def study_is_deleted(self, study: str) -> None:
        self.event = "cancel"
        if study not in self.arrived:
            with pytest.raises(NotFound):
                self.writer.delete_study(study, self.now)
            return
        intents = self.writer.delete_study(study, self.now)
        self.writer.confirm_deleted([intent.intent_id for intent in intents], self.now)
        for uid, size_bytes in self.arrived.pop(study).items():
            self.used["image1"] -= size_bytes
            self.effects.pop(uid, None)
        self.used["web1"] -= 1500 * len(self.pack_paths.pop(study, ()))
        self.held = {k: lease for k, lease in self.held.items() if lease.study_uid != study}

    @rule(holder=NODES, want=st.integers(1, CAPACITY))
    def bytes_are_granted(self, holder: str, want: int) -> None:
        room = self.reader.ledger()["image1"].available_bytes
        assert self.writer.grant("image1", holder, want, self.now) == min(want, room)

    @rule(holder=NODES)
    def grants_are_released(self, holder: str) -> None:
        self.writer.release_grants(holder, self.now)

    def _good(self, lease: Lease) -> bool:
        held = self.held.get(lease.item_id)
        return held is not None and held.token == lease.token and held.expires_at_s > self.now

    def _rows(self) -> dict[int, dict[str, Any]]:
        with self.engine.connect() as conn:
            rows = conn.execute(sa.select(work_items)).mappings()
            return {row["item_id"]: dict(row) for row in rows}

    # What must hold

    @invariant()
    def items_move_as_the_table_allows(self) -> None:
        self._check_moves()

    def _check_moves(self) -> None:
        rows = self._rows()
        for item_id in self.before.keys() | rows.keys():
            old = self.before[item_id]["state"] if item_id in self.before else ""
            new = rows[item_id]["state"] if item_id in rows else ""
            if old != new:
                assert (old, new) in MAY_BECOME[self.event], f"{self.event}: {old} -> {new}"
        self.before, self.event = rows, ""

    @invariant()
    def one_owner(self) -> None:
        rows = self._rows()
        running = {k: row["token"] for k, row in rows.items() if row["state"] == RUNNING}
        assert running == {item: lease.token for item, lease in self.held.items()}
        for states in (WAITING, (RUNNING,)):
            of = [(i["kind"], i["study_uid"]) for i in rows.values() if i["state"] in states]
            assert len(of) == len(set(of)), "one waits, one runs"

    @invariant()
    def nothing_is_lost_and_effects_are_exactly_once(self) -> None:
        assert all(count == 1 for count in self.effects.values())
        with self.engine.connect() as conn:
            stored = conn.execute(sa.select(instances)).mappings().all()
            known = {row["study_uid"]: row for row in conn.execute(sa.select(studies)).mappings()}
            published = set(conn.execute(sa.select(packs.c.pack_path)).scalars())
        assert {one["sop_instance_uid"] for one in stored if one["form"]} == set(self.effects)
        assert published == {path for paths in self.pack_paths.values() for path in paths}
        assert known.keys() == self.arrived.keys()
        for uid, study in known.items():
            own = [one for one in stored if one["study_uid"] == uid]
            prepared = sum(bool(one["form"]) for one in own)
            assert {one["sop_instance_uid"] for one in own} == set(self.arrived[uid])
            counted = (study["instance_count"], study["prepared_count"], study["size_bytes"])
            assert counted == (len(own), prepared, sum(one["size_bytes"] for one in own))
            if prepared == len(own):
                assert study["state"] == "prepared"
            elif self.reader.idle(uid):
                assert study["state"] == "failed", f"nobody will prepare {uid}, nobody says so"

    @invariant()
    def ledger_equals_recount(self) -> None:
        ledger = self.reader.ledger()
        used = {name: row.used_bytes for name, row in ledger.items() if row.used_bytes}
        assert used == self.writer.recount(self.now)
        assert used == {name: size for name, size in self.used.items() if size}
        assert 0 <= ledger["image1"].granted_bytes <= CAPACITY

    @invariant()
    def items_are_counted(self) -> None:
        names = ("kind", "state", "node", "ae_title", "priority")
        with self.engine.connect() as conn:
            counted = {tuple(row)[:2]: row[2] for row in conn.execute(sa.select(item_counts))}
            facets = {row[0]: tuple(row)[1:] for row in conn.execute(sa.select(item_facets))}
        rows = self._rows().values()
        recount = Counter((item["kind"], item["state"]) for item in rows)
        assert {key: items for key, items in counted.items() if items} == recount
        by_facet = Counter(tuple(item[name] for name in names) for item in rows)
        assert {facet[:-1]: facet[-1] for facet in facets.values() if facet[-1]} == by_facet
        for item in rows:
            assert facets[item["facet_id"]][:-1] == tuple(item[name] for name in names)


def _walk(open_index: Callable[[], Any], *, examples: int) -> None:
    class Machine(QueueModel):
        pass

    Machine.open_index = staticmethod(open_index)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@contextmanager
def _opened(url: str) -> Iterator[tuple[sa.Engine, IndexReader]]:
    engine, reader = open_engine(url), IndexReader(url)
    try:
        yield engine, reader
    finally:
        reader.close()
        engine.dispose()


def test_queue_model_on_sqlite(sqlite_template: Path) -> None:
    @contextmanager
    def fresh() -> Iterator[tuple[sa.Engine, IndexReader]]:
        with tempfile.TemporaryDirectory(prefix="queue-model-") as folder:
            path = Path(folder) / "index.sqlite"
            shutil.copy(sqlite_template, path)
            with _opened(f"sqlite:///{path}") as both:
                yield both

    _walk(fresh, examples=12)


def test_queue_model_on_postgresql(postgres: PostgresServer) -> None:
    numbers = itertools.count(1)

    @contextmanager
    def fresh() -> Iterator[tuple[sa.Engine, IndexReader]]:
        database = f"queue_model_{next(numbers)}"
        with _opened(postgres.create(database, TEMPLATE)) as both:
            yield both
        postgres.drop(database)

    _walk(fresh, examples=6)
