"""States of a work item (dcm4chee's words) and what may follow each: the transition table.

A waiting item is SCHEDULED or SCHEDULED FOR RETRY; a leased one is IN PROCESS; the rest are ends.
For a kind and study there is at most one waiting and one running item; the index holds that with
two partial unique indexes.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from raypacs.errors import IllegalTransition, InvalidQuery


class State(StrEnum):
    """State of a work item, as shown in the task list."""

    SCHEDULED = "SCHEDULED"
    SCHEDULED_FOR_RETRY = "SCHEDULED FOR RETRY"
    IN_PROCESS = "IN PROCESS"
    COMPLETED = "COMPLETED"
    WARNING = "WARNING"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class Event(StrEnum):
    """What can happen to a work item."""

    LEASE = "lease"  # a node took it
    COMPLETE = "complete"  # reported done
    WARN = "warn"  # reported done, with something an operator should read
    RETRY = "retry"  # the attempt failed, waits or died; another try follows
    FAIL = "fail"  # no further try
    CANCEL = "cancel"  # not wanted any more (study deleted, superseded, by an operator)
    RESCHEDULE = "reschedule"  # asked for again, or for another time or node


class Priority(IntEnum):
    """Higher goes first."""

    LOW = 0
    MEDIUM = 10
    HIGH = 20
    STAT = 30


def priority_of(name: str) -> Priority:
    """Return a priority by its name: low, medium, high or stat.

    Raises:
        InvalidQuery: there is no such priority.
    """
    try:
        return Priority[name.upper()]
    except KeyError:
        known = ", ".join(one.name.lower() for one in Priority)
        raise InvalidQuery(
            f"priority: no priority {name!r}; known: {known}", priority=name
        ) from None


WAITING = (State.SCHEDULED, State.SCHEDULED_FOR_RETRY)
FINISHED = (State.COMPLETED, State.WARNING, State.FAILED, State.CANCELED)

_WAITING_ROW = {
    Event.LEASE: State.IN_PROCESS,
    Event.CANCEL: State.CANCELED,
    Event.RESCHEDULE: State.SCHEDULED,
}
_FINISHED_ROW = {Event.RESCHEDULE: State.SCHEDULED}
# A failure that no longer matters: the study was deleted, or another item did its work.
_FAILED_ROW = {**_FINISHED_ROW, Event.CANCEL: State.CANCELED}

TRANSITIONS: dict[State, dict[Event, State]] = {
    State.SCHEDULED: _WAITING_ROW,
    State.SCHEDULED_FOR_RETRY: _WAITING_ROW,
    State.IN_PROCESS: {
        Event.COMPLETE: State.COMPLETED,
        Event.WARN: State.WARNING,
        Event.RETRY: State.SCHEDULED_FOR_RETRY,
        Event.FAIL: State.FAILED,
        Event.CANCEL: State.CANCELED,
    },
    State.COMPLETED: _FINISHED_ROW,
    State.WARNING: _FINISHED_ROW,
    State.FAILED: _FAILED_ROW,
    State.CANCELED: _FINISHED_ROW,
}


def transition(state: State, event: Event, *, story: str = "") -> State:
    """Return the state after ``event``; ``story`` says which item, for the error.

    Raises:
        IllegalTransition: the state does not have this event.
    """
    try:
        return TRANSITIONS[State(state)][event]
    except KeyError as exc:
        raise IllegalTransition(
            f"{story or 'work item'}: {event} is not possible while {state}",
            state=str(state),
            event=str(event),
            story=story,
        ) from exc
