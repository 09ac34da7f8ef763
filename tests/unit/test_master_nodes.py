"""The master's view of nodes: heard, refused, lost; where it is to move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from raypacs.errors import NotFound, StaleLease
from raypacs.index.engine import open_engine
from raypacs.index.schema import audit
from raypacs.index.writer import IndexWriter
from raypacs.master import Master
from raypacs.records import Lease, NodeAnswer, Poll
from tests.factories import instance_record, node_info

T = 1_700_000_000.0


class Site:
    """A master on node n1, its clock, and nodes that speak."""

    def __init__(self, folder: Path) -> None:
        self.now = T
        self.url = f"sqlite:///{folder / 'index.sqlite'}"
        self.folder = folder
        self.master = self.start()

    def start(self) -> Master:
        return Master(
            self.url, self.folder, clock=lambda: self.now, node="n1", bootstrap_hash="abc"
        )

    def seen(self, name: str = "n1", boot: str = "b1", **changes: object) -> NodeAnswer:
        return self.master.node_seen(replace(node_info(name, boot=boot), **changes))

    def states(self) -> dict[str, str]:
        return {node["name"]: node["state"] for node in self.master.status()["nodes"]}

    def wait(self, seconds: int) -> None:
        """Let time pass, with a tick each second."""
        for _ in range(seconds):
            self.now += 1
            self.master.tick()

    def lease(self, node: str) -> Lease:
        """Let ``node`` work on a study that has just come."""
        self.master.register([instance_record()])
        self.master.hint(["1.2.3"])
        self.master.tick()
        (lease,) = self.master.lease(node, ["PREPARE"], 1)
        return lease

    def events(self, event: str) -> list[str]:
        """The nodes of which an event is written down."""
        engine = open_engine(self.url)
        with engine.connect() as conn:
            query = sa.select(audit.c.node).where(audit.c.event == event)
            nodes = list(conn.execute(query).scalars())
        engine.dispose()
        return nodes


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.master.close()


def test_a_node_that_is_not_heard_is_lost_and_one_that_polls_is_not(site: Site) -> None:
    site.seen("n1")
    site.seen("n2")
    site.seen("n3")
    for _ in range(20):
        site.now += 1
        site.seen("n1")
        site.master.poll(Poll("n2", "b1", ("PREPARE",), (), 1))
        site.master.tick()
    assert site.states() == {"n1": "live", "n2": "live", "n3": "lost"}
    site.seen("n3")
    assert site.states()["n3"] == "live"


def test_a_new_master_gives_every_node_time_to_be_heard(site: Site) -> None:
    site.seen("n2")
    site.now += 100  # nobody was master for so long
    site.master.close()
    site.master = site.start()
    site.master.tick()
    site.seen("n2")
    site.wait(16)
    assert site.states() == {"n2": "lost"}


def test_restarts_are_those_of_the_master_and_not_of_maintenance(site: Site) -> None:
    assert site.master.restarts == 0
    site.master.close()
    engine = open_engine(site.url)
    IndexWriter.claim_epoch(engine, [], site.now)  # as `raypacs index reconcile` does
    engine.dispose()
    site.master = site.start()
    assert (site.master.epoch, site.master.restarts) == (3, 1)


def test_a_node_that_died_while_nobody_was_master_is_found_lost(site: Site) -> None:
    site.seen("n2")
    site.master.close()
    site.now += 1000
    site.master = site.start()
    site.wait(14)
    assert not site.events("node lost")
    site.wait(3)
    assert site.events("node lost") == ["n2"]


@pytest.mark.parametrize("step_s", [600.0, -600.0])
def test_a_master_that_was_away_takes_nobody_for_dead(site: Site, step_s: float) -> None:
    site.seen("n2")
    lease = site.lease("n2")
    site.wait(4)
    site.now += step_s  # it was stopped, or the clock was set
    ticked = site.master.tick()
    assert ticked.expired == ()
    assert site.states() == {"n2": "live"}
    site.wait(10)
    assert site.states() == {"n2": "live"}  # heard 14 s ago, if its absence is left out
    site.wait(2)
    assert site.states() == {"n2": "lost"}
    assert site.master.tick().expired == ()
    with pytest.raises(StaleLease):
        site.master.renew(lease)


def test_a_master_that_was_away_renews_before_it_looks(site: Site) -> None:
    site.seen("n2")
    lease = site.lease("n2")
    site.master.tick()
    site.now += 600  # and a poll comes before the next tick
    asked = Poll("n2", "b1", ("PREPARE",), ((lease.item_id, lease.token),), 1)
    answer = site.master.poll(asked)
    assert answer.stop == ()
    assert [renewed[0] for renewed in answer.renewed] == [lease.token]


def test_a_lease_outlives_the_time_without_a_master(site: Site) -> None:
    site.seen("n2")
    lease = site.lease("n2")
    site.master.close()
    site.now += 600
    site.master = site.start()
    assert site.master.tick().expired == ()
    assert site.master.renew(lease).expires_at_s == site.now + 60


def test_a_master_that_is_away_again_and_again_finds_the_dead(site: Site) -> None:
    site.seen("n2")
    for _ in range(4):
        site.now += 8
        site.master.tick()
    assert site.states() == {"n2": "lost"}


def test_another_configuration_is_refused_and_gets_no_work(site: Site) -> None:
    answer = site.seen("n2", bootstrap_hash="other")
    assert answer.problems[0].startswith("refused: its configuration")
    assert site.states() == {"n2": "refused"}


@pytest.mark.parametrize("changes", [{"bootstrap_hash": "other"}, {"version": "0.0.9"}])
def test_a_refused_node_takes_nothing_from_one_of_its_name(
    site: Site, changes: dict[str, str]
) -> None:
    site.seen("n2", boot="b1")
    lease = site.lease("n2")
    assert "refused" in site.seen("n2", boot="b2", **changes).problems[0]
    assert site.states() == {"n2": "live"}
    site.master.node_left("n2", "b2")
    assert site.seen("n2", boot="b1") == NodeAnswer()
    site.master.tick()
    assert site.master.renew(lease).token == lease.token


def test_the_end_of_an_earlier_life_does_not_hide_the_loss_of_a_later(site: Site) -> None:
    site.seen("n2", boot="b1")
    site.seen("n2", boot="b2")
    site.master.node_left("n2", "b1")
    site.wait(16)
    assert site.events("node lost") == ["n2"]


def test_the_earlier_of_two_nodes_of_one_name_is_refused(site: Site) -> None:
    site.seen("n2", boot="b1")
    site.seen("n2", boot="b2")
    assert "taken its name" in site.seen("n2", boot="b1").problems[0]
    assert site.seen("n2", boot="b2") == NodeAnswer()


def test_a_move_is_told_once_to_the_node_that_is_to_take_over(site: Site) -> None:
    site.seen("n1")
    site.seen("n2")
    assert site.master.move_master("", "somebody") == {"from": "n1", "to": "n2", "epoch": 1}
    assert not site.seen("n1").take_master
    assert site.seen("n2").take_master
    assert not site.seen("n2").take_master


@pytest.mark.parametrize("to", ["n9", "worker", ""])
def test_a_move_to_a_node_that_cannot_be_master_is_refused(site: Site, to: str) -> None:
    site.seen("n1")
    site.seen("worker", roles=("worker",))
    with pytest.raises(NotFound):
        site.master.move_master(to, "somebody")


def test_a_drained_node_is_described(site: Site) -> None:
    site.seen("n2")
    assert site.master.drain("n2", "somebody")["state"] == "drained"
    assert site.master.undrain("n2", "somebody")["state"] == "live"
    with pytest.raises(NotFound):
        site.master.drain("n9", "somebody")


def test_an_orderly_end_is_not_a_loss(site: Site) -> None:
    site.seen("n2")
    site.master.node_left("n2", "b1")
    site.now += 100
    site.master.tick()
    assert site.states() == {"n2": "left"}
