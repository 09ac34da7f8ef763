"""Waiting for studies that are only in a library: one waiter per study, however many ask.

A reader that does not find the bytes of an instance raises InstanceAway. The places are looked up
again first, as the study may have moved to another tier. If that does not help, the master is asked
to bring the study back, and whoever asked for it waits, without a thread of his own. Who would wait
too long is told how far it is, and when to ask again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from raypacs.config import Settings
from raypacs.errors import (
    InstanceAway,
    NotFound,
    RaypacsError,
    RestoreFailed,
    RestoreUnderWay,
)
from raypacs.web.frames import Frames
from raypacs.web.places import Place, SeriesViews
from raypacs.web.services import Row, Services

_log = logging.getLogger("raypacs.web")
T = TypeVar("T")

_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 1.0
_KNOWN_FOR_S = 1.0
_MOST_KNOWN = 1000
_DONE = ("COMPLETED", "WARNING")
_ENDED = (*_DONE, "FAILED", "CANCELED")


@dataclass
class _Flight:
    """A restore that is waited for; ``until_s``: as long as somebody does."""

    until_s: float
    task: asyncio.Task[None] | None = None
    item: Row = field(default_factory=dict)


@dataclass
class Restores:
    """Brings studies back for readers. Event loop only."""

    services: Services
    views: SeriesViews
    frames: Frames
    settings: Callable[[], Settings]
    clock: Callable[[], float] = time.monotonic
    _flights: dict[str, _Flight] = field(default_factory=dict)
    _here: dict[str, float] = field(default_factory=dict)

    async def reading(self, study_uid: str, read: Callable[[], Awaitable[T]]) -> T:
        """Return what ``read`` does, once the bytes that it needs are there.

        Raises:
            InstanceAway: they are in no library either.
            RestoreUnderWay: they are on their way, but not in time.
            RestoreFailed: they, or others of the study, cannot be brought back just now.
        """
        try:
            return await read()
        except InstanceAway:
            # What moved to another tier is found there.
            self.views.forget(study_uid)
        try:
            return await read()
        except InstanceAway:
            await self.bring(study_uid)
        return await read()

    async def whole(self, study_uid: str, series_uid: str = "") -> None:
        """See that all instances of a study, or a series, are there, or in packs.

        To be asked before an answer of many of them is begun. Raises InstanceAway.
        """
        if self.services.restore is None or self._is_here(study_uid):
            return
        if not await asyncio.to_thread(self.services.is_away, study_uid):
            while len(self._here) >= _MOST_KNOWN:
                del self._here[next(iter(self._here))]
            self._here[study_uid] = self.clock() + _KNOWN_FOR_S
            return
        uids = [series_uid]
        if not series_uid:
            found = await asyncio.to_thread(self.services.instances, study_uid)
            uids = list(dict.fromkeys(one.record.series_uid for one in found))
        for uid in uids:
            view = await self.views.view(study_uid, uid)
            await asyncio.to_thread(self._check, view.places.values())

    def _is_here(self, study_uid: str) -> bool:
        return self._here.get(study_uid, 0.0) > self.clock()

    def _check(self, places: Iterable[Place]) -> None:
        for place in places:
            if place.pack is None and not self.frames.has_original(place):
                raise InstanceAway(
                    f"instance {place.stored.record.sop_instance_uid} left the image tiers",
                    study_uid=place.stored.record.study_uid,
                )

    def missed(self, study_uid: str) -> None:
        """Have a study brought back of which an answer under way leaves something out; blocks."""
        if self.services.restore is None:
            return
        try:
            self.services.restore(study_uid)
        except RaypacsError as exc:
            _log.warning("not brought back: %s", exc, extra={"study": study_uid})

    async def bring(self, study_uid: str) -> None:
        """Return once a study is back; its places are to be looked up anew. Raises as `reading`."""
        if self.services.restore is None:
            return
        settings = await asyncio.to_thread(self.settings)
        wait_s = settings.restore.wait_s
        flight = self._flights.get(study_uid)
        if flight is None:
            flight = self._flights[study_uid] = _Flight(self.clock() + wait_s)
            flight.task = asyncio.create_task(self._fly(study_uid, flight))
            flight.task.add_done_callback(lambda task: self._land(study_uid, task))
        flight.until_s = max(flight.until_s, self.clock() + wait_s)
        assert flight.task is not None
        try:
            # Shielded: a client that goes away must not end what others wait for.
            await asyncio.wait_for(asyncio.shield(flight.task), wait_s)
        except TimeoutError:
            raise _under_way(study_uid, flight.item) from None

    def _land(self, study_uid: str, task: asyncio.Task[None]) -> None:
        self._flights.pop(study_uid, None)
        self.views.forget(study_uid)
        if not task.cancelled():
            task.exception()  # who waited was told

    async def _fly(self, study_uid: str, flight: _Flight) -> None:
        """Order a restore, and look how far it is until it ended, or nobody waits."""
        assert self.services.restore is not None
        told = await asyncio.to_thread(self.services.restore, study_uid)
        flight.item = {"item_id": told["item_id"], "error": told["error"]}
        if told["state"] == "nowhere":
            raise InstanceAway(
                f"study {study_uid} left the image tiers, and no library has it",
                study_uid=study_uid,
            )
        if told["state"] == "failed":
            raise _failed(study_uid, flight.item)
        if not told["item_id"]:
            return
        look_s = _FIRST_LOOK_S
        while self.clock() < flight.until_s:
            await asyncio.sleep(look_s)
            look_s = min(2 * look_s, _LAST_LOOK_S)
            try:
                flight.item = await asyncio.to_thread(self.services.task, told["item_id"])
            except NotFound:
                return  # it ended, and left the task list
            if flight.item["state"] in _ENDED:
                break
        if flight.item.get("state") in ("FAILED", "CANCELED"):
            raise _failed(study_uid, flight.item)
        if flight.item.get("state") not in _DONE:
            raise _under_way(study_uid, flight.item)


def _under_way(study_uid: str, item: Row) -> RestoreUnderWay:
    progress = (item.get("payload") or {}).get("progress") or {}
    percent = float(progress.get("percent", 0.0))
    item_id = int(item.get("item_id", 0))
    why = f"; {item['error']}" if item.get("error") else ""
    return RestoreUnderWay(
        f"study {study_uid} is being brought back from a library: {percent:g} % of it{why}",
        study_uid=study_uid,
        item_id=item_id,
        percent=percent,
        url=f"/api/v1/restores/{item_id}",
    )


def _failed(study_uid: str, item: Row) -> RestoreFailed:
    item_id = int(item.get("item_id", 0))
    return RestoreFailed(
        f"study {study_uid} could not be brought back from a library: {item.get('error', '')}",
        study_uid=study_uid,
        item_id=item_id,
        percent=0.0,
        url=f"/api/v1/restores/{item_id}",
        retry_after_s=60,
    )
