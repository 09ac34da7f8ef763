"""Random walks over all that happens to studies, on bad days: nothing that was answered is lost.

Two image caches, two libraries, a web cache. Any step may be cut off between any two changes of a
tier or of the index; disks fill up, go away, lose objects, flip bits. After every step the oracle
looks at every row and every byte (:mod:`tests.autopilot_oracle`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from raypacs.config import Settings
from raypacs.dicom import split_part10
from raypacs.errors import RaypacsError
from raypacs.records import Outcome
from tests.autopilot_oracle import MAY_GO, Oracle
from tests.autopilot_site import TIERS, AutopilotSite, Template, instance, new_site, sop_of
from tests.faulty_tiers import faulty_tiers

STUDIES = ("1.1", "1.2", "1.3")
SENDERS = (("ARCHIVED", "192.0.2.1"), (MAY_GO, "192.0.2.7"))
SETTINGS: dict[str, Any] = {
    "allotment_bytes": 1 << 20,
    # Levels are what the walk says.
    "thresholds": {"amber_h": 0, "red_h": 0, "web_h": 0},
    "archive": {"window_start": "03:00", "window_end": "04:00"},
    "sources": [{"name": "kept out", "addresses": ["192.0.2.7"], "archiving": False}],
}
STAGES = ("empty", "prepared", "sealed", "archived", "evicted", "restored")
STEP_WEIGHTS = {
    "order": 32,
    "work": 16,
    "time_passes": 14,
    "receive": 10,
    "a_cache_fills_up": 6,
    "work_while_something_happens": 8,
    "damage": 4,
    "a_bad_day": 4,
    "settings_change": 3,
    "somebody_dies": 2,
    "delete": 1,
}
NUMBERS = ((1,), (2,), (1, 2), (1, 2, 3), (3, 4))
TIMES = (1, 6, 70, 70, 700, 4000, 90_000)
MEANWHILE = ("grow", "tick", "tick", "delete", "restart", "flip", "lose", "evict", "verify")
BAD_DAYS = ("away", "full", "flip_puts", "heal", "heal")
STATUSES = ("new", "dictated", "reported", "approved")
ORDERS = (
    *("archive", "evict", "restore", "migrate", "verify", "purge", "seal", "archive", "evict"),
    *("prefetch", "pin", "unpin", "touch", "prepare", "status", "web"),
)
CHANGES: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "drain image1": lambda now: {"tiers": _with(now, "image1", draining=True)},
    "drain image2": lambda now: {"tiers": _with(now, "image2", draining=True)},
    "no drain": lambda now: {"tiers": TIERS},
    "read only": lambda now: {"tiers": _with(now, "lib1", read_only=True)},
    "one library": lambda now: {"archive": {**SETTINGS["archive"], "libraries": ["lib2"]}},
    "both libraries": lambda now: {"archive": SETTINGS["archive"]},
    "archive window": lambda now: {"archive": {"window_start": "00:00", "window_end": "00:00"}},
    "all archived": lambda now: {"sources": []},
    "one kept out": lambda now: {"sources": SETTINGS["sources"]},
    "aging": lambda now: {"migration": {"after_days": 0.01}},
    "shares": lambda now: {"series_shares": [{"name": "ct", "modalities": ["CT"], "percent": 1}]},
}
LIBRARIES, IMAGES = ("lib1", "lib2"), ("image1", "image2")
CACHES = (*IMAGES, "web1")
NAMES = (*IMAGES, "web1", *LIBRARIES)
SETTLES = (False, False, False, False, True)
CRASHES = (0, 0, 0, 0, 0, 1, 2, 3, 5, 8, 13, 21, 34)
WALKS = int(os.environ.get("RAYPACS_WALKS", "250"))
STEPS = 9
PARTS = 8
EVENTS = {
    *("received", "sealed", "reopened", "deleted", "conflict", "prepared", "purged"),
    *("archived", "evicted", "taken back", "migrated", "evicted from web cache"),
}
"""What must have happened in the walks of a part."""


def _with(now: Settings, name: str, **changes: Any) -> tuple[Any, ...]:
    return tuple(one.model_copy(update=changes) if one.name == name else one for one in now.tiers)


class Autopilot(RuleBasedStateMachine):
    """The site, with its clock and its disks in our hands."""

    stages: dict[str, Template]
    folder: Path
    walks = 0
    happened: Counter[str]
    site: AutopilotSite
    oracle: Oracle

    @initialize(
        stage=st.sampled_from(STAGES), settles=st.sampled_from([False, False, False, False, True])
    )
    def a_site(self, stage: str, settles: bool) -> None:
        """Begin where much has happened already: deep water is reached by short walks."""
        type(self).walks += 1
        self.settles = settles
        self.began_s = self.stages[stage].now
        template = self.stages[stage]
        self.site = AutopilotSite(self.folder / "walk", template)
        self.oracle = Oracle(self.site)
        vars(self.oracle).update(template.told())

    def teardown(self) -> None:
        try:
            if self.settles:
                self.everything_settles()
        finally:
            self.happened.update(
                row["event"]
                for row in self.site.rows(
                    "SELECT DISTINCT event FROM audit WHERE at_s > ?", self.began_s
                )
            )
            self.site.close()

    @contextmanager
    def step(self, crash: int = 0) -> Iterator[None]:
        """One step, which may be cut off; then the oracle judges."""
        with self.site.may_crash(crash):
            yield
        self.oracle.check()

    @rule(pick=st.integers(0, (1 << 20) - 1))
    def something_happens(self, pick: int) -> None:
        """One rule for all: Hypothesis leaves rules out of a walk, and so most walks go nowhere."""
        chance = Random(pick)
        (name,) = chance.choices(list(STEP_WEIGHTS), [*STEP_WEIGHTS.values()])
        study, crash = chance.choice(STUDIES), chance.choice(CRASHES)
        named: dict[str, Any] = {
            "receive": {"study": study, "crash": crash}
            | {"numbers": chance.choice(NUMBERS), "variant": chance.choice([0, 0, 0, 1])}
            | {"registered": chance.random() < 0.8},
            "time_passes": {"seconds": chance.choice(TIMES), "crash": crash},
            "work": {"crash": crash, "most": chance.choice([1, 10])},
            "work_while_something_happens": {"after": chance.randint(1, 25), "study": study}
            | {"what": chance.choice(MEANWHILE), "pick": chance.randrange(1000)},
            "somebody_dies": {"what": chance.choice(["another master", "node with work"])},
            "order": {"study": study, "kind": self._order_for(study, chance), "crash": crash}
            | {"pick": chance.randrange(4), "at_once": chance.random() < 0.6},
            "a_cache_fills_up": {"tier": chance.choice(CACHES), "crash": crash}
            | {"level": chance.choice(["amber", "red", "green"])},
            "settings_change": {"what": chance.choice(sorted(CHANGES)), "crash": crash},
            "delete": {"study": study, "crash": crash},
            "a_bad_day": {"tier": chance.choice(NAMES), "what": chance.choice(BAD_DAYS)},
            "damage_is_looked_for": {"what": chance.choice(["flip", "lose"]), "crash": crash}
            | {"pick": chance.randrange(1000)},
            "damage": {"what": chance.choice(["flip", "lose"]), "pick": chance.randrange(1000)},
        }[name]
        told = ", ".join(f"{key}={value!r}" for key, value in named.items())
        note(f"    {name}({told})")
        getattr(self, name)(**named)

    def _order_for(self, study: str, chance: Random) -> str:
        """Choose an order; mostly one that such a study is ready for."""
        if chance.random() < 0.4:
            return chance.choice(ORDERS)
        row = self.oracle.studies.get(study)
        if row is None:
            return "archive"
        if row["offline_s"]:
            return chance.choice(["restore", "restore", "verify", "purge", "pin", "touch"])
        proven = any(
            one["study_uid"] == study and one["archive_proven"] for one in self.oracle.copied
        )
        if not proven:
            return chance.choice(["archive", "archive", "archive", "migrate", "seal"])
        return chance.choice(["evict", "evict", "evict", "migrate", "verify", "purge", "web"])

    # Receiving

    def receive(
        self, study: str, numbers: tuple[int, ...], variant: int, crash: int, registered: bool
    ) -> None:
        with self.step(crash):
            self._receive(study, numbers, variant)
            if registered:
                self.site.intake.flush(1)

    def _receive(self, study: str, numbers: tuple[int, ...], variant: int = 0) -> None:
        for number in numbers:
            receive(self.site, self.oracle, study, number, variant)

    # Time, work, death

    def time_passes(self, seconds: int, crash: int) -> None:
        with self.step(crash):
            self.site.now += seconds
            self.site.tick()
            self.site.tick()

    def work(self, crash: int, most: int) -> None:
        with self.step(crash):
            self._work(most)

    def _work(self, most: int = 10) -> int:
        leases = self.site.leases(most=most)
        for lease in leases:
            self.site.attempt(lease)
        return len(leases)

    def order(self, study: str, kind: str, pick: int, crash: int, at_once: bool) -> None:
        """What operators and viewers ask for; most of it is done by the next work."""
        master = self.site.master
        library, image = LIBRARIES[pick % 2], IMAGES[pick % 2]
        orders: dict[str, Callable[[], Any]] = {
            "archive": lambda: master.order_archive([study], "ann"),
            "evict": lambda: master.evict_study(study, "ann"),
            "restore": lambda: master.order_restore(study, seen_away=pick == 0),
            "prefetch": lambda: master.order_prefetch(study),
            "migrate": lambda: master.order_migrate(study, image, "ann"),
            "verify": lambda: master.enqueue_item("VERIFY", study),
            "purge": lambda: master.purge_copy(study, library, "ann"),
            "seal": lambda: master.seal_now(study),
            "pin": lambda: master.pin(study, self.site.now + 300, "ann"),
            "unpin": lambda: master.unpin(study, "ann"),
            "touch": lambda: master.touched([study]),
            "prepare": lambda: master.hint([study]),
            "status": lambda: master.set_study(study, {"status": STATUSES[pick]}, "ann"),
            "web": lambda: master.evict_study(study, "ann", tier="web1"),
        }
        with self.step(crash):
            try:
                orders[kind]()
            except RaypacsError:
                return
            if at_once:
                self._work()

    def a_cache_fills_up(self, tier: str, level: str, crash: int) -> None:
        """Its level is judged; the master frees what that demands."""
        with self.step(crash):
            self.site.level(tier, level)
            self.site.tick()

    def settings_change(self, what: str, crash: int) -> None:
        with self.step(crash):
            self.site.apply(**CHANGES[what](self.site.settings))
            self.site.tick()

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
            self.site.tick()
        elif what == "delete":
            self._delete(study)
        elif what == "restart":
            self.site.restart_master()
        elif what in ("evict", "verify"):
            try:
                if what == "evict":
                    self.site.master.evict_study(study, "ann")
                else:
                    self.site.master.enqueue_item("VERIFY", study)
                    for lease in self.site.leases("VERIFY"):
                        self.site.attempt(lease)
            except RaypacsError:
                return
        else:
            self._damage(what, pick)
        self.oracle.check()

    def somebody_dies(self, what: str) -> None:
        with self.step():
            if what == "another master":
                self.site.restart_master()
                return
            if what == "node with work":
                self.site.leases()
            self.site.everything_dies()

    # Deleting

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

    # Bad days

    def a_bad_day(self, tier: str, what: str) -> None:
        disk = self.site.disks[tier]
        if what == "heal":
            disk.heal()
        else:
            setattr(disk, what, True)

    def damage(self, what: str, pick: int) -> None:
        with self.step():
            self._damage(what, pick)

    def damage_is_looked_for(self, what: str, pick: int, crash: int) -> None:
        """A container is harmed, and VERIFY comes by."""
        study = self._damage(what, pick, LIBRARIES)
        if not study:
            return
        with self.step(crash):
            try:
                self.site.master.enqueue_item("VERIFY", study)
            except RaypacsError:
                return
            self._work()

    def _damage(self, what: str, pick: int, tiers: tuple[str, ...] = (*LIBRARIES, *NAMES)) -> str:
        """Harm any object of a study, those in libraries most often; return the study."""
        found = [
            (name, path)
            for name in tiers
            for path in self.site.disks[name].objects
            if path.startswith("studies/")
        ]
        if not found:
            return ""
        name, path = found[pick % len(found)]
        disk = self.site.disks[name]
        if what == "lose":
            disk.lose(path)
        else:
            disk.flip(path, pick * 37)
        self.oracle.harmed(name, path)
        return path.split("/")[1]

    # In the end

    def everything_settles(self) -> None:
        """With nothing more going wrong all that was planned comes to its end."""
        for disk in self.site.disks.values():
            disk.heal()
        self.site.intake.flush(1)
        self.site.recover()
        quiet = 0
        for turn in range(60):
            self.site.now += (2, 140, 700, 4000)[turn % 4]
            if turn == 3:  # the master has seen by now that every tier is there again
                self.site.recover()
            self.site.tick()
            busy = self._work()
            quiet = 0 if busy or self.site.rows("SELECT 1 FROM delete_intents") else quiet + 1
            if quiet > 4:
                break
        self.oracle.check()
        self.oracle.settled()


def receive(site: AutopilotSite, oracle: Oracle, study: str, number: int, variant: int = 0) -> None:
    """An instance arrives; what is acknowledged is kept in mind."""
    data = instance(study, number, variant=variant)
    source, peer = SENDERS[study == "1.3"]
    told = site.intake.store_part10(data, source=source, peer=peer)
    if told.outcome in (Outcome.STORED, Outcome.KNOWN):
        dataset = data[split_part10(data).dataset_offset :]
        oracle.acknowledged(study, sop_of(study, number), dataset, source)


def make_stages(base: Path, migrated: Path) -> dict[str, Template]:
    """Bring a site as far as it goes on good days, and keep it as it was on the way."""
    site = new_site(base / "walk", migrated, **SETTINGS)
    oracle = Oracle(site)
    made: dict[str, Template] = {}

    def stage(name: str, *studies: str) -> None:
        for _ in range(6):
            site.now += 70
            site.tick()
            for lease in site.leases():
                told = site.attempt(lease)
                assert told is not None, lease
                assert not told.error, (lease, told)
        oracle.check()
        made[name] = Template(base / f"{name}.sqlite", site, oracle.remembered)
        made[name].told = partial(deepcopy, oracle.remembered())

    stage("empty")
    for study, number in (("1.1", 1), ("1.1", 2), ("1.2", 1), ("1.3", 1), ("1.3", 2)):
        receive(site, oracle, study, number)
    site.intake.flush(1)
    stage("prepared")
    for study in STUDIES:
        assert site.master.seal_now(study)
    stage("sealed")
    for study in ("1.1", "1.2"):
        site.master.order_archive([study], "ann")
    stage("archived")
    site.master.order_migrate("1.2", "image2", "ann")
    site.master.evict_study("1.1", "ann")
    stage("evicted")
    site.master.evict_study("1.2", "ann")
    site.master.order_restore("1.1")
    stage("restored")
    site.close()
    assert set(made) == set(STAGES)
    return made


@pytest.fixture(scope="module")
def stages(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path
) -> Iterator[tuple[dict[str, Template], Path]]:
    """Sites to copy, and a folder in memory for the copies."""
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(prefix="raypacs-walks-", dir=memory if memory.is_dir() else None))
    with faulty_tiers():
        yield make_stages(base, sqlite_template), base
    shutil.rmtree(base)


@pytest.mark.timeout(900)  # 250 walks take about a minute of a core, others run beside
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost(stages: tuple[dict[str, Template], Path], part: int) -> None:
    made, base = stages
    happened: Counter[str] = Counter()
    known = {"stages": made, "folder": base, "happened": happened}
    machine = type(f"Autopilot{part}", (Autopilot,), known)
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
    # Walks that reach nothing prove nothing.
    assert WALKS < 200 or set(happened) >= EVENTS, sorted(EVENTS - set(happened))
