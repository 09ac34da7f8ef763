"""The loops of master and dispatcher outlive a database that fails, and begin anew if they end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from raypacs import logs
from raypacs.cluster import dispatcher, master
from raypacs.cluster.dispatcher import Dispatcher
from raypacs.cluster.master import MasterActor
from raypacs.config import Bootstrap, Settings, TierSettings
from raypacs.errors import IndexUnavailable
from raypacs.index.ledger import LedgerRow
from raypacs.records import Lease, WorkResult

PATIENCE_S = 30.0


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    return Bootstrap(data_dir=tmp_path, cores=1).model_dump(mode="json")


@pytest.mark.parametrize("error", [IndexUnavailable("disk full"), OSError(28, "disk full")])
def test_ticking_goes_on(
    bootstrap: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(master, "TICK_S", 0.0)

    async def run() -> None:
        actor = MasterActor(bootstrap)
        ticked, ticks = asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def tick() -> None:
            ticks.append(1)
            if len(ticks) < 3:
                raise error
            loop.call_soon_threadsafe(ticked.set)

        actor._master.tick = tick
        await actor.start()
        await asyncio.wait_for(ticked.wait(), PATIENCE_S)
        await actor.close()

    asyncio.run(run())


def test_ticking_begins_anew_with_the_next_event(
    bootstrap: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master, "TICK_S", 0.0)

    async def run() -> None:
        actor = MasterActor(bootstrap)

        def unforeseen() -> None:
            raise ZeroDivisionError

        actor._master.tick = unforeseen
        await actor.start()
        await asyncio.wait([actor._ticking])
        ticked = asyncio.Event()
        loop = asyncio.get_running_loop()
        actor._master.tick = lambda: loop.call_soon_threadsafe(ticked.set)
        await actor.event("settings")
        await asyncio.wait_for(ticked.wait(), PATIENCE_S)
        await actor.close()

    asyncio.run(run())


class FakeMaster:
    """Answers a lease with what it is told, one after the other; then nothing."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.asked_in_vain = threading.Event()

    def call(self, event: str, *args: Any) -> list[Any]:
        assert event == "lease"
        if self.answers:
            raise self.answers.pop(0)
        self.asked_in_vain.set()
        return []


@pytest.fixture
def leasing(bootstrap: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Dispatcher:
    monkeypatch.setattr(dispatcher, "IDLE_S", 0.001)
    monkeypatch.setattr(Dispatcher, "_warm_up", lambda self: None)
    return Dispatcher(bootstrap)


def test_leasing_goes_on(leasing: Dispatcher) -> None:
    fake = FakeMaster(IndexUnavailable("disk full"), dispatcher.RayError("lost"), OSError(28, ""))
    leasing._master = fake
    leasing.start()
    assert fake.asked_in_vain.wait(PATIENCE_S)
    assert leasing.stop() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_leasing_begins_anew(leasing: Dispatcher) -> None:
    fake = FakeMaster(ZeroDivisionError())
    leasing._master = fake
    leasing.start()
    first = leasing._thread
    assert first is not None
    first.join(PATIENCE_S)
    assert not fake.asked_in_vain.is_set()
    leasing.start()
    assert fake.asked_in_vain.wait(PATIENCE_S)
    assert leasing._thread is not first
    assert leasing.stop() == 0


class FakeReader:
    """An index with nothing unprepared and two web tiers, the first of them nearly full."""

    def unprepared(self, study_uid: str) -> list[Any]:
        return []

    def ledger(self) -> dict[str, LedgerRow]:
        return {
            "web1": LedgerRow("web1", 90, 0, 100, True, 0.0),
            "web2": LedgerRow("web2", 0, 0, 100, True, 0.0),
            "web3": LedgerRow("web3", 0, 0, 100, False, 0.0),
        }


LEASE = Lease(1, "PREPARE", "1.2.3", 1, 1, "0" * 16, 1, "n1", 0.0)


class Settled:
    """A master with settings, that notes what is reported."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.reports = settings, []

    def call(self, event: str, *args: Any) -> Any:
        if event == "settings":
            return 1, self.settings
        self.reports.append(args)
        return None


def test_without_a_web_tier_a_study_waits(leasing: Dispatcher) -> None:
    leasing._reader, leasing._master = FakeReader(), Settled(Settings())
    leasing._run(LEASE)
    ((lease, result),) = leasing._master.reports
    assert (lease, result.waits) == (LEASE, True)
    assert result.error.startswith("waits for a tier: no web tier")


def test_a_tier_that_refused_is_passed_over(
    leasing: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    webs = tuple(
        TierSettings(name=f"web{n}", role="web", url=f"memory://{n}", order=n) for n in (1, 2)
    )
    leasing._reader, leasing._master = FakeReader(), Settled(Settings(tiers=webs))
    used: list[str] = []

    class Item:
        def __init__(self, lease: Lease, settings: Settings, context: Any, *_: Any) -> None:
            used.append(context.web.name)

        def run(self, *_: Any) -> WorkResult:
            return WorkResult(error="waits for room", waits=used == ["web1"])

    monkeypatch.setattr(dispatcher, "PrepareItem", Item)
    leasing._run(LEASE)
    leasing._run(LEASE)
    assert used == ["web1", "web2"]
    assert set(leasing._room()) == {"web2"}
