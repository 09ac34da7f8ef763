"""Tiers that are away or hang: everybody else goes on, and they are asked again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raypacs.config import Settings, TierSettings, default_tiers
from raypacs.errors import ConfigError, NotFound, TierUnavailable
from raypacs.master import Master
from raypacs.storage.late import ASK_EVERY_S, Guard, GuardedTier, LateTier, LateTiers
from raypacs.storage.objects import ObjectInfo
from raypacs.storage.tier import LocalTier, Tier, open_tier
from tests.factories import instance_record, node_info

T = 1_700_000_000.0
PATIENCE_S = 0.2


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
def hung() -> Iterator[threading.Event]:
    """A file server: it hangs until the event is set, as at the test's end."""
    server = threading.Event()
    yield server
    server.set()


@pytest.fixture
def start(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Master]]:
    """Start masters on one index; closed at the end."""
    started: list[Master] = []

    def _start(**options: Any) -> Master:
        url = f"sqlite:///{tmp_path / 'index' / 'index.sqlite'}"
        started.append(Master(url, tmp_path, clock=clock, tier_patience_s=PATIENCE_S, **options))
        return started[-1]

    yield _start
    for master in started:
        master.close()


def settings(tmp_path: Path, name: str = "image1") -> TierSettings:
    return TierSettings(name=name, role="image", url=(tmp_path / name).as_uri())


def reachable(master: Master) -> dict[str, bool]:
    return {tier["name"]: tier["reachable"] for tier in master.status()["tiers"]}


class TestBadTierInTheSettings:
    def test_a_mistake_is_refused_before_it_is_committed(
        self, start: Callable[..., Master], tmp_path: Path
    ) -> None:
        master = start()
        (tmp_path / "file").write_text("not a folder")
        for url in ((tmp_path / "file" / "x").as_uri(), "nonsense://x", "relative"):
            bad = TierSettings(name="image2", role="image", url=url)
            with pytest.raises(ConfigError, match="image2"):
                master.apply_settings(Settings(tiers=(*default_tiers(tmp_path), bad)), "me")
        assert master.settings()[0] == 1

    def test_one_that_is_only_away_is_taken_and_shown(
        self, start: Callable[..., Master], tmp_path: Path
    ) -> None:
        master = start()
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        away = TierSettings(name="image2", role="image", url=(tmp_path / "loop" / "x").as_uri())
        assert master.apply_settings(Settings(tiers=(*default_tiers(tmp_path), away)), "me") == 2
        assert reachable(master) == {"image1": True, "web1": True, "image2": False}
        assert reachable(start()) == {"image1": True, "web1": True, "image2": False}

    @pytest.mark.parametrize("error", [NotFound("gone"), ConfigError("bad"), TierUnavailable("x")])
    def test_a_committed_one_keeps_no_master_from_starting(
        self, start: Callable[..., Master], tmp_path: Path, error: Exception
    ) -> None:
        start()

        def opener(one: TierSettings) -> Tier:
            if one.name == "web1":
                raise error
            return open_tier(one)

        again = start(tier_opener=opener)
        assert again.epoch == 2
        assert reachable(again) == {"image1": True, "web1": False}


class TestHungTier:
    def hanging(self, server: threading.Event, names: set[str]) -> Callable[[TierSettings], Tier]:
        """Return an opener of tiers of which those of ``names`` hang."""

        class Hanging(LocalTier):
            def walk(self, prefix: str = "") -> Iterator[ObjectInfo]:
                if self.name in names:
                    server.wait()
                return super().walk(prefix)

        return Hanging

    def test_events_on_healthy_tiers_go_on(
        self,
        start: Callable[..., Master],
        clock: Clock,
        hung: threading.Event,
    ) -> None:
        names: set[str] = set()
        master = start(tier_opener=self.hanging(hung, names))
        names.add("web1")
        clock.now += 60
        master.tick()
        assert reachable(master) == {"image1": True, "web1": False}
        assert "does not answer" in master._tiers.problems["web1"]
        assert len(master.register([instance_record()])) == 1
        assert master.grant("image1", "n1", 10) == 10
        assert master.grant("web1", "n1", 10) == 0
        master.node_seen(node_info())
        threads = threading.active_count()
        clock.now += 60
        master.tick()
        assert threading.active_count() == threads  # the hung one is not asked a second time
        hung.set()
        for thread in threading.enumerate():
            if thread.name == "tier web1":
                thread.join()
        clock.now += 60
        master.tick()
        assert reachable(master) == {"image1": True, "web1": True}

    def test_a_master_comes_up_beside_it(
        self, start: Callable[..., Master], hung: threading.Event
    ) -> None:
        start()
        master = start(tier_opener=self.hanging(hung, {"image1"}))
        assert master.epoch == 2
        assert reachable(master) == {"image1": False, "web1": True}

    def test_opening_may_hang_as_well(self, tmp_path: Path, hung: threading.Event) -> None:
        def opener(one: TierSettings) -> Tier:
            hung.wait()
            return open_tier(one)

        guard = Guard(opener, patience_s=PATIENCE_S)
        for _ in range(2):
            with pytest.raises(TierUnavailable, match="does not answer"):
                guard(settings(tmp_path))

    def test_a_healthy_one_answers_and_raises_as_it_does_alone(self, tmp_path: Path) -> None:
        tier = GuardedTier(settings(tmp_path))
        assert tier.put_durable("a/b", b"xyz") == 3
        assert (tier.read("a/b"), tier.size("a/b"), tier.exists("a/c")) == (b"xyz", 3, False)
        assert [info.path for info in tier.walk("a/")] == ["a/b"]
        assert tier.local_path("a/b") == str(tmp_path / "image1/a/b")
        tier.delete("a/b")
        tier.prune("a/")
        assert not (tmp_path / "image1/a").exists()
        with pytest.raises(NotFound):
            tier.read("a/b")


class TestLateTier:
    def test_it_is_opened_as_soon_as_it_can_be(self, tmp_path: Path, clock: Clock) -> None:
        asked: list[str] = []
        away = [True]

        def opener(one: TierSettings) -> Tier:
            asked.append(one.name)
            if away[0]:
                raise TierUnavailable("stale")
            return open_tier(one)

        tier = LateTier(settings(tmp_path), opener, clock=clock)
        assert asked == []
        for _ in range(2):
            with pytest.raises(TierUnavailable, match="stale"):
                list(tier.walk())
        assert len(asked) == 1
        away[0] = False
        clock.now += ASK_EVERY_S
        assert tier.put_durable("a", b"x") == 1
        assert tier.free_bytes() > 0
        assert len(asked) == 2

    def test_tiers_by_role_and_name(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("not a folder")
        bad = TierSettings(name="i0", role="image", url=(tmp_path / "file").as_uri(), order=2)
        tiers = LateTiers([bad, settings(tmp_path)])
        assert [tier.name for tier in tiers.of_role("image")] == ["image1", "i0"]
        assert tiers("image1").name == "image1"
        with pytest.raises(TierUnavailable):
            tiers("i0")
        with pytest.raises(NotFound):
            tiers("i1")


def test_one_that_was_added_since_is_found(tmp_path: Path) -> None:
    """What lies there is registered before every process has the new settings."""
    first = default_tiers(tmp_path)
    added = TierSettings(name="image2", role="image", url=(tmp_path / "two").as_uri())
    tiers = LateTiers(first)
    with pytest.raises(NotFound):
        tiers("image2")
    tiers.follow(lambda: (*first, added))
    assert tiers("image2").settings == added
    assert tiers("image2") is tiers("image2")
    with pytest.raises(NotFound):
        tiers("image3")
