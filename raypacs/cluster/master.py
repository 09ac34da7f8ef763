"""The master as one detached, named Ray actor, and the one place where calls to it are retried.

The actor is a shell: every decision is in :class:`raypacs.master.Master`. Ray restarts the process
after a kill (RAY.md 1 and 3); the constructor claims the next epoch, so nothing but the index is
its memory. Calls are idempotent, have a timeout and a bounded retry: callers see a delay.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from raypacs import logs
from raypacs.config import Bootstrap
from raypacs.errors import MasterUnavailable, RaypacsError, StaleEpoch
from raypacs.master import Master

NAME, NAMESPACE = "raypacs-master", "raypacs"
TICK_S = 0.5
CALL_TIMEOUT_S = 30.0
RETRY_FOR_S = 45.0
_log = logging.getLogger("raypacs.cluster.master")

#: Events of :class:`raypacs.master.Master` that a node may raise. Anything else is refused.
EVENTS = frozenset(
    {
        "register",
        "aside",
        "hint",
        "lease",
        "renew",
        "report",
        "report_many",
        "poll",
        "enqueue_item",
        "grant",
        "release_grants",
        "node_seen",
        "delete_study",
        "settings",
        "apply_settings",
        "status",
        "touched",
    }
)


class MasterActor:
    """One thread runs every event, so the index has one writer and events have one order."""

    def __init__(self, bootstrap: dict[str, Any]) -> None:
        self._bootstrap = Bootstrap.model_validate(bootstrap)
        logs.setup("master", self._bootstrap)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="master")
        self._master = Master(self._bootstrap.database_url, self._bootstrap.data_dir)
        self._ticking: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begin ticking, again if it ended (idempotent); return this process's pid."""
        if self._ticking is not None and self._ticking.done() and not self._ticking.cancelled():
            _log.error("ticking ended", exc_info=self._ticking.exception())
            self._ticking = None
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick_for_ever())
        return os.getpid()

    async def event(self, name: str, *args: Any, **named: Any) -> Any:
        """Run one event; errors travel to the caller, a stale epoch ends this process."""
        await self.start()
        if name not in EVENTS:
            raise RaypacsError(f"the master has no event {name!r}")
        answer = await self._run(partial(getattr(self._master, name), *args, **named))
        if name == "status":
            answer["master"] = {**answer.get("master", {}), "pid": os.getpid()}
        return answer

    async def close(self) -> None:
        """Stop ticking and close the index, so that nothing is half-written at shutdown."""
        if self._ticking is not None:
            self._ticking.cancel()
        await self._run(self._master.close)

    async def _run(self, function: Any, *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, *args)
        except StaleEpoch as exc:
            _log.error("superseded", extra={"fields": exc.fields})
            ray.actor.exit_actor()

    async def _tick_for_ever(self) -> None:
        while True:
            try:
                await self._run(self._master.tick)
            except (RaypacsError, OSError) as exc:
                _log.error("tick failed: %s", type(exc).__name__, extra={"why": str(exc)})
            await asyncio.sleep(TICK_S)


def ensure_master(bootstrap: Bootstrap) -> None:
    """Create the master unless it is there, and wait until it answers. Call from a driver only."""
    actor: Any = (
        ray.remote(MasterActor)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=100,
        )
        .remote(bootstrap.model_dump(mode="json"))
    )
    ray.get(actor.start.remote(), timeout=60)


class MasterHandle:
    """Calls the master by name, with a timeout and a bounded retry (the only retry there is)."""

    def __init__(self, *, retry_for_s: float = RETRY_FOR_S) -> None:
        self._retry_for_s = retry_for_s
        self._actor: Any = None

    def call(self, event: str, *args: Any, **named: Any) -> Any:
        """Run an event on the master with these arguments.

        Raises:
            MasterUnavailable: no answer within the bounded retry.
            RaypacsError: what the event raised.
        """
        deadline = time.monotonic() + self._retry_for_s
        pause = 0.05
        while True:
            try:
                return self._once(event, args, named)
            except RayTaskError as exc:
                raise _cause(exc) from None
            except (RayActorError, GetTimeoutError, ValueError) as exc:
                self._actor = None
                if time.monotonic() + pause > deadline:
                    raise MasterUnavailable(
                        f"the master did not answer {event!r} for {self._retry_for_s:g} s"
                    ) from exc
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _once(self, event: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._actor is None:
            self._actor = ray.get_actor(NAME, namespace=NAMESPACE)
        return ray.get(self._actor.event.remote(event, *args, **named), timeout=CALL_TIMEOUT_S)

    def close(self) -> None:
        """Ask the master to close the index; used when the whole node goes down."""
        actor = ray.get_actor(NAME, namespace=NAMESPACE)
        ray.get(actor.close.remote(), timeout=CALL_TIMEOUT_S)


def _cause(exc: RayTaskError) -> BaseException:
    cause = exc.cause
    return cause if isinstance(cause, RaypacsError) else exc
