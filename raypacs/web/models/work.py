"""Models of the work queue: items, filters, orders, states."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from raypacs import moments
from raypacs.web.models.base import Answer, Request

StateName = Literal[
    "SCHEDULED",
    "SCHEDULED FOR RETRY",
    "IN PROCESS",
    "COMPLETED",
    "WARNING",
    "FAILED",
    "CANCELED",
]
PriorityName = Literal["low", "medium", "high", "stat"]
Mode = Literal["same", "node", "spread"]

STATES: tuple[StateName, ...] = StateName.__args__  # type: ignore[attr-defined]
MAX_ID = 2**63 - 1
PRIORITIES: dict[int, PriorityName] = {0: "low", 10: "medium", 20: "high", 30: "stat"}


def _named(value: str) -> list[str]:
    """Return what is named, several by comma; an empty name would be a filter that is not there."""
    named = [one.strip() for one in value.split(",")]
    if not all(named):
        raise ValueError("no value; leave the key out, or say which")
    return named


def _states(value: str) -> str:
    """Return states, several by comma, as the task list names them."""
    named = [one.upper().replace("_", " ") for one in _named(value)]
    for one in named:
        if one not in STATES:
            raise ValueError(f"{one!r} is not one of {', '.join(STATES)}")
    return ",".join(named)


def _priorities(value: str) -> str:
    """Return priorities, several by comma."""
    named = [one.lower() for one in _named(value)]
    for one in named:
        if one not in PRIORITIES.values():
            raise ValueError(f"{one!r} is not one of {', '.join(PRIORITIES.values())}")
    return ",".join(named)


def _kinds(value: str) -> str:
    """Return kinds of work, several by comma; which there are, the master knows."""
    return ",".join(one.upper() for one in _named(_text(value)))


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("a character that no text has")
    return value


def _some(value: str) -> str:
    if not value.strip():
        raise ValueError("no value; leave the key out, or say which")
    return _text(value)


def _moment(value: str) -> str:
    """Return ISO 8601 or seconds as seconds since the Unix epoch; without a zone it is UTC."""
    return repr(moments.seconds_of(_some(value)))


def _number(value: str) -> str:
    if not (value.isascii() and value.isdigit() and int(value) <= MAX_ID):
        raise ValueError(f"{value[:40]!r} is not the number of an item")
    return value


def _due(value: Any) -> float | None:
    return None if value is None or value == "" else moments.seconds_of(value)


def _priority(value: Any) -> Any:
    return PRIORITIES.get(value, str(value)) if isinstance(value, int) else value


def _in_lower_case(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _in_upper_case(value: str) -> str:
    return _text(value).strip().upper()


Text = Annotated[str, AfterValidator(_text)]
Some = Annotated[str, AfterValidator(_some)]
Moment = Annotated[str, AfterValidator(_moment)]
Due = Annotated[float | None, BeforeValidator(_due)]
KindText = Annotated[str, AfterValidator(_in_upper_case)]
Wanted = Annotated[PriorityName, BeforeValidator(_in_lower_case)]


class TaskFilter(Request):
    """Which items; all that is given must hold, nothing given holds for every item.

    A key that is given has a value: an empty one would be an order for more than was meant.
    """

    item_id: Annotated[str, AfterValidator(_number)] = Field(
        default="", description="Number of one item"
    )
    kind: Annotated[str, AfterValidator(_kinds)] = Field(
        default="", description="Kind of work, as PREPARE; several by comma"
    )
    state: Annotated[str, AfterValidator(_states)] = Field(
        default="", description="State; several by comma, as FAILED,CANCELED"
    )
    node: Some = Field(default="", description="Node that has it or had it last; several by comma")
    wanted_node: Some = Field(default="", description="Node that it is bound to")
    study_uid: Some = Field(default="", description="Study Instance UID (0020,000D)")
    patient_id: Some = Field(default="", description="Patient ID (0010,0020) of its study")
    ae_title: Some = Field(default="", description="AE title that sent its study")
    priority: Annotated[str, AfterValidator(_priorities)] = Field(
        default="", description="low, medium, high or stat; several by comma"
    )
    created_after: Moment = Field(
        default="", description="ISO 8601 (UTC without a zone) or seconds"
    )
    created_before: Moment = Field(default="", description="As created_after; exclusive")
    updated_after: Moment = Field(default="", description="Last change; as created_after")
    updated_before: Moment = Field(
        default="", description="Last change; as created_after; exclusive"
    )
    error: Some = Field(default="", description="Part of the error text, upper or lower case")

    def given(self) -> dict[str, str]:
        """Return what was given, key to value."""
        names = TaskFilter.model_fields
        return {name: text for name in names if (text := str(getattr(self, name)))}


class TaskQuery(TaskFilter):
    """A page of the task list, newest items first."""

    limit: int = Field(100, ge=1, le=10_000, description="Most items returned")
    offset: int = Field(0, ge=0, le=10_000, description="Items to skip; further on: before_id")
    before_id: int = Field(
        0,
        ge=0,
        le=MAX_ID,
        description="Only items before this one: the next page, at any depth",
    )


class Task(Answer):
    """A work item."""

    item_id: int = Field(description="Its number")
    kind: str = Field(description="Kind of work")
    study_uid: str = Field(default="", description="Study Instance UID (0020,000D)")
    generation: int = Field(0, description="Generation of the study that it stands for")
    state: str = Field(description="State; one of " + ", ".join(STATES))
    priority: Annotated[str, BeforeValidator(_priority)] = Field(
        "medium", description="low, medium, high or stat"
    )
    due_s: float = Field(0.0, description="Not given out before; seconds since 1970, UTC")
    attempt: int = Field(0, description="Tries begun")
    deaths: int = Field(0, description="Attempts in a row whose node or dispatcher died")
    node: str = Field(default="", description="Node that has it or had it last")
    epoch: int = Field(0, description="Epoch in which it was given out")
    wanted_node: str = Field(default="", description="Node that it is bound to, '' any")
    expires_at_s: float = Field(0.0, description="End of its lease unless that is renewed")
    created_s: float = Field(0.0, description="When it was made")
    updated_s: float = Field(0.0, description="When it last changed")
    started_s: float = Field(0.0, description="When its last attempt began, 0 never")
    finished_s: float = Field(0.0, description="When it came to an end, 0 not yet")
    error: str = Field(default="", description="Why it failed, or waits for another try")
    note: str = Field(default="", description="What else happened, as: its node is gone")
    patient_id: str = Field(default="", description="Patient ID (0010,0020) of its study")
    ae_title: str = Field(default="", description="AE title that sent its study")
    payload: dict[str, Any] = Field(default_factory=dict, description="Options of its kind")


class TaskPage(Answer):
    """A page of the task list."""

    items: list[Task] = Field(description="Items, newest first")
    total: int = Field(description="How many match")
    total_is_exact: bool = Field(True, description="If false, at least that many match")


class Enqueue(Request):
    """A piece of work that is wanted."""

    kind: KindText = Field("PREPARE", description="Kind of work")
    study_uid: Text = Field(description="Study Instance UID (0020,000D)", min_length=1)
    priority: Wanted = Field("medium", description="Priority")
    at: Due = Field(default=None, description="Not before: ISO 8601 or seconds; without it, now")
    node: str = Field(default="", description="Node to bind it to, '' any")
    payload: dict[str, Any] = Field(default_factory=dict, description="Options of its kind")


class When(Request):
    """Do it again: when and where."""

    at: Due = Field(default=None, description="Not before: ISO 8601 or seconds; without it, now")
    nodes: list[str] = Field(
        default_factory=list, max_length=1000, description="Nodes to bind it to; none: as before"
    )
    mode: Mode | None = Field(
        default=None,
        description="same: the node it was on, any other if that is gone; node: the one named; "
        "spread: round-robin over those named. Without it, as many nodes as are named say",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mode is None:
            self.mode = "spread" if len(self.nodes) > 1 else "node" if self.nodes else "same"
        if self.mode == "same" and self.nodes:
            raise ValueError("mode same takes no nodes")
        if self.mode == "node" and len(self.nodes) != 1:
            raise ValueError("mode node takes exactly one node")
        if self.mode == "spread" and not self.nodes:
            raise ValueError("mode spread needs nodes")
        return self


class Selection(Request):
    """Items for an order: a filter, or all of them in so many words."""

    filter: TaskFilter = Field(
        default_factory=lambda: TaskFilter.model_validate({}), description="Which items"
    )
    all: bool = Field(False, description="Every item; needed where the filter is empty")

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if not self.filter.given() and not self.all:
            raise ValueError('say which items: a filter, or "all": true')
        return self


class RescheduleMany(When, Selection):
    """Do again all that match."""


class WantedPriority(Request):
    """A priority for an item."""

    priority: Wanted = Field(description="Priority")


class PriorityMany(WantedPriority, Selection):
    """Give a priority to all that match."""


class Refusal(Answer):
    """An item that an order left as it was."""

    item_id: int = Field(description="Number of the item")
    why: str = Field(description="Why")


class BulkAnswer(Answer):
    """What an order did."""

    matched: int = Field(description="Items that matched")
    changed: int = Field(description="Items that were changed")
    refused: list[Refusal] = Field(description="Some of those that were not, and why; at most 20")


class DeletedTask(Answer):
    """An item that is gone."""

    item_id: int = Field(description="Its number")
    deleted: bool = True


class KindName(Request):
    """The whole queue, or one kind of work."""

    kind: KindText = Field(default="", description="Kind of work; '' is the whole queue")


class KindState(Answer):
    """One kind of work."""

    state: str = Field(description="running, halting, halted or stalled")
    why: str = Field(default="", description="What it waits for")
    counts: dict[str, int] = Field(default_factory=dict, description="State to number of items")


class QueueState(Answer):
    """The whole queue."""

    state: str = Field(description="running, halting (work still runs), halted or stalled")
    why: str = Field(default="", description="What it waits for, or who halted it")
    kinds: dict[str, KindState] = Field(default_factory=dict, description="Each kind of work")
