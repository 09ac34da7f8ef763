"""Random walks over all that happens to studies, on bad days: nothing that was answered is lost.

Two image caches, two libraries, a web cache. Any step may be cut off between any two changes of a
tier or of the index; disks fill up, go away, lose objects, flip bits. After every step the oracle
looks at every row and every byte (:mod:`tests.autopilot_oracle`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from raypacs.dicom import split_part10
from raypacs.errors import RaypacsError
from raypacs.records import Outcome
from tests.autopilot_oracle import Oracle
from tests.autopilot_site import AutopilotSite, Template, instance, sop_of
from tests.faulty_tiers import faulty_tiers

STUDIES = ("1.1", "1.2", "1.3")
SOURCES = ("ARCHIVED", "KEPT_OUT")
STUDY = st.sampled_from(STUDIES)
LIBRARIES, IMAGES = ("lib1", "lib2"), ("image1", "image2")
TIERS = (*IMAGES, "web1", *LIBRARIES)
CRASH = st.sampled_from([0, 0, 0, 0, 1, 2, 3, 5, 8, 13, 21, 34])
WALKS = int(os.environ.get("RAYPACS_WALKS", "500"))
STEPS = 14
PARTS = 4


class Autopilot(RuleBasedStateMachine):
    """The site, with its clock and its disks in our hands."""

    template: Template
    folder: Path
    walks = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).walks += 1
        self.site = AutopilotSite(self.folder / "walk", self.template)
        self.oracle = Oracle(self.site)
        self.begun = False

    def teardown(self) -> None:
        try:
            if self.begun and self.walks % 4 == 0:
                self.everything_settles()
        finally:
            self.site.close()

    @contextmanager
    def step(self, crash: int = 0) -> Iterator[None]:
        """One step, which may be cut off; then the oracle judges."""
        self.begun = True
        with self.site.may_crash(crash):
            yield
        self.oracle.check()

    # Receiving

    @rule(
        study=STUDY,
        numbers=st.sampled_from([(1,), (2,), (1, 2), (1, 2, 3), (3, 4)]),
        variant=st.sampled_from([0, 0, 0, 1]),
        crash=CRASH,
        registered=st.sampled_from([True, True, True, False]),
    )
    def receive(
        self, study: str, numbers: tuple[int, ...], variant: int, crash: int, registered: bool
    ) -> None:
        with self.step(crash):
            self._receive(study, numbers, variant)
            if registered:
                self.site.intake.flush(1)

    def _receive(self, study: str, numbers: tuple[int, ...], variant: int = 0) -> None:
        for number in numbers:
            data = instance(study, number, variant=variant)
            told = self.site.intake.store_part10(data, source=SOURCES[study == "1.3"])
            if told.outcome in (Outcome.STORED, Outcome.KNOWN):
                dataset = data[split_part10(data).dataset_offset :]
                self.oracle.acknowledged(study, sop_of(study, number), dataset)

    # Time, work, death

    @rule(seconds=st.sampled_from([1, 6, 70, 700, 4000, 90_000]), crash=CRASH)
    def time_passes(self, seconds: int, crash: int) -> None:
        with self.step(crash):
            self.site.now += seconds
            self._tick()
            self._tick()

    def _tick(self) -> None:
        self.site.beat()
        self.site.now += 1.1
        self.site.master.tick()

    @rule(crash=CRASH, most=st.sampled_from([1, 10]))
    def work(self, crash: int, most: int) -> None:
        with self.step(crash):
            self._work(most)

    def _work(self, most: int = 10) -> int:
        leases = self.site.leases(most=most)
        for lease in leases:
            self.site.attempt(lease)
        return len(leases)

    @rule(
        after=st.integers(1, 25),
        what=st.sampled_from(["grow", "tick", "delete", "restart", "flip", "lose"]),
        study=STUDY,
        pick=st.integers(0, 1000),
    )
    def work_while_something_happens(self, after: int, what: str, study: str, pick: int) -> None:
        """Between any two steps of a run the world goes on."""
        with self.step():
            for lease in self.site.leases(most=2):
                with self.site.meanwhile(after, lambda: self._meanwhile(what, study, pick)):
                    self.site.attempt(lease)

    def _meanwhile(self, what: str, study: str, pick: int) -> None:
        if what == "grow":
            self._receive(study, (4,))
            self.site.intake.flush(1)
        elif what == "tick":
            self.site.now += 65
            self._tick()
        elif what == "delete":
            self._delete(study)
        elif what == "restart":
            self.site.restart_master()
        else:
            self._damage(what, pick)
        self.oracle.check()

    @rule(what=st.sampled_from(["another master", "node", "node with work"]))
    def somebody_dies(self, what: str) -> None:
        with self.step():
            if what == "another master":
                self.site.restart_master()
                return
            if what == "node with work":
                self.site.leases()
            self.site.everything_dies()

    # Orders

    @rule(study=STUDY, crash=CRASH)
    def seal(self, study: str, crash: int) -> None:
        self._order(crash, "seal_now", study)

    @rule(study=STUDY, crash=CRASH)
    def delete(self, study: str, crash: int) -> None:
        with self.step(crash):
            self._delete(study)

    def _delete(self, study: str) -> None:
        unregistered = self.site.unregistered()
        try:
            self.oracle.going.add(study)
            self.site.master.delete_study(study, "ann")
        except RaypacsError:
            self.oracle.going.discard(study)
            return
        self.oracle.study_deleted(study, unregistered)

    def _order(self, crash: int, event: str, *args: Any, **named: Any) -> None:
        order: Callable[..., Any] | None = getattr(self.site.master, event, None)
        if order is None:
            return
        with self.step(crash):
            try:
                order(*args, **named)
            except RaypacsError:
                return

    # Bad days

    @rule(tier=st.sampled_from(TIERS), what=st.sampled_from(["away", "full", "flip_puts", "heal"]))
    def a_bad_day(self, tier: str, what: str) -> None:
        disk = self.site.disks[tier]
        if what == "heal":
            disk.heal()
        else:
            setattr(disk, what, True)

    @rule(what=st.sampled_from(["flip", "lose"]), pick=st.integers(0, 1000))
    def damage(self, what: str, pick: int) -> None:
        with self.step():
            self._damage(what, pick)

    def _damage(self, what: str, pick: int) -> None:
        """Harm any object but what only markers are for; those in libraries most often."""
        found = [
            (name, path)
            for name in (*LIBRARIES, *TIERS)
            for path in self.site.disks[name].objects
            if path.startswith("studies/")
        ]
        if not found:
            return
        name, path = found[pick % len(found)]
        disk = self.site.disks[name]
        if what == "lose":
            disk.lose(path)
        else:
            disk.flip(path, pick * 37)
        self.oracle.harmed(name, path)

    # In the end

    def everything_settles(self) -> None:
        """With nothing more going wrong all that was planned comes to its end."""
        for disk in self.site.disks.values():
            disk.heal()
        self.site.intake.flush(1)
        quiet = 0
        for turn in range(60):
            self.site.now += (2, 140, 700, 4000)[turn % 4]
            self._tick()
            busy = self._work()
            quiet = 0 if busy or self.site.rows("SELECT 1 FROM delete_intents") else quiet + 1
            if quiet > 4:
                break
        self.oracle.check()
        self.oracle.settled()


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[tuple[Template, Path]]:
    """A site to copy, and a folder in memory for the copies."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(prefix="raypacs-walks-", dir=memory if memory.is_dir() else None))
    yield Template(base, sqlite_template, {}), base
    shutil.rmtree(base)


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost(template: tuple[Template, Path], part: int) -> None:
    made, base = template
    machine = type(f"Autopilot{part}", (Autopilot,), {"template": made, "folder": base})
    with faulty_tiers():
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=WALKS,
                stateful_step_count=STEPS,
                # A failing walk is printed as it was found: to shrink it takes longer than CI has.
                phases=(Phase.explicit, Phase.reuse, Phase.generate),
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    assert machine.walks >= WALKS
