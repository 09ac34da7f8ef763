"""The master as one detached, named Ray actor, and the one place where calls to it are retried.

The actor is a shell: every decision is in :class:`raypacs.master.Master`. Ray restarts the process
after a kill (RAY.md 1 and 3), on this node or another of role master; the constructor claims the
next epoch, so nothing but the index is its memory. Calls are idempotent, have a timeout and a
bounded retry: callers see a delay. Who creates and replaces the actor is in ``mastership``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError, RayTaskError

from raypacs import logs
from raypacs.cluster.environment import BOOTSTRAP_PATH_VARIABLE
from raypacs.config import Bootstrap
from raypacs.errors import MasterUnavailable, RaypacsError, StaleEpoch
from raypacs.master import Master
from raypacs.master.batches import InThreads

NAME, NAMESPACE = "raypacs-master", "raypacs"
#: Pings have a loop of their own: a hundred events that wait must not look like a frozen master.
PING_GROUP = "ping"
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
        "report",
        "report_many",
        "poll",
        "enqueue_item",
        "resume",
        "halt",
        "set_priority",
        "delete_items",
        "cancel_items_matching",
        "reschedule_items",
        "order_adoption",
        "register_adopted",
        "relocate_adopted",
        "checksums",
        "let_prepare",
        "item_progress",
        "pin",
        "unpin",
        "evict_study",
        "order_eviction",
        "purge_copy",
        "plan_objects",
        "seal_study",
        "archived",
        "order_archive",
        "order_verify",
        "order_restore",
        "order_prefetch",
        "announce",
        "move_asides",
        "order_migrate",
        "repair_ledger",
        "reserve",
        "grant",
        "release_grants",
        "node_seen",
        "node_left",
        "drain",
        "undrain",
        "move_master",
        "delete_study",
        "set_study",
        "order_erasure",
        "other_sender",
        "settings",
        "apply_settings",
        "status",
        "touched",
    }
)


class Busy:
    """Since when the one thread of events runs what it runs; read by another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that only grow."""
        self._clock = clock
        self._began_s: float | None = None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run an event."""
        self._began_s = self._clock()
        try:
            return function(*args)
        finally:
            self._began_s = None

    def for_s(self) -> float:
        """Return how long the running event takes already, in seconds; 0 when none runs."""
        began_s = self._began_s
        return 0.0 if began_s is None else self._clock() - began_s


class MasterActor:
    """One thread runs every event, so the index has one writer and events have one order."""

    def __init__(self, bootstrap: dict[str, Any]) -> None:
        self._bootstrap = local_bootstrap(bootstrap)
        logs.setup("master", self._bootstrap)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="master")
        self._busy = Busy()
        self._failed: RaypacsError | None = None
        try:
            self._master = Master(
                self._bootstrap.database_url, self._bootstrap.data_dir, node=self._bootstrap.name,
                bootstrap_hash=self._bootstrap.hash(),
            )  # fmt: skip
            self._master.delete_with(InThreads())
        except StaleEpoch as exc:
            _superseded(exc)
        except RaypacsError as exc:
            # Raised here, it would reach nobody: Ray wraps it up in the actor's death.
            _log.error("the master cannot start", extra={"why": str(exc)})
            self._failed = exc
        self._since_s = time.time()
        self._ticking: asyncio.Task[None] | None = None

    @ray.method(concurrency_group=PING_GROUP)
    async def ping(self) -> dict[str, Any]:
        """Answer at once, however many events wait: this process is neither frozen nor gone.

        Returns:
            ``pid``; ``busy_s``: since when (s) the event or tick that runs just now does;
            ``failed``: why there is no master in this process ('': there is).
        """
        failed = str(self._failed or "")
        return {"pid": os.getpid(), "busy_s": self._busy.for_s(), "failed": failed}

    async def where(self) -> dict[str, Any]:
        """Return where and what this master is (``status()["master"]``). Raises as start."""
        self._check()
        return {
            "node": self._bootstrap.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "epoch": self._master.epoch,
            "since_s": self._since_s,
            "restarts": self._master.restarts,
            "state": "running",
            "ray_node_id": ray.get_runtime_context().get_node_id(),
        }

    async def start(self) -> int:
        """Begin ticking, again if it ended (idempotent); return this process's pid.

        Raises:
            RaypacsError: why the master cannot start.
        """
        self._check()
        if self._ticking is not None and self._ticking.done() and not self._ticking.cancelled():
            _log.error("ticking ended", exc_info=self._ticking.exception())
            self._ticking = None
        if self._ticking is None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick_for_ever())
        return os.getpid()

    async def event(self, name: str, *args: Any, **named: Any) -> Any:
        """Run one event; errors travel to the caller, a stale epoch ends this process."""
        if self._failed is not None:  # the next one may start: callers ask again
            raise MasterUnavailable(f"the master cannot start: {self._failed}")
        await self.start()
        if name not in EVENTS:
            raise RaypacsError(f"the master has no event {name!r}")
        answer = await self._run(partial(getattr(self._master, name), *args, **named))
        if name == "status":
            answer["master"] = {**answer.get("master", {}), **await self.where()}
        return answer

    async def close(self) -> None:
        """Stop ticking and close the index, so that nothing is half-written at shutdown."""
        if self._ticking is not None:
            self._ticking.cancel()
        if self._failed is None:
            await self._run(self._master.close)

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    async def _run(self, function: Any, *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._busy.run, function, *args)
        except StaleEpoch as exc:
            _superseded(exc)

    async def _tick_for_ever(self) -> None:
        while True:
            try:
                await self._run(self._master.tick)
            except (RaypacsError, OSError) as exc:
                _log.error("tick failed: %s", type(exc).__name__, extra={"why": str(exc)})
            await asyncio.sleep(TICK_S)


def _superseded(exc: StaleEpoch) -> NoReturn:
    """End this process at once: another master took over, and whatever it still does is refused.

    Not by ``exit_actor``, which ends nothing when it is raised in the thread that ticks.
    """
    _log.error("superseded", extra={"fields": exc.fields})
    logging.shutdown()
    os._exit(1)


def local_bootstrap(given: dict[str, Any]) -> Bootstrap:
    """Return the bootstrap of the node that this process runs on, else the ``given`` one.

    Ray may start an actor again on another node than its creator's: there other folders hold.
    """
    path = Path(os.environ.get(BOOTSTRAP_PATH_VARIABLE, ""))
    if path.is_file():
        return Bootstrap.model_validate_json(path.read_text(encoding="utf-8"))
    return Bootstrap.model_validate(given)


def master_resource(bootstrap: Bootstrap) -> str:
    """Return Ray's resource that nodes of role master have, if their configuration is the same.

    So a master never comes up on a node with another index.
    """
    return f"raypacs_master_{bootstrap.hash()}"


class MasterHandle:
    """Calls the master by name, with a timeout and a bounded retry (the only retry there is)."""

    def __init__(
        self, *, retry_for_s: float = RETRY_FOR_S, call_timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._retry_for_s, self._call_timeout_s = retry_for_s, call_timeout_s
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
                return self._once(event, args, named, deadline)
            except RayTaskError as exc:
                cause = _cause(exc)
                # Not its subclass: an index that does not answer is told as it is.
                if type(cause) is not MasterUnavailable or time.monotonic() + pause > deadline:
                    raise cause from None
            except (RayError, ValueError, ConnectionError) as exc:
                # Being restarted or replaced, or Ray's head is: ValueError means no such actor.
                self._actor = None
                if time.monotonic() + pause > deadline:
                    raise MasterUnavailable(
                        f"the master did not answer {event!r} for {self._retry_for_s:g} s"
                    ) from exc
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _once(
        self, event: str, args: tuple[Any, ...], named: dict[str, Any], deadline: float
    ) -> Any:
        if self._actor is None:
            self._actor = ray.get_actor(NAME, namespace=NAMESPACE)
        left_s = max(0.1, deadline - time.monotonic())
        return ray.get(
            self._actor.event.remote(event, *args, **named),
            timeout=min(self._call_timeout_s, left_s),
        )


def _cause(exc: RayTaskError) -> BaseException:
    cause = exc.cause
    return cause if isinstance(cause, RaypacsError) else exc
