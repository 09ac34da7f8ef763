"""What the master answers polls from memory."""

from __future__ import annotations

import pytest

from raypacs.master.polls import Polls
from raypacs.records import Poll

T = 1000.0


def _poll(node: str, running: tuple[tuple[int, str], ...] = ()) -> Poll:
    return Poll(node, f"boot of {node}", ("PREPARE",), running, 4)


@pytest.fixture
def polls() -> Polls:
    """Two idle nodes; nothing waits for either before T + 100."""
    found = Polls()
    for node in ("a", "b"):
        assert found.answer(_poll(node), T) is None
        found.idle(_poll(node), T + 100)
    return found


def test_an_idle_node_is_answered_until_something_comes_due(polls: Polls) -> None:
    answer = polls.answer(_poll("a"), T + 99)
    assert answer is not None
    assert answer.leases == ()
    assert polls.answer(_poll("a"), T + 100) is None


def test_a_node_that_never_polled_asks_the_index(polls: Polls) -> None:
    polls.idle(_poll("a"), T + 100, nobody=True)
    assert polls.answer(_poll("c"), T + 1) is None


def test_a_change_lets_every_node_ask_again(polls: Polls) -> None:
    polls.changed()
    assert polls.answer(_poll("a"), T + 1) is None
    assert polls.answer(_poll("b"), T + 1) is None


def test_one_poll_that_finds_nothing_due_answers_for_all_idle_nodes(polls: Polls) -> None:
    polls.changed()
    assert polls.answer(_poll("a"), T + 1) is None
    polls.idle(_poll("a"), T + 50, nobody=True)
    assert polls.answer(_poll("b"), T + 2) is not None
    assert polls.answer(_poll("b"), T + 50) is None


def test_what_waits_for_others_only_is_no_answer_for_all(polls: Polls) -> None:
    polls.changed()
    assert polls.answer(_poll("a"), T + 1) is None
    polls.idle(_poll("a"), T + 50)
    assert polls.answer(_poll("b"), T + 2) is None


def test_a_node_whose_answer_was_lost_is_not_taken_for_idle(polls: Polls) -> None:
    """It was given a lease and never heard of it: the index has to be asked until it did."""
    polls.changed()
    assert polls.answer(_poll("a"), T + 1) is None  # and it was given a lease: not idle
    assert polls.answer(_poll("b"), T + 1) is None
    polls.idle(_poll("b"), T + 50, nobody=True)
    assert polls.answer(_poll("a"), T + 2) is None


def test_a_node_that_works_asks_the_index_and_is_idle_no_more(polls: Polls) -> None:
    assert polls.answer(_poll("a", ((1, "token"),)), T + 1) is None
    assert polls.answer(_poll("a"), T + 2) is None


def test_nodes_poll_the_less_often_the_more_there_are() -> None:
    polls = Polls()
    for number in range(1000):
        polls.answer(_poll(f"node-{number}"), T)
    assert polls.poll_after_s(T) == 5.0
    polls.answer(_poll("node-0"), T + 100)
    assert polls.poll_after_s(T + 100) == 0.25
