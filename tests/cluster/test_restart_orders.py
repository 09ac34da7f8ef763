"""No order in which nodes are killed and started brings older settings or an older index back."""

from __future__ import annotations

import itertools
import json
import time
from contextlib import closing
from pathlib import Path

import pytest
from cluster_evidence import Evidence, check_no_late_write
from cluster_hosts import START_S, Cluster, Host, move_master, wait_for
from cluster_studies import send, studies

from raypacs.client import Client
from raypacs.config import Settings, default_tiers
from raypacs.index.engine import migrate, open_engine
from raypacs.index.writer import IndexWriter

ORDERS = list(itertools.permutations(range(3)))
OLD_INDEX, OLD_SETTINGS = (1, 2, 0), (2, 1, 0)
"""Orders in which the first node has something old in its folder."""
OLD_QUIET_S = 1234.0


@pytest.mark.parametrize("order", ORDERS)
def test_nodes_restarted_in_every_order(cluster: Cluster, order: tuple[int, ...]) -> None:
    """All die at once as after a power cut; the first of the order to start becomes master."""
    cluster.start()
    with Client(cluster.hosts[0].url, patience_s=60) as client:
        old_version, old = client.settings()
        quiet_s = 1000.0 + ORDERS.index(order)
        version = client.apply_settings({**old, "quiet_s": quiet_s})
        sent = send(cluster.hosts[0], studies(1, 1, 40_000 + ORDERS.index(order)), complete=False)
        wait_for(lambda: sent <= listed(client), "the new study in the list")
        known = listed(client)
    assert version > old_version
    epoch = cluster.master()["epoch"]
    for host in cluster.hosts:
        host.kill()
        # Processes of masters are what this is about: one web service to ask, no workers.
        host.configure(roles=["master", "gateway"] if host is cluster.hosts[0] else ["master"])
    first = cluster.hosts[order[0]]
    if order == OLD_INDEX:
        leave_old_index(first)
    if order == OLD_SETTINGS:
        leave_old_settings(first, {**old, "quiet_s": OLD_QUIET_S})
    for number in order:
        cluster.hosts[number].up()
        if number == 0:  # those before it wait for the head; those after it find it
            wait_for(cluster.hosts[0].ready, "the head to serve", START_S)
    for host in cluster.hosts:
        wait_for(host.ready, f"{host.name} to serve", START_S)
    move_master(cluster, first)
    with Client(cluster.hosts[0].url, patience_s=60) as client:
        now, settings = client.settings()
        assert (now, settings["quiet_s"]) == (version, quiet_s)
        assert listed(client) == known
        # Whoever is master now writes on from there.
        assert client.apply_settings({**settings, "quiet_s": quiet_s + 0.5}) > version
    master = cluster.master()
    assert (master["node"], master["epoch"] > epoch) == (first.name, True)


def listed(client: Client) -> set[str]:
    """Return the studies that the index has."""
    return {row["StudyInstanceUID"] for row in client.studies()}


def leave_old_index(host: Host) -> None:
    """Let a node have the SQLite index of its youth in its data folder, and bootstraps for it."""
    path = host.data_dir / "index" / "index.sqlite"
    path.parent.mkdir(exist_ok=True)
    engine = open_engine(f"sqlite:///{path}")
    migrate(engine)
    writer = IndexWriter.claim_epoch(engine, [], time.time())
    tiers = default_tiers(host.data_dir)
    writer.apply_settings(Settings(tiers=tiers, quiet_s=OLD_QUIET_S), "test", time.time())
    engine.dispose()
    embedded = {"data_dir": str(host.data_dir), "node_name": host.name}
    (host.data_dir / "run" / "bootstrap.json").write_text(json.dumps(embedded))
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in embedded.items()]
    (host.data_dir / "raypacs.toml").write_text("".join(lines))


def leave_old_settings(host: Host, settings: dict[str, object]) -> None:
    """Let a node have an older copy of the settings wherever one might look for them."""
    for folder in (host.data_dir, host.data_dir / "run", Path(host.config).parent):
        (folder / "settings.json").write_text(json.dumps(settings))


def test_the_cluster_goes_down_in_order(cluster: Cluster) -> None:
    """The last test of the cluster: it ends it, the head last, as an operator would.

    No master that any test killed, stopped or cut off ever wrote after the next one's claim.
    """
    cluster.start()
    assert [host.down() for host in reversed(cluster.hosts)] == [0, 0, 0]
    assert set(cluster.states().values()) == {"left"}
    with closing(Evidence(cluster)) as evidence:
        check_no_late_write(evidence)
