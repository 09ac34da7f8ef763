"""Three nodes, PostgreSQL and Redis: what dies, freezes or is moved, and what then still holds.

One cluster for all tests; ``hosts`` starts again what the test before killed. Measured times are
printed and, with RAYPACS_FAILOVER_JSON set, written as figures for the README; nothing asserts
them.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import closing
from functools import partial

import psutil
import sqlalchemy as sa
from cluster_evidence import (
    Evidence,
    check_explained,
    check_no_late_write,
    check_old_ends_alone,
    take_over,
)
from cluster_hosts import Cluster, Host, asked, measured, move_master, wait_for
from cluster_studies import (
    check_prepared_once,
    send,
    studies,
    uids_of,
    wait_clean,
    wait_prepared,
)

from raypacs.client import Client
from raypacs.index.engine import open_engine

CHAOS_STUDIES = 200
CHAOS_KILLS = 8
CHAOS_SEED = 20


def workers_of(cluster: Cluster) -> set[str]:
    """Names of nodes that were ever given work."""
    engine = open_engine(cluster.index_url, read_only=True)
    with engine.connect() as conn:
        found = set(conn.execute(sa.text("SELECT DISTINCT node FROM work_items")).scalars())
    engine.dispose()
    return found - {""}


def test_work_is_done_by_all_nodes_whichever_received_it(
    cluster: Cluster, hosts: list[Host]
) -> None:
    uids = send(hosts[1], studies(12, 4, 1000, size=256))
    wait_prepared(cluster, uids)
    check_prepared_once(cluster, uids)
    assert len(workers_of(cluster)) > 1
    told = cluster.master()
    assert {"node", "pid", "host", "epoch", "since_s", "restarts", "state"} <= told.keys()


def test_the_master_moves_where_it_is_told(cluster: Cluster, hosts: list[Host]) -> None:
    before = cluster.master()
    target = next(host for host in hosts if host.name != before["node"])
    begun = time.monotonic()
    move_master(cluster, target)
    asked(hosts[0])
    measured("master moved to another node, until calls succeed", time.monotonic() - begun)
    assert cluster.master()["epoch"] > before["epoch"]


def test_a_drained_node_gets_nothing_new(cluster: Cluster, hosts: list[Host]) -> None:
    hosts[0].cli("node", "drain", "n3")
    before = set(items_of(cluster, "n3"))
    uids = send(hosts[1], studies(6, 2, 2000))
    wait_prepared(cluster, uids)
    assert set(items_of(cluster, "n3")) == before
    wait_for(lambda: cluster.states()["n3"] == "drained", "n3 to be drained")
    hosts[1].cli("node", "undrain", "n3")
    assert cluster.states()["n3"] == "live"


def items_of(cluster: Cluster, name: str) -> list[int]:
    """Ids of items that a node has or had."""
    engine = open_engine(cluster.index_url, read_only=True)
    with engine.connect() as conn:
        query = sa.text("SELECT item_id FROM work_items WHERE node = :name")
        found = list(conn.execute(query, {"name": name}).scalars())
    engine.dispose()
    return found


def in_flight(cluster: Cluster, but: str = "") -> bool:
    """Whether any attempt runs, on another node than ``but``."""
    engine = open_engine(cluster.index_url, read_only=True)
    with engine.connect() as conn:
        query = sa.text(
            "SELECT COUNT(*) FROM work_items WHERE state = 'IN PROCESS' AND node <> :but"
        )
        count = conn.execute(query, {"but": but}).scalar_one()
    engine.dispose()
    return bool(count)


def test_the_masters_process_is_killed(cluster: Cluster, hosts: list[Host]) -> None:
    uids = send(hosts[1], studies(12, 4, 3000, size=256))
    wait_for(lambda: in_flight(cluster), "work in flight")
    before, lost_before = cluster.master(), deaths(cluster)
    os.kill(before["pid"], signal.SIGKILL)
    measured("kill -9 of the master's process, until a call is answered", asked(hosts[0]))
    assert cluster.master()["epoch"] > before["epoch"]
    wait_prepared(cluster, uids)
    check_prepared_once(cluster, uids)
    assert deaths(cluster) == lost_before  # no work was lost: dispatchers own their tasks


def deaths(cluster: Cluster) -> int:
    """How many attempts died, ever."""
    engine = open_engine(cluster.index_url, read_only=True)
    with engine.connect() as conn:
        query = sa.text(
            "SELECT COUNT(*) FROM audit WHERE event = 'scheduled for retry' "
            "AND CAST(detail AS TEXT) LIKE '%waits for another try%'"
        )
        count = int(conn.execute(query).scalar_one())
    engine.dispose()
    return count


def test_the_masters_process_freezes(cluster: Cluster, hosts: list[Host]) -> None:
    before = cluster.master()
    frozen = psutil.Process(before["pid"])
    frozen.suspend()
    try:
        measured("SIGSTOP of the master's process, until a call is answered", asked(hosts[1]))
        assert cluster.master()["epoch"] > before["epoch"]
    finally:
        if frozen.is_running():
            frozen.resume()
    wait_for(lambda: not frozen.is_running(), "the frozen master to be gone")


def test_the_masters_node_is_killed(cluster: Cluster, hosts: list[Host]) -> None:
    move_master(cluster, hosts[1])
    uids = send(hosts[0], studies(12, 4, 4000, size=256))
    wait_for(lambda: in_flight(cluster), "work in flight")
    before, lost_before = cluster.master(), deaths(cluster)
    begun = time.monotonic()
    hosts[1].kill()
    measured("kill -9 of the master's node, until a call is answered", asked(hosts[0]))
    wait_for(lambda: cluster.states()["n2"] == "lost", "n2 to count as lost")
    measured("kill -9 of a node, until its work is given to others", time.monotonic() - begun)
    assert cluster.master()["epoch"] > before["epoch"]
    wait_prepared(cluster, uids)
    check_prepared_once(cluster, uids)
    print(f"attempts lost with the node: {deaths(cluster) - lost_before}")


def test_a_node_with_another_configuration_is_refused(cluster: Cluster) -> None:
    node = cluster.hosts[1]
    if node.running():
        node.down()
    node.configure(ae_title="OTHER")
    try:
        node.up()
        assert node.process is not None
        assert node.process.wait(180) != 0
        assert "refuses node n2" in node.said()
        assert cluster.states()["n2"] == "refused"
    finally:
        node.configure(ae_title="RAYPACS")


def test_the_head_is_killed(cluster: Cluster, hosts: list[Host]) -> None:
    move_master(cluster, hosts[2])
    uids = send(hosts[1], studies(12, 4, 5000, size=256))
    wait_for(lambda: in_flight(cluster), "work in flight")
    before, lost_before = cluster.master(), deaths(cluster)
    hosts[0].kill()
    measured("kill -9 of the head, until a call through another node is answered", asked(hosts[1]))
    assert cluster.master()["pid"] == before["pid"]  # the same master went on
    begun = time.monotonic()
    cluster.start(0)
    measured("the head restarted, until its node serves", time.monotonic() - begun)
    wait_prepared(cluster, uids)
    check_prepared_once(cluster, uids)
    print(f"attempts lost with the head: {deaths(cluster) - lost_before}")


def test_the_head_is_killed_with_the_master(cluster: Cluster, hosts: list[Host]) -> None:
    """The head is started again at once, as systemd does; others have work in flight meanwhile."""
    move_master(cluster, hosts[0])
    uids = send(hosts[1], studies(12, 4, 5500, size=256))
    wait_for(lambda: in_flight(cluster, but="n1"), "work in flight elsewhere")
    before, lost_before = cluster.master(), deaths(cluster)
    begun = time.monotonic()
    hosts[0].kill()
    hosts[0].up()
    asked(hosts[1])
    measured(
        "kill -9 of the head that holds the master, until a call is answered",
        time.monotonic() - begun,
    )
    assert cluster.master()["epoch"] > before["epoch"]
    wait_for(hosts[0].ready, "the head to serve")
    measured(
        "kill -9 of the head that holds the master, until its node serves", time.monotonic() - begun
    )
    wait_prepared(cluster, uids)
    check_prepared_once(cluster, uids)
    print(f"attempts lost with head and master: {deaths(cluster) - lost_before}")


def test_a_frozen_node_changes_nothing_when_it_goes_on(cluster: Cluster, hosts: list[Host]) -> None:
    """The old master is stopped while it deletes bytes, and goes on alone: Ray cannot end it."""
    move_master(cluster, hosts[1])
    doomed = studies(1, 250, 6500)
    send(hosts[0], doomed, complete=False)
    with closing(Evidence(cluster)) as evidence:
        before = cluster.master()
        with Client(hosts[0].url, patience_s=60) as client:
            client.delete_study(*uids_of(doomed))
        uids = send(hosts[0], studies(8, 4, 6000, size=256))
        wait_for(lambda: len(evidence.pending()) < 250, "the first bytes to go")
        master = psutil.Process(before["pid"])
        master.suspend()
        begun = time.monotonic()
        hosts[1].freeze()
        try:
            taken = take_over(evidence, before, begun)
            held = time.monotonic()
            then = check_old_ends_alone(evidence, taken, frozen=True)
            held_s = time.monotonic() - held
            asked(hosts[0])
            answered_s = time.monotonic() - begun - held_s
            measured(
                "SIGSTOP of the master's node, until another master has claimed", taken.claimed_s
            )
            measured("SIGSTOP of the master's node, until a call is answered", answered_s)
        finally:
            hosts[1].thaw()
        wait_for(lambda: not hosts[1].running(), "the node to notice that it is out")
        wait_prepared(cluster, uids)
        check_prepared_once(cluster, uids)
        wait_for(lambda: not evidence.pending(), "the new master to have deleted the rest")
        check_explained(evidence, then, taken)
        check_no_late_write(evidence)


def victims() -> list[str]:
    """Return what is killed, in a random order: each at least once, masters twice.

    Not the head, whose death has tests of its own: here it would end every worker at once.
    """
    chance = random.Random(CHAOS_SEED)
    found = ["master", "master", "dispatcher", "n2", "n3"]
    found += chance.choices(sorted(set(found)), k=CHAOS_KILLS - len(found))
    chance.shuffle(found)
    return found


def kill(cluster: Cluster, what: str, chance: random.Random) -> None:
    """Kill a master, a dispatcher or a node, which is started again at once."""
    if what == "master":
        os.kill(cluster.master()["pid"], signal.SIGKILL)
    elif what == "dispatcher":
        host = chance.choice([host for host in cluster.hosts if host.node_json.is_file()])
        for process in host.find("ray::Dispatcher"):
            process.kill()
    else:
        host = cluster.hosts[int(what[1:]) - 1]
        host.kill()
        host.up()


def serves(host: Host) -> bool:
    """Whether a node serves; it is started again if Ray has ended under it, as systemd does."""
    if not host.running():
        host.up()
    return host.node_json.is_file()


def test_chaos(cluster: Cluster, hosts: list[Host]) -> None:
    """Each kill comes while the last batch of studies is in preparation."""
    sent = studies(CHAOS_STUDIES, 2, 10_000)
    chance, each = random.Random(CHAOS_SEED), CHAOS_STUDIES // CHAOS_KILLS
    begun, lost_before = time.monotonic(), deaths(cluster)
    uids: set[str] = set()
    killed = victims()
    for number, what in enumerate(killed):
        if what in ("n2", "n3"):
            wait_for(partial(serves, hosts[int(what[1:]) - 1]), f"{what} to serve", 180)
        uids |= send(hosts[0], sent[number * each : (number + 1) * each])
        wait_for(lambda: in_flight(cluster), "work in flight")
        time.sleep(chance.uniform(0.0, 0.5))
        kill(cluster, what, chance)
    wait_for(lambda: all(map(serves, hosts)), "all nodes to serve", 180)
    print(f"\nchaos: {len(killed)} kills: {killed}")
    assert len(uids) == CHAOS_STUDIES
    wait_prepared(cluster, uids)
    print(
        f"chaos: {len(uids)} studies prepared after {time.monotonic() - begun:.0f} s; "
        f"attempts that died: {deaths(cluster) - lost_before}"
    )
    check_prepared_once(cluster, uids)
    wait_for(lambda: not in_flight(cluster), "no item IN PROCESS")
    # What an attempt leaves whose dispatcher dies after the report is swept every minute, and by
    # each new master: so nothing but such parts before, nothing at all after.
    wait_clean(cluster, but_parts=True)
    move_master(cluster, next(host for host in hosts if host is not cluster.master_host()))
    wait_clean(cluster)
