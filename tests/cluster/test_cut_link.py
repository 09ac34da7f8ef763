"""A master whose link is cut, while the disks of the tiers are still there for it (RAY.md 1).

Each node in a network namespace of its own: root only. The data folders are each node's own; only
the tiers are shared.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cluster_hosts import Network, cluster_of, wait_for
from cluster_studies import check_prepared_once, send, studies, wait_clean, wait_prepared
from postgres import postgres_server
from test_cluster import asked, audits_of, measured, move_master, newest_audit, share_tiers


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and ip"
)
def test_a_master_that_is_cut_off_changes_nothing(tmp_path: Path) -> None:
    with (
        Network(3) as network,
        postgres_server(tmp_path / "postgres", host=network.outside) as server,
        cluster_of(tmp_path, server, network=network) as cluster,
    ):
        cluster.start(0)
        share_tiers(cluster)
        cluster.start(1, 2)
        move_master(cluster, cluster.hosts[1])
        uids = send(cluster.hosts[2], studies(12, 4, 7000, size=256))
        before = cluster.master()
        network.cut(1)
        measured("link of the master's node cut, until a call is answered", asked(cluster.hosts[0]))
        after = cluster.master()
        assert after["epoch"] > before["epoch"]
        assert after["node"] != "n2"
        taken = newest_audit(cluster)
        # Work goes on without it, and what it may still write ends at the epoch and the tokens.
        wait_prepared(cluster, uids)
        check_prepared_once(cluster, uids)
        network.heal(1)
        wait_for(lambda: not cluster.hosts[1].running(), "the cut-off node to notice")
        assert audits_of(cluster, before["epoch"], since=taken) == []
        check_prepared_once(cluster, uids)
        cluster.start(1)
        wait_for(lambda: set(cluster.states().values()) == {"live"}, "three live nodes")
        wait_clean(cluster)
