"""A master whose link to Ray is cut, while the database and the tiers are there for it (RAY.md 1).

Root only: each node is in a network namespace of its own. The data folders are each node's own;
only the tiers are shared.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing

import httpx
import pytest
from cluster_evidence import (
    Evidence,
    check_explained,
    check_no_late_write,
    check_old_ends_alone,
    take_over,
)
from cluster_hosts import Cluster, Host, asked, measured, move_master, networks, wait_for
from cluster_studies import check_prepared_once, send, studies, wait_prepared


class Orders(threading.Thread):
    """Has studies deleted through a node, one after another, until told to stop."""

    def __init__(self, host: Host, uids: set[str]) -> None:
        super().__init__(daemon=True)
        self._url, self._uids = host.url, sorted(uids)
        self.enough = threading.Event()
        self.obeyed: list[str] = []

    def run(self) -> None:
        for uid in self._uids:
            try:
                answer = httpx.delete(f"{self._url}/api/v1/studies/{uid}", timeout=10)
            except httpx.HTTPError:
                return
            if answer.status_code == 200:
                self.obeyed.append(uid)
            if self.enough.wait(0.5):
                return


@pytest.mark.skipif(not networks(), reason="network namespaces need root and ip")
def test_a_master_that_is_cut_off_changes_nothing(cluster: Cluster, hosts: list[Host]) -> None:
    """It goes on obeying those who reach it, until the next one claims; then it ends itself."""
    assert cluster.network is not None
    move_master(cluster, hosts[1])
    doomed = send(hosts[0], studies(40, 1, 7500), complete=False)
    with closing(Evidence(cluster)) as evidence:
        uids = send(hosts[0], studies(8, 4, 7000, size=256))
        before = cluster.master()
        begun = time.monotonic()
        cluster.network.cut(1)
        try:
            orders = Orders(hosts[1], doomed)
            orders.start()
            taken = take_over(evidence, before, begun)
            obeyed = len(orders.obeyed)
            held = time.monotonic()
            then = check_old_ends_alone(evidence, taken, frozen=False)
            held_s = time.monotonic() - held
            asked(hosts[0])
            answered_s = time.monotonic() - begun - held_s
            measured(
                "link of the master's node cut, until another master has claimed", taken.claimed_s
            )
            measured("link of the master's node cut, until a call is answered", answered_s)
            assert cluster.master()["node"] != "n2"
            # Work goes on without the node, which still has its tasks.
            wait_prepared(cluster, uids)
            check_prepared_once(cluster, uids)
            orders.enough.set()
        finally:
            cluster.network.heal(1)
        wait_for(lambda: not hosts[1].running(), "the cut-off node to notice")
        orders.join(30)
        print(f"\ncut off, the old master still obeyed {obeyed} orders before the claim")
        wait_for(lambda: not evidence.pending(), "the new master to have deleted what was ordered")
        check_explained(evidence, then, taken)
        check_no_late_write(evidence)
    reader = cluster.reader()
    left = {row["study_uid"] for row in reader.studies(limit=100_000)}
    reader.close()
    assert not left & set(orders.obeyed)
    check_prepared_once(cluster, uids)
