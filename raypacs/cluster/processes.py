"""Edge processes of a node: started, linked to the actor that supervises them, restarted, stopped.

They are plain processes without Ray (their own interpreter lock, quick start); the pipe they hold
is their lease on life: it closes with the actor, and they end themselves (:mod:`raypacs.link`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from raypacs import layout, link
from raypacs.edges import EdgeSpec

_log = logging.getLogger("raypacs.cluster.processes")
READY_S = 60.0
STOP_S = 20.0


def reserve_port(host: str, port: int) -> tuple[socket.socket, int]:
    """Bind (not listen) with SO_REUSEPORT, so that a free port stays ours for the processes.

    Raises:
        OSError: the port is in use by somebody who does not share it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if port:
        probe = socket.socket(family)
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))  # without SO_REUSEPORT: sees other programs' listeners
        finally:
            probe.close()
    holder = socket.socket(family)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((host, port))
    return holder, int(holder.getsockname()[1])


class EdgeProcess:
    """One child and its link; ``boot`` names it in intake markers and claims."""

    def __init__(self, spec: EdgeSpec, handlers: Mapping[str, Callable[..., Any]]) -> None:
        self.spec = spec
        self.ready = threading.Event()
        ours, theirs = socket.socketpair()
        self._conn = Connection(ours.detach())
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raypacs.edges", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        theirs.close()
        self._conn.send(spec)
        link.serve(self._conn, {**handlers, "ready": self._ready})

    def _ready(self) -> None:
        self.ready.set()

    def alive(self) -> bool:
        """Say if the process still runs."""
        return self.process.poll() is None

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Ask to finish (SIGTERM), wait, then kill: only this child, by its handle."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _log.error("edge did not stop", extra={"role": self.spec.role})
                self.process.kill()
                self.process.wait()
        self._conn.close()


class EdgePool:
    """Several processes of one role on one port, kept running until stopped."""

    def __init__(
        self,
        make_spec: Callable[[int, str], EdgeSpec],
        count: int,
        handlers: Mapping[str, Callable[..., Any]],
        *,
        boot_prefix: str,
        lost: Callable[[str], None],
    ) -> None:
        self._make_spec, self._handlers, self._lost = make_spec, handlers, lost
        self._boot_prefix = boot_prefix
        self._stopping = threading.Event()
        self._renewing = False
        self._edges = [self._start(number) for number in range(count)]
        self._thread = threading.Thread(target=self._supervise, name="edges", daemon=True)
        self._thread.start()

    def _start(self, number: int) -> EdgeProcess:
        boot = f"{self._boot_prefix}-{layout.new_token()}"
        return EdgeProcess(self._make_spec(number, boot), self._handlers)

    def wait_ready(self) -> None:
        """Wait until every process serves.

        Raises:
            TimeoutError: one of them did not come up.
        """
        deadline = time.monotonic() + READY_S
        for number in range(len(self._edges)):
            while not self._edges[number].ready.wait(0.1):
                if time.monotonic() > deadline:
                    spec = self._edges[number].spec
                    raise TimeoutError(f"{spec.role} process {number} did not come up: see its log")

    def renew(self) -> None:
        """Replace every process by one of the current spec, one after another.

        The port stays served: a new process listens before an old one stops.
        """
        self._renewing = True

    def boots(self) -> set[str]:
        """Boot names of the processes that run now."""
        return {edge.spec.boot for edge in self._edges if edge.alive()}

    def pids(self) -> list[int]:
        """Process ids, for `status` and for tests that kill one."""
        return [edge.process.pid for edge in self._edges]

    def _supervise(self) -> None:
        pause = 0.2
        while not self._stopping.wait(pause):
            pause = 0.2
            if self._renewing:
                self._renewing = False
                self._replace_all()
            for number, edge in enumerate(self._edges):
                if edge.alive() or self._stopping.is_set():
                    continue
                _log.warning(
                    "edge process ended, starting another",
                    extra={"role": edge.spec.role, "rc": edge.process.returncode},
                )
                edge.stop()
                self._lost(edge.spec.boot)
                self._edges[number] = self._start(number)
                pause = 1.0  # a process that cannot start must not spin

    def _replace_all(self) -> None:
        for number, old in enumerate(self._edges):
            new = self._start(number)
            while new.alive() and not new.ready.wait(0.1) and not self._stopping.is_set():
                continue
            self._edges[number] = new
            old.stop()

    def stop(self) -> None:
        """Stop all processes; each finishes what it has answered."""
        self._stopping.set()
        self._thread.join(READY_S)
        for edge in self._edges:
            if edge.alive():
                edge.process.send_signal(signal.SIGTERM)
        for edge in self._edges:
            edge.stop()
