"""The transition table against an independent one: every state with every event."""

from __future__ import annotations

import itertools

import pytest

from raypacs.errors import IllegalTransition
from raypacs.policy.queue import FINISHED, WAITING, Event, State, transition

# Written down from the task list's description, not from the code. Everything else is illegal.
LEGAL = """
SCHEDULED            lease       IN PROCESS
SCHEDULED            cancel      CANCELED
SCHEDULED            reschedule  SCHEDULED
SCHEDULED FOR RETRY  lease       IN PROCESS
SCHEDULED FOR RETRY  cancel      CANCELED
SCHEDULED FOR RETRY  reschedule  SCHEDULED
IN PROCESS           complete    COMPLETED
IN PROCESS           warn        WARNING
IN PROCESS           retry       SCHEDULED FOR RETRY
IN PROCESS           fail        FAILED
IN PROCESS           cancel      CANCELED
COMPLETED            reschedule  SCHEDULED
WARNING              reschedule  SCHEDULED
FAILED               reschedule  SCHEDULED
FAILED               cancel      CANCELED
CANCELED             reschedule  SCHEDULED
"""
TABLE = {
    (line[:21].strip(), line[21:33].strip()): line[33:].strip()
    for line in LEGAL.strip().splitlines()
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_cell_of_the_table(state: State, event: Event) -> None:
    expected = TABLE.get((state.value, event.value))
    if expected is not None:
        assert transition(state, event).value == expected
        return
    with pytest.raises(IllegalTransition, match="item 7") as caught:
        transition(state, event, story="item 7")
    assert caught.value.fields["state"] == state.value
    assert caught.value.fields["event"] == event.value


def test_each_state_waits_runs_or_is_an_end() -> None:
    assert len(TABLE) == 16
    assert {*WAITING, *FINISHED, State.IN_PROCESS} == set(State)
    assert not set(WAITING) & set(FINISHED)
