"""The master's view of nodes: heard, refused, lost; where it is to move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from raypacs.errors import NotFound
from raypacs.master import Master
from raypacs.records import NodeAnswer, Poll
from tests.factories import node_info

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
    site.now += 16
    site.master.tick()
    assert site.states() == {"n2": "lost"}


def test_another_configuration_is_refused_and_gets_no_work(site: Site) -> None:
    answer = site.seen("n2", bootstrap_hash="other")
    assert answer.problems[0].startswith("refused: its configuration")
    assert site.states() == {"n2": "refused"}


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
