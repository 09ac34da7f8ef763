"""The master's loop outlives a database that fails, and begins anew if it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raypacs import logs
from raypacs.cluster import master
from raypacs.cluster.master import MasterActor
from raypacs.config import Bootstrap
from raypacs.errors import IndexUnavailable

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
