"""A node from start to stop: Ray, the master, and this machine's dispatcher, listener, gateway.

Everything runs below the process that calls :func:`run`: Ray's processes end with their driver,
edge processes with the actor they are linked to. So no order of deaths leaves a process behind.
Where the node's Ray ends under it (the rest of the cluster declared it dead), :func:`run` ends too,
and whoever supervises the process (systemd) starts the node again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypacs import __version__, layout, logs
from raypacs.cluster import joining
from raypacs.cluster.dispatcher import Dispatcher
from raypacs.cluster.edge import EdgeActor
from raypacs.cluster.environment import bootstrap_path
from raypacs.cluster.master import NAMESPACE, MasterHandle
from raypacs.cluster.mastership import Mastership
from raypacs.cluster.processes import reserve_port
from raypacs.cluster.raylet import RayNode
from raypacs.cluster.reach import Reach
from raypacs.cluster.service import START_S, Service
from raypacs.config import Bootstrap
from raypacs.edges import Recovery, boot_prefix
from raypacs.errors import ConfigError, NodeNotRunning, RaypacsError
from raypacs.index.reader import IndexReader
from raypacs.policy.nodes import refusals
from raypacs.records import NodeAnswer, NodeInfo
from raypacs.work.kinds import RUNS

_log = logging.getLogger("raypacs.cluster.node")
HEARTBEAT_S = 2.0
WATCH_EVERY_S = 2.0


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
        ConfigError: a port is in use, or the cluster refuses this node (other configuration or
            version, or another node of its name).
        MasterUnavailable: the master did not come up.
        NodeNotRunning: the cluster to join does not answer, or Ray ended under the node.
    """
    bootstrap.run_dir.mkdir(parents=True, exist_ok=True)
    logs.setup("node", bootstrap)
    _check_ports(bootstrap)
    _leave_bootstrap(bootstrap)
    ray_node = RayNode(bootstrap)
    ray_node.start()
    try:
        node = _Node(bootstrap, ray_node)
        try:
            on_ready(node.start())
            node.watch(stop)
        finally:
            node.stop()
    finally:
        ray_node.stop()


def _leave_bootstrap(bootstrap: Bootstrap) -> None:
    """Write down this node's bootstrap for a master that Ray starts here (``local_bootstrap``)."""
    path = bootstrap_path(bootstrap)
    path.unlink(missing_ok=True)
    # It may hold the database's password.
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(bootstrap.model_dump_json())


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


class _Node:
    def __init__(self, bootstrap: Bootstrap, ray_node: RayNode) -> None:
        self._bootstrap, self._ray = bootstrap, ray_node
        self._plain = bootstrap.model_dump(mode="json")
        self._boot = boot_prefix(bootstrap) + layout.new_token()
        self._master = MasterHandle()
        self._recovery = Recovery(bootstrap, self._master.call)
        self._mastership = Mastership(bootstrap) if "master" in bootstrap.roles else None
        self._reach = Reach(IndexReader(bootstrap.database_url))
        self._services: dict[str, Service] = {}
        self._ports: dict[str, int] = {}
        self._problems: tuple[str, ...] = ()
        self._leaving = threading.Event()
        self._beats = threading.Thread(target=self._beat_for_ever, name="heartbeat", daemon=True)
        self._refused: ConfigError | None = None

    def start(self) -> dict[str, Any]:
        """Bring the services up in the order in which they need each other."""
        roles = self._bootstrap.roles
        # A node with another configuration makes no master: the one there is refuses it.
        agrees = not self._bootstrap.ray_address or joining.agrees(self._bootstrap)
        if self._mastership is not None and agrees:
            self._mastership.ensure()
            self._mastership.keep()
        if not self._bootstrap.ray_address:
            joining.declare(self._bootstrap)
        self._reach.first()
        # First of all: a new boot ends the leases and grants of this node's earlier life.
        self._see()
        self._beats.start()
        _, settings = self._master.call("settings")
        # What an earlier life of this node answered 'stored' is registered before anyone asks.
        earlier = boot_prefix(self._bootstrap)
        recovered = self._recovery.run(
            settings, lambda boot: boot.startswith(earlier) and not boot.startswith(self._boot)
        )
        if recovered:
            _log.info("recovered", extra={"instances": recovered})
        if "worker" in roles:
            self._add(Dispatcher, "dispatcher", self._plain, self._boot, start=())
        for role, port in (
            ("listener", self._bootstrap.dicom_port),
            ("gateway", self._bootstrap.http_port),
        ):
            if role in roles:
                self._add(EdgeActor, role, role, self._plain, self._boot, start=(port,))
        services = list(self._services.values())
        answers = ray.get([service.start() for service in services], timeout=START_S)
        for service, answer in zip(services, answers, strict=True):
            if service.name != "dispatcher":
                service.start_args = (answer,)  # a restarted actor takes the same port again
                self._ports[service.name] = answer
        self._see()
        return self._describe()

    def _see(self) -> None:
        """Tell the master of this node, and do what it answers.

        Raises:
            ConfigError: the cluster refuses this node.
        """
        answer: NodeAnswer = self._master.call("node_seen", self._info())
        if answer.problems != self._problems:
            self._problems = answer.problems
            _log.warning("problems", extra={"problems": list(answer.problems)})
        if refused := refusals(answer.problems):
            self._refused = ConfigError(
                f"the cluster refuses node {self._bootstrap.name}: {'; '.join(refused)}",
                hint="give it the other nodes' index_url and ae_title, their version, its own name",
            )
            raise self._refused
        if answer.take_master and self._mastership is not None:
            _log.info("taking the master")
            self._mastership.take()

    def _info(self) -> NodeInfo:
        return NodeInfo(
            name=self._bootstrap.name,
            host=self._bootstrap.host,
            boot=self._boot,
            roles=self._bootstrap.roles,
            cores=self._bootstrap.cores or os.cpu_count() or 1,
            dicom_port=self._ports.get("listener", 0),
            http_port=self._ports.get("gateway", 0),
            version=__version__,
            bootstrap_hash=self._bootstrap.hash(),
            pid=os.getpid(),
            ray_node_id=ray.get_runtime_context().get_node_id(),
            tiers=self._reach.tiers(),
            kinds=tuple(RUNS),
        )

    def _add(self, kind: Any, name: str, *args: Any, start: tuple[Any, ...]) -> None:
        """Create an actor of this node; ``start`` are the arguments of its start()."""
        actor = (
            ray.remote(kind)
            .options(
                # Named by this life of the node: Ray may not have buried the last one's yet.
                name=f"raypacs-{name}-{self._boot}",
                namespace=NAMESPACE,
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(
                    ray.get_runtime_context().get_node_id(), soft=False
                ),
                max_restarts=-1,
                max_concurrency=8,
            )
            .remote(*args)
        )
        self._services[name] = Service(name, actor, start)

    def _describe(self) -> dict[str, Any]:
        info = self._info()
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
            "dashboard_url": f"http://{self._ray.dashboard}" if self._ray.dashboard else "",
            "ray_address": context.gcs_address,
            "ray_token_path": os.environ["RAY_AUTH_TOKEN_PATH"],
            "data_dir": str(self._bootstrap.data_dir.absolute()),
        }

    def _beat_for_ever(self) -> None:
        """Send heartbeats, apart from what may take its time: starting or asking the services."""
        while not self._leaving.wait(HEARTBEAT_S):
            try:
                self._see()
            except ConfigError:
                return  # ``watch`` raises it
            except (RaypacsError, RayError) as exc:  # the next heartbeat may succeed
                _log.warning("no heartbeat", extra={"why": str(exc)[:500]})

    def watch(self, stop: threading.Event) -> None:
        """Look after the services until told to stop.

        Raises:
            NodeNotRunning: Ray ended under this node.
            ConfigError: the cluster refuses it.
        """
        while not stop.wait(WATCH_EVERY_S):
            if self._refused is not None:
                raise self._refused
            if not self._ray.alive():
                raise NodeNotRunning(
                    "Ray ended under this node: it was killed, or the cluster declared it dead",
                    hint="start the node again; systemd does with Restart=always",
                )
            for service in self._services.values():
                if not stop.is_set():
                    service.look_after()
            self._recover_rest()

    def _recover_rest(self) -> None:
        """Register what lay on a tier that was away when this node started."""
        try:
            count = self._recovery.again(lambda: self._master.call("settings")[1])
        except (RaypacsError, RayError) as exc:  # tried again
            _log.warning("not recovered", extra={"why": str(exc)[:500]})
        else:
            if count:
                _log.info("recovered", extra={"instances": count})

    def stop(self) -> None:
        """Stop receiving, then working, then the master: nothing answered is left unregistered."""
        self._leaving.set()
        if not self._ray.alive():
            return
        for name in ("listener", "gateway", "dispatcher"):
            if name in self._services:
                self._services[name].stop()
        if self._beats.is_alive():
            self._beats.join(HEARTBEAT_S)  # no heartbeat after the farewell
        if self._refused is None:  # a refused node stays shown as such
            self._say_farewell()
        if self._mastership is not None:
            self._mastership.leave()

    def _say_farewell(self) -> None:
        try:
            MasterHandle(retry_for_s=5.0).call("node_left", self._bootstrap.name, self._boot)
        except RaypacsError as exc:
            _log.warning("not told that this node leaves", extra={"why": str(exc)[:500]})
