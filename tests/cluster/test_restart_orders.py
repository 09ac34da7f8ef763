"""No order in which nodes are killed and started brings older settings or an older index back."""

from __future__ import annotations

import itertools
from pathlib import Path

from cluster_hosts import START_S, Cluster, cluster_of, wait_for
from cluster_studies import send, studies
from postgres import PostgresServer

from raypacs.client import Client

ORDERS = list(itertools.permutations(range(3)))


def test_nodes_restarted_in_every_order(tmp_path: Path, postgres: PostgresServer) -> None:
    """Every node can be master; only the head, n1, has a web service to ask."""
    roles = {0: ["master", "gateway"], 1: ["master"], 2: ["master"]}
    with cluster_of(tmp_path, postgres, roles_of=roles) as cluster:
        cluster.start()
        epoch, version, known = 0, 0, set[str]()
        for number, order in enumerate(ORDERS):
            quiet_s = 1000.0 + number
            epoch, version = change(cluster, quiet_s, epoch, version)
            known |= send(cluster.hosts[0], studies(1, 1, 40_000 + number), complete=False)
            # All at once as after a power cut; then up again, one after the other.
            for host in cluster.hosts:
                host.kill()
            for host in order:
                cluster.hosts[host].up()
            for host in cluster.hosts:
                wait_for(host.ready, f"{host.name} to serve in order {order}", START_S)
            with Client(cluster.hosts[0].url, patience_s=60) as client:
                now, settings = client.settings()
                assert (now, settings["quiet_s"]) == (version, quiet_s), order
                assert {row["StudyInstanceUID"] for row in client.studies()} == known, order
            master = cluster.master()
            assert master["epoch"] > epoch, order
            epoch = master["epoch"]


def change(cluster: Cluster, quiet_s: float, epoch: int, version: int) -> tuple[int, int]:
    """Change the settings; return the epoch under which that was done, and their version."""
    with Client(cluster.hosts[0].url, patience_s=60) as client:
        _, settings = client.settings()
        made = client.apply_settings({**settings, "quiet_s": quiet_s})
        assert made > version
    now = cluster.master()["epoch"]
    assert now >= epoch
    return now, made
