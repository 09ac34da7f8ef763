"""A node from start to stop: Ray, the master, and this machine's dispatcher, listener, gateway.

Everything runs below the process that calls :func:`run`: Ray's processes end with their driver,
edge processes with the actor they are linked to. So no order of deaths leaves a process behind.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from raypacs import __version__, layout, logs
from raypacs.cluster.dispatcher import Dispatcher
from raypacs.cluster.edge import EdgeActor
from raypacs.cluster.master import NAMESPACE, MasterHandle, ensure_master
from raypacs.cluster.processes import reserve_port
from raypacs.config import Bootstrap
from raypacs.edges import boot_prefix, recover
from raypacs.errors import ConfigError, RaypacsError
from raypacs.records import NodeInfo
from raypacs.work.kinds import RUNS

_log = logging.getLogger("raypacs.cluster.node")
HEARTBEAT_S = 2.0
ACTOR_START_S = 120.0
GONE_S = 10.0
RAY_TRIES = 3


def run(
    bootstrap: Bootstrap,
    *,
    on_ready: Callable[[dict[str, Any]], None],
    stop: threading.Event,
) -> None:
    """Run a node until ``stop`` is set; the caller holds the data folder (`node_file.held`).

    ``on_ready`` gets ports, URLs and pids once everything serves. When this returns, no process
    of the node is left.

    Raises:
        ConfigError: a port is in use, or another node of this name and cluster runs.
        MasterUnavailable: the master did not come up.
    """
    bootstrap.run_dir.mkdir(parents=True, exist_ok=True)
    logs.setup("node", bootstrap)
    _check_ports(bootstrap)
    node = _Node(bootstrap, _start_ray(bootstrap))
    try:
        on_ready(node.start())
        node.watch(stop)
    finally:
        try:
            node.stop()
        finally:
            _shut_ray_down()


def _shut_ray_down() -> None:
    """End Ray and wait for its processes, which are all descendants of this one."""
    family = psutil.Process().children(recursive=True)
    ray.shutdown()
    _, alive = psutil.wait_procs(family, timeout=GONE_S)
    for process in alive:
        _log.warning("killing a leftover", extra={"pid": process.pid})
        process.kill()
    psutil.wait_procs(alive, timeout=GONE_S)


def _start_ray(bootstrap: Bootstrap) -> str:
    """Start Ray on this machine; return the dashboard's host and port, '' without one."""
    for tries_left in reversed(range(RAY_TRIES)):
        try:
            return _init_ray(bootstrap)
        except Exception as exc:
            # Ray gives its own processes 30 s, too little on a busy machine, and says so with a
            # bare Exception; everything else is not ours to catch.
            if "timed out during startup" not in str(exc) or not tries_left:
                raise
            _log.warning("Ray did not start in time, trying again")
            ray.shutdown()
    raise AssertionError("unreachable")


def _check_ports(bootstrap: Bootstrap) -> None:
    """Raise ConfigError for a port that is taken, before Ray's start takes its seconds."""
    wanted = {
        "dicom_port": (
            bootstrap.host,
            bootstrap.dicom_port if "listener" in bootstrap.roles else 0,
        ),
        "http_port": (bootstrap.host, bootstrap.http_port if "gateway" in bootstrap.roles else 0),
        "dashboard_port": ("127.0.0.1", bootstrap.dashboard_port if bootstrap.dashboard else 0),
    }
    for setting, (host, port) in wanted.items():
        try:
            reserve_port(host, port)[0].close()
        except OSError as exc:
            raise ConfigError(
                f"{setting} {port}: {exc.strerror}",
                setting=setting,
                hint=f"another program has it: set another {setting}, or 0 for a free one",
            ) from exc


def _init_ray(bootstrap: Bootstrap) -> str:
    context = ray.init(
        num_cpus=bootstrap.cores or os.cpu_count() or 1,
        object_store_memory=bootstrap.object_store_bytes,
        include_dashboard=bootstrap.dashboard,
        dashboard_host="127.0.0.1",
        dashboard_port=bootstrap.dashboard_port or None,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
    )
    return str(context.dashboard_url or "") if bootstrap.dashboard else ""


class _Node:
    def __init__(self, bootstrap: Bootstrap, dashboard: str) -> None:
        self._bootstrap, self._dashboard = bootstrap, dashboard
        self._plain = bootstrap.model_dump(mode="json")
        self._boot = boot_prefix(bootstrap) + layout.new_token()
        self._master = MasterHandle()
        self._actors: dict[str, Any] = {}
        self._starts: dict[str, tuple[Any, ...]] = {}
        self._info: NodeInfo

    def start(self) -> dict[str, Any]:
        """Bring the services up in the order in which they need each other."""
        roles = self._bootstrap.roles
        if "master" in roles:
            ensure_master(self._bootstrap)
        _, settings = self._master.call("settings")
        # What an earlier life of this node answered 'stored' is registered before anyone asks.
        earlier = boot_prefix(self._bootstrap)
        recovered = recover(
            self._bootstrap, settings, self._master.call, lambda boot: boot.startswith(earlier)
        )
        if recovered:
            _log.info("recovered", extra={"instances": recovered})
        # First of all: a new boot ends the leases and grants of this node's earlier life.
        self._see({})
        if "worker" in roles:
            self._add(Dispatcher, "dispatcher", self._plain, self._boot, start=())
        for role, port in (
            ("listener", self._bootstrap.dicom_port),
            ("gateway", self._bootstrap.http_port),
        ):
            if role in roles:
                self._add(EdgeActor, role, role, self._plain, self._boot, start=(port,))
        calls = {
            name: actor.start.remote(*self._starts[name]) for name, actor in self._actors.items()
        }
        for name, answer in zip(
            calls, ray.get(list(calls.values()), timeout=ACTOR_START_S), strict=True
        ):
            if name != "dispatcher":
                self._starts[name] = (answer,)  # a restarted actor takes the same port again
        self._see({name: start[0] for name, start in self._starts.items() if start})
        return self._describe()

    def _see(self, ports: dict[str, int]) -> None:
        self._info = NodeInfo(
            name=self._bootstrap.name,
            host=self._bootstrap.host,
            boot=self._boot,
            roles=self._bootstrap.roles,
            cores=self._bootstrap.cores or os.cpu_count() or 1,
            dicom_port=ports.get("listener", 0),
            http_port=ports.get("gateway", 0),
            version=__version__,
            bootstrap_hash=self._bootstrap.hash(),
            pid=os.getpid(),
            kinds=tuple(RUNS),
        )
        self._master.call("node_seen", self._info)

    def _add(self, kind: Any, name: str, *args: Any, start: tuple[Any, ...]) -> None:
        """Create an actor of this node; ``start`` are the arguments of its start()."""
        self._starts[name] = start
        self._actors[name] = (
            ray.remote(kind)
            .options(
                name=f"raypacs-{name}-{self._bootstrap.name}",
                namespace=NAMESPACE,
                num_cpus=0,
                max_restarts=-1,
                max_concurrency=8,
            )
            .remote(*args)
        )

    def _describe(self) -> dict[str, Any]:
        info = self._info
        # "All addresses" is where to listen, not where to connect.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(info.host, info.host)
        context = ray.get_runtime_context()
        return {
            "pid": os.getpid(),
            "node": info.name,
            "host": info.host,
            "dicom_port": info.dicom_port,
            "http_port": info.http_port,
            "ae_title": self._bootstrap.ae_title,
            "http_url": f"http://{reachable}:{info.http_port}",
            "dashboard_url": f"http://{self._dashboard}" if self._dashboard else "",
            "ray_address": context.gcs_address,
            "ray_token_path": os.environ["RAY_AUTH_TOKEN_PATH"],
            "data_dir": str(self._bootstrap.data_dir.absolute()),
        }

    def watch(self, stop: threading.Event) -> None:
        """Send heartbeats, start again what Ray has restarted, until told to stop."""
        while not stop.wait(HEARTBEAT_S):
            try:
                self._master.call("node_seen", self._info)
            except (RaypacsError, RayError) as exc:  # the next heartbeat may succeed
                _log.warning("no heartbeat", extra={"why": str(exc)[:500]})
            for name, actor in self._actors.items():
                try:
                    ray.get(actor.start.remote(*self._starts[name]), timeout=ACTOR_START_S)
                except (
                    RaypacsError,
                    RayError,
                    OSError,
                ) as exc:  # being restarted; asked again next time
                    _log.warning("service away", extra={"service": name, "why": str(exc)[:500]})

    def stop(self) -> None:
        """Stop receiving, then working, then the master: nothing answered is left unregistered."""
        for name in ("listener", "gateway", "dispatcher"):
            actor = self._actors.get(name)
            if actor is not None:
                ray.get(actor.stop.remote(), timeout=60)
                _log.info("stopped", extra={"service": name})
        if "master" in self._bootstrap.roles:
            self._master.close()
            _log.info("stopped", extra={"service": "master"})
