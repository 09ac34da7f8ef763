"""Nodes on both databases: seen, lost, left, drained; what they held goes to others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from raypacs.errors import NotFound
from raypacs.index.schema import work_items
from tests.contract.queue_world import Queue, T, queue_at
from tests.factories import node_info


@pytest.fixture
def queue(database_url: str) -> Iterator[Queue]:
    with queue_at(database_url) as made:
        made.node("n1")
        made.node("n2")
        yield made


def states(queue: Queue, now: float = T) -> dict[str, str]:
    return {node["name"]: node["state"] for node in queue.reader.nodes(now)}


def running(queue: Queue, node: str) -> None:
    """Node gets the one item there is."""
    queue.study("1.2.3")
    queue.quiet("1.2.3", T)
    assert len(queue.writer.lease(node, ["PREPARE"], 5, T + 10)) == 1


def events(queue: Queue) -> list[str]:
    with queue.engine.connect() as conn:
        rows = conn.execute(sa.text("SELECT event FROM audit WHERE node IN ('n1', 'n2')"))
        return [event for event in rows.scalars() if event.startswith("node")]


def test_a_lost_nodes_work_is_given_to_another_at_once(queue: Queue) -> None:
    running(queue, "n1")
    (dead,) = queue.writer.nodes_lost(["n1"], T + 11)
    assert dead.node == "n1"
    assert states(queue, T + 11) == {"n1": "lost", "n2": "live"}
    (again,) = queue.writer.lease("n2", ["PREPARE"], 1, T + 20)
    assert again.token != dead.token
    assert again.attempt == dead.attempt  # a death is no try
    assert [token for token, _, _ in queue.writer.sweepable(T + 20)] == [dead.token]


def test_a_lost_node_that_comes_back_is_told_so_in_the_story(queue: Queue) -> None:
    queue.writer.nodes_lost(["n1"], T + 11)
    queue.writer.node_seen(node_info("n1"), T + 30)
    assert states(queue, T + 30)["n1"] == "live"
    assert events(queue)[-2:] == ["node lost", "node back"]


@pytest.mark.parametrize("how", ["lost", "left"])
def test_items_bound_to_a_node_that_is_gone_go_to_any(queue: Queue, how: str) -> None:
    queue.study("1.2.3")
    queue.quiet("1.2.3", T)
    with queue.engine.begin() as conn:
        conn.execute(sa.update(work_items).values(wanted_node="n1"))
    assert queue.writer.lease("n2", ["PREPARE"], 1, T + 10) == []
    if how == "lost":
        queue.writer.nodes_lost(["n1"], T + 11)
    else:
        queue.writer.node_left("n1", "b1", T + 11)
    assert len(queue.writer.lease("n2", ["PREPARE"], 1, T + 12)) == 1
    with queue.engine.connect() as conn:
        assert conn.execute(sa.select(work_items.c.note)).scalar() == "node n1 is gone, so any"


def test_a_refused_node_takes_nothing_from_one_of_its_name(queue: Queue) -> None:
    running(queue, "n1")
    queue.writer.node_seen(node_info("n1", boot="b2"), T + 11, ("refused: its version",))
    assert states(queue, T + 11)["n1"] == "live"
    assert queue.writer.expire(T + 12) == []
    queue.writer.nodes_lost(["n1"], T + 13)
    queue.writer.node_seen(node_info("n1", boot="b2"), T + 14, ("refused: its version",))
    assert states(queue, T + 14)["n1"] == "refused"


@pytest.mark.parametrize("away_s", [500.0, -5.0])
def test_leases_get_back_the_time_in_which_there_was_no_master(queue: Queue, away_s: float) -> None:
    queue.study("1.2.3")
    queue.quiet("1.2.3", T)
    (lease,) = queue.writer.lease("n1", ["PREPARE"], 1, T)
    queue.writer.master_was_away(T + 20, T + 20 + away_s)
    assert queue.writer.expire(lease.expires_at_s + away_s - 1) == []
    queue.writer.master_was_away(T + 1000, T + 1500)  # it had ended before
    assert len(queue.writer.expire(lease.expires_at_s + away_s)) == 1


def test_an_end_in_order_of_an_earlier_life_changes_nothing(queue: Queue) -> None:
    running(queue, "n1")
    assert queue.writer.node_left("n1", "an earlier boot", T + 11) == []
    assert states(queue, T + 11)["n1"] == "live"
    assert len(queue.writer.node_left("n1", "b1", T + 12)) == 1
    assert states(queue, T + 12)["n1"] == "left"


def test_draining_is_a_state_and_survives_a_restart(queue: Queue) -> None:
    running(queue, "n1")
    queue.writer.drain("n1", "somebody", T + 11, draining=True)
    assert states(queue, T + 11)["n1"] == "draining"
    queue.writer.node_seen(node_info("n1", boot="b2"), T + 12)
    queue.writer.expire(T + 12)
    assert states(queue, T + 12)["n1"] == "drained"
    queue.writer.drain("n1", "somebody", T + 13, draining=False)
    assert states(queue, T + 13)["n1"] == "live"
    with pytest.raises(NotFound):
        queue.writer.drain("nobody", "somebody", T + 14, draining=True)


def test_heartbeats_of_many_are_one_write(queue: Queue) -> None:
    queue.writer.nodes_heard({"n1": T + 40, "n2": T + 41}, T + 42)
    seen = {node["name"]: node["seen_s"] for node in queue.reader.nodes(T + 42)}
    assert seen == {"n1": T + 40, "n2": T + 41}


def test_problems_are_shown_and_written_down_once(queue: Queue) -> None:
    for now in (T + 1, T + 2):
        queue.writer.node_seen(node_info("n1"), now, ("refused: its version",))
    assert states(queue, T + 2)["n1"] == "refused"
    assert events(queue).count("node problems") == 1
