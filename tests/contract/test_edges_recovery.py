"""Intake, master and index together: what a killed edge process left, on every image tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from dicom_bytes import SYNTAX, data_set

from raypacs import edges
from raypacs.config import Bootstrap, Settings, TierSettings
from raypacs.errors import MasterUnavailable, NotFound, TierUnavailable
from raypacs.master import DELETE_GRACE_S, Master
from raypacs.records import Outcome
from raypacs.storage import late
from raypacs.storage.intake import Intake
from raypacs.storage.late import LateTiers
from raypacs.storage.tier import open_tier

T = 1_700_000_000.0


class World:
    """A master, its index, and intakes as edge processes wire them."""

    def __init__(self, tmp_path: Path) -> None:
        self.now = T
        self.away = False
        self.bootstrap = Bootstrap(data_dir=tmp_path, node_name="n1")
        self.master = Master(self.bootstrap.database_url, tmp_path, clock=lambda: self.now)
        self.settings(False)
        self.reader = edges.open_reader(self.bootstrap.database_url, LateTiers(self.given.tiers))

    def settings(self, read_only: bool) -> None:
        """Two image tiers, the first read-only or not."""
        folder = self.bootstrap.data_dir
        self.given = Settings(
            register_interval_s=0.02,
            tiers=[
                TierSettings(
                    name=name, role=role, url=(folder / name).as_uri(), read_only=closed, order=n
                )
                for n, (name, role, closed) in enumerate(
                    [("near", "image", read_only), ("far", "image", False)], 1
                )
            ]
            + [TierSettings(name="fast", role="web", url=(folder / "fast").as_uri())],
        )
        self.master.apply_settings(self.given, "test")

    def call(self, event: str, *args: Any) -> Any:
        if self.away and event != "grant":
            raise MasterUnavailable("no master")
        return getattr(self.master, event)(*args)

    def intake(self, boot: str) -> Intake:
        tiers = LateTiers(self.given.tiers)
        return edges.make_intake(self.bootstrap, self.given, boot, self.reader, self.call, tiers)

    def recover(self) -> int:
        recovery = edges.Recovery(self.bootstrap, self.call)
        return recovery.run(self.given, lambda boot: boot == "killed")

    def files(self, name: str, prefix: str = "studies/") -> list[str]:
        (tier,) = [tier for tier in self.given.tiers if tier.name == name]
        return [info.path for info in open_tier(tier).walk(prefix)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.reader.close()
    made.master.close()


@pytest.fixture
def store() -> Callable[[Intake], Outcome]:
    return lambda intake: intake.store(data_set(), transfer_syntax_uid=SYNTAX, source="S").outcome


def test_a_tier_that_became_read_only_is_recovered_but_not_written(
    world: World, store: Callable[[Intake], Outcome]
) -> None:
    world.away = True
    killed = world.intake("killed")
    assert store(killed) is Outcome.STORED
    assert not killed.close(0.01)
    world.away = False
    world.settings(read_only=True)
    assert world.recover() == 1
    known = world.reader.known("1.2.3.1")
    assert known is not None
    assert world.files("near") == [known[2]]
    assert world.files("near", "intake/") == []
    after = world.intake("after")
    assert store(after) is Outcome.KNOWN  # its bytes are seen there
    other = data_set("1.2.3.2")
    after.store(other, transfer_syntax_uid=SYNTAX, source="S")
    assert after.close()
    assert len(world.files("near")) == len(world.files("far")) == 1


def test_a_study_deleted_before_the_recovery_stays_deleted_and_may_come_again(
    world: World, store: Callable[[Intake], Outcome]
) -> None:
    killed = world.intake("killed")
    assert store(killed) is Outcome.STORED
    assert killed.flush(5)  # registered; its marker is still there
    assert world.master.delete_study("1.2.3.100") == 1
    assert world.recover() == 0
    assert world.reader.known("1.2.3.1") is None
    after = world.intake("after")
    assert store(after) is Outcome.STORED
    assert after.close()
    world.now += DELETE_GRACE_S
    assert world.master.tick().deleted_objects == 1
    known = world.reader.known("1.2.3.1")
    assert known is not None
    assert world.files("near") == [known[2]]
    killed.close()
    assert world.files("near") == [known[2]]


class TestTierThatIsAway:
    """A tier that one node cannot open: the node starts, and gets it when it is back."""

    def loop(self, world: World, name: str) -> Path:
        """Take a tier away: its folder is a link to itself (ELOOP)."""
        folder = world.bootstrap.data_dir / name
        if folder.exists():
            folder.rename(folder.with_name("away"))
        folder.symlink_to(folder)
        return folder

    def back(self, folder: Path) -> None:
        folder.unlink()
        folder.with_name("away").rename(folder)

    def test_an_intake_starts_and_stores_elsewhere(
        self, world: World, store: Callable[[Intake], Outcome]
    ) -> None:
        folder = self.loop(world, "near")
        intake = world.intake("b")
        assert store(intake) is Outcome.STORED
        assert intake.close()
        assert len(world.files("far")) == 1
        self.back(folder)
        after = world.intake("c")
        after.store(data_set("1.2.3.2"), transfer_syntax_uid=SYNTAX, source="S")
        assert after.close()
        assert len(world.files("near")) == 1

    def test_a_gateway_starts_and_asks_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(late, "ASK_EVERY_S", 0.0)
        folder = self.loop(world, "near")
        tiers = LateTiers(world.given.tiers)
        edge = SimpleNamespace(
            reader=world.reader,
            call=world.call,
            tiers=tiers,
            intake=None,
            hint=None,
            link=None,
            spec=SimpleNamespace(bootstrap=world.bootstrap, settings=world.given, port=0),
        )
        found = edges.services(cast(Any, edge))
        with pytest.raises(TierUnavailable):
            found.tier("near")
        assert found.tier("far").name == "far"
        with pytest.raises(NotFound):
            found.tier("nowhere")
        self.back(folder)
        assert found.tier("near").exists("x") is False

    def test_what_lies_there_is_recovered_when_it_is_back(
        self, world: World, store: Callable[[Intake], Outcome]
    ) -> None:
        world.away = True
        killed = world.intake("killed")
        assert store(killed) is Outcome.STORED
        assert not killed.close(0.01)
        world.away = False
        folder = self.loop(world, "near")
        now = [0.0]
        recovery = edges.Recovery(world.bootstrap, world.call, lambda: now[0])
        assert recovery.run(world.given, lambda boot: boot == "killed") == 0
        assert recovery.again(lambda: world.given) == 0
        self.back(folder)
        assert recovery.again(lambda: world.given) == 0  # not at once
        now[0] += recovery.AGAIN_S
        assert recovery.again(lambda: world.given) == 1
        assert world.reader.known("1.2.3.1") is not None
        assert world.files("near", "intake/") == []
        now[0] += recovery.AGAIN_S
        assert recovery.again(lambda: world.given) == 0
