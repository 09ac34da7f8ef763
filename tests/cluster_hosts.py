"""Several nodes of one cluster on this machine: each `raypacs up` with a data folder of its own.

They share PostgreSQL, Redis and the tiers, as hosts with a database server and a file server would.
This is also their systemd: what ends is started again only by the test. As root each node has a
network namespace with two links, so that the one that Ray uses can be cut alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from nodes import PROJECT, RAYPACS, cli, write_config
from postgres import PostgresServer, postgres_server

from raypacs.client import Client
from raypacs.index.reader import IndexReader

Answer = TypeVar("Answer")
START_S = 180.0
WAIT_S = 120.0


def wait_for(condition: Callable[[], Answer], what: str, timeout_s: float = WAIT_S) -> Answer:
    """Return the first true value of ``condition``."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"waited {timeout_s} s for {what}")


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Redis for the head's state, ended by its handle."""

    def __init__(self, folder: Path, host: str) -> None:
        self.address = f"{host}:{free_port(host)}"
        port = self.address.rpartition(":")[2]
        options = ["--port", port, "--bind", host, "--save", "", "--appendonly", "no"]
        options += ["--protected-mode", "no", "--dir", str(folder)]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


class Network:
    """A network namespace for each node, with a link to each of two bridges. Root only.

    Ray speaks on the first, PostgreSQL and HTTP on the second. PostgreSQL, Redis and the test are
    outside, on the bridges' own addresses.
    """

    def __init__(self, count: int) -> None:
        self._mark = f"rp{os.getpid() % 10_000}"
        self._subnets = ("10.213.71", "10.213.72")
        self._count = count
        self.ray_outside, self.outside = (f"{subnet}.1" for subnet in self._subnets)

    def ray_address(self, number: int) -> str:
        """Return the address of a node's Ray."""
        return f"{self._subnets[0]}.{number + 10}"

    def address(self, number: int) -> str:
        """Return the address of a node for everybody else."""
        return f"{self._subnets[1]}.{number + 10}"

    def prefix(self, number: int) -> tuple[str, ...]:
        """Return what to put before a command so that it runs on that node."""
        return ("ip", "netns", "exec", self._name(number))

    def _name(self, number: int) -> str:
        return f"{self._mark}n{number}"

    def cut(self, number: int) -> None:
        """Cut a node's Ray off from the others'; PostgreSQL and the disks stay reachable."""
        _ip("link", "set", f"{self._mark}v{number}l0", "down")

    def heal(self, number: int) -> None:
        """Give a node its link again."""
        _ip("link", "set", f"{self._mark}v{number}l0", "up")

    def __enter__(self) -> Network:
        for link, subnet in enumerate(self._subnets):
            bridge = f"{self._mark}br{link}"
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
        for number in range(self._count):
            name = self._name(number)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            for link, address in enumerate((self.ray_address(number), self.address(number))):
                inner, outer = f"eth{link}", f"{self._mark}v{number}l{link}"
                _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
                _ip("link", "set", outer, "master", f"{self._mark}br{link}", "up")
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", inner)
                _ip("-n", name, "link", "set", inner, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(self._count):
            subprocess.run(["ip", "netns", "del", self._name(number)], check=False)
        for link in range(len(self._subnets)):
            subprocess.run(["ip", "link", "del", f"{self._mark}br{link}"], check=False)


def networks() -> bool:
    """Whether nodes can have networks of their own here."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@dataclass
class Host:
    """One node: its folder and config, and its process while it runs."""

    name: str
    config: Path
    data_dir: Path
    prefix: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    frozen: list[psutil.Process] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def up(self) -> None:
        """Begin to start the node."""
        self.node_json.unlink(missing_ok=True)
        with (self.config.parent / "up.out").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *RAYPACS, "--config", str(self.config), "up"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=PROJECT,
                start_new_session=True,
            )

    @property
    def node_json(self) -> Path:
        return self.data_dir / "run" / "node.json"

    def ready(self) -> bool:
        """Whether it serves; fails the test when its process ended instead."""
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"{self.name} ended (rc {self.process.returncode}):\n{self.said()}")
        return self.node_json.is_file()

    def said(self) -> str:
        """Return the end of what the node wrote to its terminal."""
        return (self.config.parent / "up.out").read_text(errors="replace")[-4000:]

    @property
    def details(self) -> dict[str, Any]:
        return json.loads(self.node_json.read_text())["details"]

    @property
    def url(self) -> str:
        return str(self.details["http_url"])

    def status(self) -> dict[str, Any]:
        return httpx.get(self.url + "/api/v1/status", timeout=60).raise_for_status().json()

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return cli(self.config, *arguments, check=check)

    def family(self) -> list[psutil.Process]:
        """The node's process and all below it."""
        assert self.process is not None
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def find(self, *words: str) -> list[psutil.Process]:
        """Processes of the node whose command line has all ``words``."""
        found = []
        for process in self.family():
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def kill(self) -> None:
        """Let the host lose power: every process of the node dies at one instant."""
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        assert self.process is not None
        self.process.wait(30)

    def freeze(self) -> None:
        """SIGSTOP for all of it, parents first, so that nobody starts anything anew."""
        self.frozen = self.family()
        for process in self.frozen:
            _signal(process, signal.SIGSTOP)

    def configure(self, **values: Any) -> None:
        """Change the node's raypacs.toml; its next start reads it."""
        self.values |= values
        write_config(self.config.parent, **self.values)

    def thaw(self) -> None:
        """SIGCONT for what was frozen."""
        for process in reversed(self.frozen):
            _signal(process, signal.SIGCONT)
        self.frozen = []

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def down(self, timeout_s: float = 90.0) -> int:
        """Stop it as `raypacs down` does; return its exit code."""
        assert self.process is not None
        self.thaw()
        self.process.terminate()
        return self.process.wait(timeout_s)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


@dataclass
class Cluster:
    """Nodes by number; the first is the head."""

    folder: Path
    hosts: list[Host]
    index_url: str
    network: Network | None = None

    def start(self, *numbers: int) -> None:
        """Start these nodes (all that do not run by default) at once, and wait until they serve."""
        chosen = numbers or [n for n, host in enumerate(self.hosts) if not host.running()]
        for number in chosen:
            self.hosts[number].up()
        for number in chosen:
            wait_for(self.hosts[number].ready, f"{self.hosts[number].name} to serve", START_S)

    def reader(self) -> IndexReader:
        return IndexReader(self.index_url)

    def live(self) -> list[Host]:
        return [host for host in self.hosts if host.running()]

    def any_status(self) -> dict[str, Any]:
        """The status from the first node that answers."""
        for host in self.live():
            if not host.node_json.is_file():
                continue
            try:
                return host.status()
            except (httpx.HTTPError, OSError, ValueError):
                continue
        return {}

    def master(self) -> dict[str, Any]:
        """Where the master is, once it answers through some node."""

        def answered() -> dict[str, Any] | None:
            told = self.any_status().get("master") or {}
            return told if told.get("pid") else None

        return wait_for(answered, "the master")

    def master_host(self) -> Host:
        name = self.master()["node"]
        return next(host for host in self.hosts if host.name == name)

    def states(self) -> dict[str, str]:
        """State of every node, from the index."""
        reader = self.reader()
        try:
            return {node["name"]: node["state"] for node in reader.nodes(time.time())}
        finally:
            reader.close()


@contextmanager
def cluster_of(
    folder: Path, postgres: PostgresServer, count: int, network: Network | None
) -> Iterator[Cluster]:
    """Configure ``count`` nodes with an empty index, and end what still runs of them.

    All are master and worker, and all but the last have a web service. ``network``: each node in
    a namespace of its own.
    """
    index_url = postgres.create(f"cluster_{os.getpid()}_{time.monotonic_ns()}")
    server = RedisServer(folder, network.ray_outside if network else "127.0.0.1")
    head_port = free_port()
    token = folder / "ray-token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    hosts = []
    for number in range(count):
        home = folder / f"n{number + 1}"
        home.mkdir()
        address = network.ray_address(number) if network else "127.0.0.1"
        if number == 0:
            place: dict[str, Any] = {"ray_port": head_port, "ray_redis": server.address}
            head_address = f"{address}:{head_port}"
        else:
            place = {"ray_address": head_address}
        if network:
            place |= {"host": network.address(number), "access": "open"}
        gateway = ["gateway"] if number < count - 1 else []
        values = {
            "node_name": f"n{number + 1}",
            "roles": ["master", "worker", *gateway],
            "index_url": index_url,
            "ray_token_path": str(token),
            "ray_host": address,
            "cores": 1,
            "gateway_processes": 1,
            "dashboard": False,
            "object_store_bytes": 80 * 1024 * 1024,
            **place,
        }
        prefix = network.prefix(number) if network else ()
        config = write_config(home, **values)
        hosts.append(Host(f"n{number + 1}", config, home / "data", prefix, values=values))
    try:
        yield Cluster(folder, hosts, index_url, network)
    finally:
        for host in reversed(hosts):
            if host.running():
                host.thaw()
                host.kill()
        server.stop()


def share_tiers(cluster: Cluster) -> None:
    """Put the tiers on what stands for the file server, and let losses be noticed soon."""
    with Client(cluster.hosts[0].url, patience_s=60) as client:
        _, settings = client.settings()
        tiers = []
        for tier in settings["tiers"]:
            # Another url is another tier: it has another name. Its folder here has that name too.
            name = f"shared-{tier['name']}"
            tiers.append({**tier, "name": name, "url": (cluster.folder / "shared" / name).as_uri()})
        client.apply_settings(
            {**settings, "tiers": tiers, "node_lost_s": 8.0, "lease_s": 20.0, "quiet_s": 1.0}
        )


@contextmanager
def three_nodes(folder: Path) -> Iterator[Cluster]:
    """Run a cluster of three whose tiers are shared and whose data folders are not."""
    with ExitStack() as stack:
        network = stack.enter_context(Network(3)) if networks() else None
        outside = network.outside if network else "127.0.0.1"
        server = stack.enter_context(postgres_server(folder / "postgres", host=outside))
        cluster = stack.enter_context(cluster_of(folder, server, 3, network))
        cluster.start(0)
        share_tiers(cluster)
        cluster.start(1, 2)
        yield cluster


def move_master(cluster: Cluster, host: Host) -> None:
    """Have the master on a node."""
    if cluster.master()["node"] == host.name:
        return
    with Client(cluster.hosts[0].url, patience_s=60) as client:
        client.move_master(host.name)
    wait_for(lambda: cluster.master()["node"] == host.name, f"the master on {host.name}")


def asked(host: Host, name: str = "n1") -> float:
    """Write through the master, by way of a node; return the seconds until it was answered."""
    begun = time.monotonic()
    answer = httpx.post(f"{host.url}/api/v1/nodes/{name}/undrain", timeout=90)
    assert answer.status_code == 200, answer.text  # a delay, not an error
    return time.monotonic() - begun


def measured(what: str, seconds: float) -> None:
    """Print a time, and keep it for the README's table (file RAYPACS_FAILOVER_JSON, by name)."""
    print(f"\nfailover: {what}: {seconds:.1f} s")
    figure = {"name": what, "value": round(seconds, 2), "unit": "s", "n": 1, "spread": 0.0}
    figure |= dict.fromkeys(("beside", "beside_value", "ratio", "target", "holds"))
    if told := os.environ.get("RAYPACS_FAILOVER_JSON"):
        path = Path(told)
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        others = [one for one in earlier if one["name"] != what]
        path.write_text(json.dumps([*others, figure], indent=1), encoding="utf-8")
