"""Ray's processes of this node: a cluster of one, the head of several, or one that joins.

A head is started inside the node process. A node that joins gets its raylet from `ray start` as a
child, which ends with the node process however that ends; then the node process attaches to it.
Every node of a cluster has a temporary folder of its own: by it Ray tells apart several nodes on
one host.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from raypacs.cluster.master import NAMESPACE, master_resource
from raypacs.config import Bootstrap
from raypacs.errors import NodeNotRunning

_log = logging.getLogger("raypacs.cluster.raylet")
RAY_TRIES = 5
JOIN_S = 90.0
GONE_S = 10.0
_BLOCKS = "will now block forever"  # what `ray start --block` says when all is up
_SLOTS = 1_000  # of the master's resource: more masters than there ever are
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class RayNode:
    """This node's Ray, from start to stop; ``dashboard`` is its host and port, '' without one."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        self._bootstrap = bootstrap
        self._child: subprocess.Popen[bytes] | None = None
        self.dashboard = ""

    def start(self) -> None:
        """Start Ray here and attach to it.

        Raises:
            NodeNotRunning: the cluster to join does not answer, or refuses.
        """
        if self._bootstrap.clustered:
            shutil.rmtree(self._folder(), ignore_errors=True)
        if self._bootstrap.ray_address:
            self._join()
        else:
            self._start_head()

    def alive(self) -> bool:
        """Whether Ray's processes of this node are there (their driver cannot go on without)."""
        if self._child is not None and self._child.poll() is not None:
            return False
        return any(child.name() == "raylet" for child in _family())

    def stop(self) -> None:
        """End Ray and wait for its processes, which are all descendants of this one."""
        family = _family()
        ray.shutdown()
        if self._child is not None:
            self._child.terminate()
        _, alive = psutil.wait_procs(family, timeout=GONE_S)
        _end(alive)
        if self._bootstrap.clustered:
            shutil.rmtree(self._folder(), ignore_errors=True)

    def _folder(self) -> Path:
        """Ray's temporary folder of this node: short, as the sockets in it have short names."""
        mark = hashlib.sha256(str(self._bootstrap.data_dir.absolute()).encode()).hexdigest()[:10]
        return Path(tempfile.gettempdir()) / f"raypacs-{mark}"

    def _start_head(self) -> None:
        for tries_left in reversed(range(RAY_TRIES)):
            try:
                self._init_head()
                return
            except Exception as exc:
                # Ray gives its own processes 30 s, too little on a busy machine, and says so with a
                # bare Exception; everything else is not ours to catch.
                if "timed out during startup" not in str(exc) or not tries_left:
                    raise
                _log.warning("Ray did not start in time, trying again")
                ray.shutdown()
                _end(_family())  # what was half started is not Ray's to end, and has its port

    def _init_head(self) -> None:
        bootstrap = self._bootstrap
        options: dict[str, Any] = {"_temp_dir": str(self._folder())} if bootstrap.clustered else {}
        if bootstrap.ray_host:
            options["_node_ip_address"] = bootstrap.ray_host
        context = ray.init(
            num_cpus=bootstrap.cores or os.cpu_count() or 1,
            object_store_memory=bootstrap.object_store_bytes,
            resources=_resources(bootstrap),
            include_dashboard=bootstrap.dashboard,
            dashboard_host="127.0.0.1",
            dashboard_port=bootstrap.dashboard_port or None,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            **options,
        )
        self.dashboard = str(context.dashboard_url or "") if bootstrap.dashboard else ""

    def _join(self) -> None:
        output = self._bootstrap.log_dir / "ray.out"
        for _ in range(RAY_TRIES):
            if self._raylet_is_up(output):
                break
            # The head may just restart; or the machine is busy: Ray gives its agents 15 s.
            _log.warning("Ray did not join", extra={"output": str(output)})
        else:
            raise NodeNotRunning(
                f"cannot join the Ray cluster at {self._bootstrap.ray_address}",
                hint=f"is its head up, the token the same? {output} says what Ray said",
            )
        ray.init(
            address=self._bootstrap.ray_address,
            namespace=NAMESPACE,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=str(self._folder()),
        )

    def _raylet_is_up(self, output: Path) -> bool:
        """Start the raylet; return whether it came up."""
        with output.open("wb") as told:
            self._child = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + JOIN_S
        while self._child.poll() is None and time.monotonic() < deadline:
            if _BLOCKS in output.read_text(errors="replace"):
                return True
            time.sleep(0.1)
        self._child.kill()
        self._child.wait()
        return False

    def _command(self) -> list[str]:
        bootstrap = self._bootstrap
        options = {
            "address": bootstrap.ray_address,
            "temp-dir": str(self._folder()),
            "num-cpus": str(bootstrap.cores or os.cpu_count() or 1),
            "object-store-memory": str(bootstrap.object_store_bytes),
            "resources": json.dumps(_resources(bootstrap)),
            "include-log-monitor": "false",
            "dashboard-agent-listen-port": "0",
        }
        if bootstrap.ray_host:
            options["node-ip-address"] = bootstrap.ray_host
        given = [f"--{name}={value}" for name, value in options.items()]
        program = [sys.executable, "-m", "ray.scripts.scripts"]
        return [*program, "start", "--block", "--disable-usage-stats", *given]


def _resources(bootstrap: Bootstrap) -> dict[str, float]:
    return {master_resource(bootstrap): _SLOTS} if "master" in bootstrap.roles else {}


def _end(leftovers: list[psutil.Process]) -> None:
    for process in leftovers:
        _log.warning("killing a leftover", extra={"pid": process.pid})
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(leftovers, timeout=GONE_S)


def _family() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _end_with_parent() -> None:
    # `ray start --block` ends its own children the same way.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
