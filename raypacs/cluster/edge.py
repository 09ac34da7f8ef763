"""Listener and gateway of a node: an actor that supervises the processes sharing one port."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from raypacs import logs
from raypacs.cluster.master import MasterHandle
from raypacs.cluster.processes import EdgePool, reserve_port
from raypacs.config import Bootstrap, Settings
from raypacs.edges import EdgeSpec, Recovery

_log = logging.getLogger("raypacs.cluster.edge")
Role = Literal["listener", "gateway"]
MOST_PROCESSES = {"listener": 4, "gateway": 8}
EDGE_EVENTS = (
    "register",
    "aside",
    "hint",
    "grant",
    "release_grants",
    "delete_study",
    "set_study",
    "order_erasure",
    "other_sender",
    "touched",
    "settings",
    "apply_settings",
    "status",
    "checksums",
    # Orders of operators, from the REST API of any node.
    "enqueue_item",
    "order_adoption",
    "pin",
    "unpin",
    "evict_study",
    "order_eviction",
    "purge_copy",
    "order_migrate",
    "repair_ledger",
    "order_archive",
    "order_verify",
    "order_restore",
    "order_prefetch",
    "announce",
    "reschedule_items",
    "cancel_items_matching",
    "delete_items",
    "set_priority",
    "halt",
    "resume",
    "drain",
    "undrain",
    "move_master",
)


class EdgeActor:
    """Supervises the edge processes of one role on this node."""

    def __init__(self, role: Role, bootstrap: dict[str, Any], node_boot: str) -> None:
        self._role = role
        self._bootstrap = Bootstrap.model_validate(bootstrap)
        self._node_boot = node_boot
        logs.setup(role, self._bootstrap)
        self._master = MasterHandle()
        self._recovery = Recovery(self._bootstrap, self._master.call)
        self._version, self._settings = self._settings_now()
        self._pool: EdgePool | None = None
        self._holder: socket.socket | None = None
        self._port = 0

    def start(self, port: int) -> int:
        """Start the processes and return the port they share (0 picks a free one). Idempotent.

        When Ray has restarted this actor, what its earlier processes left is registered first.

        Raises:
            OSError: the port is in use.
        """
        if self._pool is not None:
            self._refresh(self._pool)
            return self._port
        mine = f"{self._node_boot}-{self._role}-"
        self._recover(lambda boot: boot.startswith(mine))
        self._holder, self._port = reserve_port(self._bootstrap.host, port)
        pool = EdgePool(
            self._spec,
            self._count(),
            {event: partial(self._master.call, event) for event in EDGE_EVENTS},
            boot_prefix=mine.removesuffix("-"),
            lost=lambda gone: self._recover(lambda boot: boot == gone),
        )
        pool.wait_ready()
        self._pool = pool
        return self._port

    def _settings_now(self) -> tuple[int, Settings]:
        version, settings = self._master.call("settings")
        return version, settings

    def _refresh(self, pool: EdgePool) -> None:
        """Give new settings to the processes, by new processes."""
        version, settings = self._settings_now()
        if version != self._version:
            self._version, self._settings = version, settings
            _log.info("new settings", extra={"version": version})
            pool.renew()
        _tell(self._recovery.again(lambda: self._settings))

    def _spec(self, number: int, boot: str) -> EdgeSpec:
        return EdgeSpec(
            role=self._role,
            number=number,
            boot=boot,
            bootstrap=self._bootstrap,
            settings=self._settings,
            port=self._port,
        )

    def stop(self) -> None:
        """Stop the processes; what they answered is registered first."""
        if self._pool is not None:
            self._pool.stop()
        if self._holder is not None:
            self._holder.close()

    def pids(self) -> list[int]:
        """Process ids of the edge processes."""
        return self._pool.pids() if self._pool is not None else []

    def _count(self) -> int:
        given = (
            self._bootstrap.listener_processes
            if self._role == "listener"
            else self._bootstrap.gateway_processes
        )
        return given or min(os.cpu_count() or 1, MOST_PROCESSES[self._role])

    def _recover(self, lost: Callable[[str], bool]) -> None:
        """Register what lost processes answered but had not registered, free what they held."""
        _tell(self._recovery.run(self._settings, lost))


def _tell(recovered: int) -> None:
    if recovered:
        _log.info("recovered", extra={"instances": recovered})
