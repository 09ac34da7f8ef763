"""Random walks through a whole master: lives of nodes, lost answers, absences, halts, drains.

After every step: one owner per item, nothing lost; and an idle live node that polls gets a due
item that it may have, whatever the master answers from memory.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from raypacs.errors import InvalidQuery, StaleLease
from raypacs.index.schema import nodes, work_items
from raypacs.records import Lease, WorkResult
from tests.master_queue import MasterQueue

STUDIES = ("1.1", "1.2", "1.3", "1.4")
NAMES = ("n1", "n2", "n3")
NODES = st.sampled_from(NAMES)
WAITING, RUNNING = ("SCHEDULED", "SCHEDULED FOR RETRY"), "IN PROCESS"
ENDS = {
    "done": WorkResult(),
    "failed": WorkResult(error="no pixels", retryable=False),
    "again": WorkResult(error="a task died"),
    "waits": WorkResult(error="waits for room", waits=True),
}
ORDINARY_SLOTS = 8
UNCLAIMED_S = 10


class Life:
    """One life of a node: its dispatcher, and the leases that it believes to hold."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.boot = name, f"{name} life {number}"
        self.holds: dict[str, Lease] = {}


class MasterModel(RuleBasedStateMachine):
    """A real master on SQLite, with its clock in our hands."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="master-model-"))
        shutil.copy(self.template, self.folder / "index.sqlite")
        self.site = MasterQueue(self.folder)
        self.lives = {name: Life(name, 0) for name in NAMES}
        self.earlier: list[Life] = []
        self.silent: set[str] = set()
        self.draining: set[str] = set()
        self.halted: set[str] = set()
        self.open: set[int] = set()  # asked for, and neither ended nor cancelled

    def teardown(self) -> None:
        self.site.master.close()
        shutil.rmtree(self.folder)

    @initialize()
    def a_site(self) -> None:
        for name in NAMES:
            self._heartbeat(name)
        for uid in STUDIES:
            self.site.study(uid)

    def _heartbeat(self, name: str) -> None:
        self.site.node(name, self.lives[name].boot)

    def _rows(self) -> dict[int, dict[str, Any]]:
        with self.site.master._engine.connect() as conn:
            query = sa.select(work_items).where(work_items.c.kind == "VERIFY")
            return {row["item_id"]: dict(row) for row in conn.execute(query).mappings()}

    def _rows_of_a_master_that_looked(self) -> dict[int, dict[str, Any]]:
        """The rows as its next event begins: one that was away gives the leases that time."""
        self.site.master._mind_absence(self.site.now)
        return self._rows()

    def _nodes(self) -> dict[str, Any]:
        with self.site.master._engine.connect() as conn:
            return {row.name: row for row in conn.execute(sa.select(nodes))}

    # Time, nodes, the master

    @rule(seconds=st.sampled_from([1, 3, 12, 20]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.site.now += 1
            for name in NAMES:
                if name not in self.silent:
                    self._heartbeat(name)
            self.site.master.tick()

    @rule(seconds=st.sampled_from([0, 5, 40, 90]))
    def the_master_is_away_and_another_begins(self, seconds: int) -> None:
        self.site.master.close()
        self.site.now += seconds
        self.site.master = self.site.start()

    @rule(name=NODES)
    def a_node_falls_silent(self, name: str) -> None:
        self.silent.add(name)

    @rule(name=NODES)
    def a_node_is_heard_again(self, name: str) -> None:
        self.silent.discard(name)
        self._heartbeat(name)

    @rule(name=NODES)
    def a_node_begins_another_life(self, name: str) -> None:
        self.earlier.append(self.lives[name])
        self.lives[name] = Life(name, len(self.earlier))
        self.silent.discard(name)
        self._heartbeat(name)

    @rule(name=NODES, draining=st.booleans())
    def a_node_drains_or_not(self, name: str, draining: bool) -> None:
        order = self.site.master.drain if draining else self.site.master.undrain
        order(name, "ann")
        (self.draining.add if draining else self.draining.discard)(name)

    @rule(kind=st.sampled_from(["", "VERIFY"]), halt=st.booleans())
    def the_queue_is_halted_or_resumed(self, kind: str, halt: bool) -> None:
        (self.site.master.halt if halt else self.site.master.resume)(kind, "ann")
        (self.halted.add if halt else self.halted.discard)(kind)

    # Work

    @rule(
        uid=st.sampled_from(STUDIES),
        priority=st.sampled_from(["low", "medium", "stat"]),
        node=st.sampled_from(["", *NAMES]),
        later_s=st.sampled_from([0, 0, 15]),
    )
    def somebody_asks(self, uid: str, priority: str, node: str, later_s: int) -> None:
        wish = {"priority": priority, "wanted_node": node, "due_s": self.site.now + later_s}
        seen = self._nodes().get(node)
        if seen is not None and (seen.lost_s or seen.left_s or seen.draining):
            with pytest.raises(InvalidQuery):
                self.site.verify(uid, **wish)
            return
        self.open.add(self.site.verify(uid, **wish))

    @rule(uid=st.sampled_from(STUDIES))
    def somebody_cancels(self, uid: str) -> None:
        self.site.master.cancel_items_matching({"study_uid": uid, "kind": "VERIFY"})
        self.open -= {k for k, row in self._rows().items() if row["state"] == "CANCELED"}

    @rule(name=NODES, free=st.integers(0, 3))
    def polls(self, name: str, free: int) -> None:
        life = self.lives[name]
        given = self._poll(life, free)
        life.holds |= {lease.token: lease for lease in given}

    @rule(name=NODES)
    def polls_and_the_answer_is_lost(self, name: str) -> None:
        self._poll(self.lives[name], 1)

    def _poll(self, life: Life, free: int) -> tuple[Lease, ...]:
        before, may_have = self._rows_of_a_master_that_looked(), self._may_have(life)
        answer = self.site.poll(life.name, [*life.holds.values()], boot=life.boot, free=free)
        assert len(answer.leases) <= free
        assert answer.leases or not (free and may_have), "it is live, and work is due for it"
        for lease in answer.leases:
            assert lease.item_id in may_have, before[lease.item_id]
            assert before[lease.item_id]["state"] in WAITING, "given to two owners"
        good = {
            token
            for token, lease in life.holds.items()
            if self._good(before.get(lease.item_id), lease)
        }
        assert set(answer.stop) == life.holds.keys() - good
        assert {token for token, *_ in answer.renewed} == good
        for token in answer.stop:
            del life.holds[token]
        return answer.leases

    def _good(self, row: dict[str, Any] | None, lease: Lease) -> bool:
        return (
            row is not None
            and row["state"] == RUNNING
            and row["token"] == lease.token
            and row["expires_at_s"] > self.site.now
        )

    def _may_have(self, life: Life) -> set[int]:
        """The items that this life of a node may be given now."""
        seen, rows = self._nodes()[life.name], self._rows()
        if self.halted or seen.boot != life.boot or seen.lost_s or seen.left_s or seen.draining:
            return set()
        running = [
            row
            for row in rows.values()
            if row["state"] == RUNNING and not self._never_arrived(row, life)
        ]
        busy = {row["study_uid"] for row in running}
        if sum(row["node"] == life.name for row in running) >= ORDINARY_SLOTS:
            return set()
        return {
            item_id
            for item_id, row in rows.items()
            if row["state"] in WAITING
            and row["due_s"] <= self.site.now
            and row["wanted_node"] in ("", life.name)
            and row["study_uid"] not in busy
        }

    def _never_arrived(self, row: dict[str, Any], life: Life) -> bool:
        """Whether this life's next poll ends an attempt, as it does not name its lease."""
        return (
            row["node"] == life.name
            and row["token"] not in life.holds
            and row["expires_at_s"] > self.site.now
            and row["started_s"] <= self.site.now - UNCLAIMED_S
        )

    @rule(number=st.integers(0, 9), free=st.integers(0, 2))
    def an_earlier_life_polls(self, number: int, free: int) -> None:
        """Its process was stopped, and goes on; the node of its name has another life."""
        if not self.earlier:
            return
        life = self.earlier[number % len(self.earlier)]
        before = self._rows_of_a_master_that_looked()
        answer = self.site.poll(life.name, [*life.holds.values()], boot=life.boot, free=free)
        assert (answer.leases, answer.renewed) == ((), ())
        assert set(answer.stop) == life.holds.keys()
        after = self._rows()
        assert after == before, [row for row in after.values() if row != before[row["item_id"]]]
        life.holds.clear()

    @rule(name=NODES, end=st.sampled_from(sorted(ENDS)))
    def a_report(self, name: str, end: str) -> None:
        life = self.lives[name]
        for lease in [*life.holds.values()][:1]:
            del life.holds[lease.token]
            good = self._good(self._rows_of_a_master_that_looked().get(lease.item_id), lease)
            (state,) = self.site.master.report_many([(lease, ENDS[end])])
            assert isinstance(state, StaleLease) != good
            if good and str(state) not in WAITING:
                self.open.discard(lease.item_id)

    @rule(name=NODES)
    def one_node_does_the_rest(self, name: str) -> None:
        """Whatever happened: with nothing halted one live node ends it all, the others silent."""
        for kind in sorted(self.halted):
            self.site.master.resume(kind, "ann")
        for other in sorted(self.draining):
            self.site.master.undrain(other, "ann")
        self.halted, self.draining = set(), set()
        self.silent = {*NAMES} - {name}
        self.a_node_is_heard_again(name)
        for _ in range(40):
            if not self.open:
                break
            self.time_passes(3)
            self.polls(name, 3)
            while self.lives[name].holds:
                self.a_report(name, "done")
            self.nothing_is_lost()  # what another item goes on with is no longer open
        assert not self.open, "work is left that nobody is given"

    # What must hold

    @invariant()
    def nothing_is_lost(self) -> None:
        rows = self._rows()
        for item_id in self.open:
            row = rows[item_id]
            assert row["state"] in (*WAITING, RUNNING) or row["error"].endswith(" goes on"), row
        self.open = {k for k in self.open if rows[k]["state"] in (*WAITING, RUNNING)}
        assert {k for k, row in rows.items() if row["state"] in (*WAITING, RUNNING)} == self.open

    @invariant()
    def one_owner(self) -> None:
        rows = [row for row in self._rows().values() if row["state"] == RUNNING]
        assert len({row["study_uid"] for row in rows}) == len(rows)
        owned = [
            token
            for life in self.lives.values()
            for token, lease in life.holds.items()
            if any(self._good(row, lease) for row in rows)
        ]
        assert len(owned) == len(set(owned)) <= len(rows)


def test_master_model(sqlite_template: Path) -> None:
    class Machine(MasterModel):
        template = sqlite_template

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=30,
            # A failing walk is printed as it was found: to shrink it takes longer than CI has.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
