"""Several nodes of one cluster on this machine: each `raypacs up` with a data folder of its own.

They share PostgreSQL, Redis and the tiers, as hosts with a database server and a file server would.
This is also their systemd: what ends is started again only by the test. With ``namespaces`` (root
only) each node has a network of its own, behind a bridge, so that its link can be cut.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
from nodes import PROJECT, RAYPACS, cli, write_config
from postgres import PostgresServer

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
    """A bridge, and a network namespace for each node, linked to it. Root only.

    PostgreSQL, Redis and the test are outside, on the bridge's own address.
    """

    def __init__(self, count: int, subnet: str = "10.213.71") -> None:
        self._mark = f"rp{os.getpid() % 10_000}"
        self._subnet, self._count = subnet, count
        self.outside = f"{subnet}.1"

    def address(self, number: int) -> str:
        """Return the address of a node."""
        return f"{self._subnet}.{number + 10}"

    def prefix(self, number: int) -> tuple[str, ...]:
        """Return what to put before a command so that it runs on that node."""
        return ("ip", "netns", "exec", self._name(number))

    def _name(self, number: int) -> str:
        return f"{self._mark}n{number}"

    def cut(self, number: int) -> None:
        """Cut a node's link: to the others, to PostgreSQL and Redis; not to the disks."""
        _ip("link", "set", f"{self._mark}v{number}", "down")

    def heal(self, number: int) -> None:
        """Give a node its link again."""
        _ip("link", "set", f"{self._mark}v{number}", "up")

    def __enter__(self) -> Network:
        bridge = f"{self._mark}br"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{self.outside}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(self._count):
            name, inner, outer = self._name(number), "eth0", f"{self._mark}v{number}"
            _ip("netns", "add", name)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", name)
            _ip("link", "set", outer, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", inner)
            _ip("-n", name, "link", "set", inner, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "route", "add", "default", "via", self.outside)
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(self._count):
            subprocess.run(["ip", "netns", "del", self._name(number)], check=False)
        subprocess.run(["ip", "link", "del", f"{self._mark}br"], check=False)


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

    def start(self, *numbers: int) -> None:
        """Start these nodes (all by default), each when the one before serves.

        Not at once: a raylet gives its agents 15 s, which three starts on two cores may take.
        """
        for number in numbers or range(len(self.hosts)):
            host = self.hosts[number]
            host.up()
            wait_for(host.ready, f"{host.name} to serve", START_S)

    def reader(self) -> IndexReader:
        return IndexReader(self.index_url)

    def live(self) -> list[Host]:
        return [host for host in self.hosts if host.running()]

    def any_status(self) -> dict[str, Any]:
        """The status from the first node that answers."""
        for host in self.live():
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
    folder: Path,
    postgres: PostgresServer,
    count: int = 3,
    *,
    network: Network | None = None,
    roles_of: dict[int, list[str]] | None = None,
) -> Iterator[Cluster]:
    """Configure ``count`` nodes with an empty index, and end what still runs of them.

    ``network``: each node in a namespace of its own. ``roles_of``: roles by number; all but
    listener where it is not given.
    """
    index_url = postgres.create(f"cluster_{os.getpid()}_{time.monotonic_ns()}")
    outside = network.outside if network else "127.0.0.1"
    server = RedisServer(folder, outside)
    head_port = free_port()
    token = folder / "ray-token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    hosts = []
    for number in range(count):
        home = folder / f"n{number + 1}"
        home.mkdir()
        address = network.address(number) if network else "127.0.0.1"
        if number == 0:
            place = {"ray_port": head_port, "ray_redis": server.address}
            head_address = f"{address}:{head_port}"
        else:
            place = {"ray_address": head_address}
        if network:
            place |= {"host": address, "access": "open"}
        place["roles"] = roles_of[number] if roles_of else ["master", "worker", "gateway"]
        config = write_config(
            home,
            node_name=f"n{number + 1}",
            index_url=index_url,
            ray_token_path=str(token),
            ray_host=address,
            cores=1,
            listener_processes=1,
            gateway_processes=1,
            dashboard=False,
            object_store_bytes=80 * 1024 * 1024,
            **place,
        )
        prefix = network.prefix(number) if network else ()
        hosts.append(Host(f"n{number + 1}", config, home / "data", prefix))
    try:
        yield Cluster(folder, hosts, index_url)
    finally:
        for host in reversed(hosts):
            if host.running():
                host.thaw()
                host.kill()
        server.stop()
