"""Filters of the task list, as an operator writes them, into conditions on items.

Keys (all values text, none of them empty): item_id; kind, state, priority, node (several by comma);
wanted_node, study_uid, patient_id, ae_title (exact); created_after, created_before, updated_after,
updated_before (ISO 8601, without an offset in UTC, or seconds since 1970; after is inclusive,
before exclusive); error (part of the text, upper or lower case).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs import moments
from raypacs.errors import InvalidQuery
from raypacs.index.schema import work_items
from raypacs.policy.kinds import kind_of
from raypacs.policy.queue import State, priority_of

_EXACT = ("wanted_node", "study_uid", "patient_id")
_TIMES = ("created_after", "created_before", "updated_after", "updated_before")


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """A filter, read: what facets tell, and what items tell (as column or time to its value)."""

    facets: Mapping[str, tuple[Any, ...]]
    exact: Mapping[str, Any]
    times: Mapping[str, float]
    error: str = ""

    @property
    def conditions(self) -> list[sa.ColumnElement[bool]]:
        """Everything, as conditions on an item."""
        found = [work_items.c[name].in_(values) for name, values in self.facets.items()]
        return [*found, *self.row_conditions]

    @property
    def row_conditions(self) -> list[sa.ColumnElement[bool]]:
        """What facets do not tell, as conditions on an item."""
        found = [work_items.c[name] == value for name, value in self.exact.items()]
        for name, at_s in self.times.items():
            column = work_items.c[f"{name.partition('_')[0]}_s"]
            found.append(column >= at_s if name.endswith("_after") else column < at_s)
        if self.wanted_node:
            found.append(work_items.c.wanted_node != sa.literal_column("''"))
        if self.error:
            found += [work_items.c.error != sa.literal_column("''"), _contains(self.error)]
        return found

    @property
    def wanted_node(self) -> str:
        """The node that items are bound to; its index holds bound items alone."""
        return str(self.exact.get("wanted_node", ""))


def read_filter(given: Mapping[str, str]) -> TaskFilter:
    """Read a filter.

    Raises:
        InvalidQuery: an unknown key, or a value that cannot be; names the key.
    """
    known = {*_EXACT, *_TIMES, *_FACETS, "item_id", "error"}
    wanted = {name: str(value) for name, value in given.items()}
    unknown = sorted(wanted.keys() - known)
    if unknown:
        raise InvalidQuery(
            f"{unknown[0]}: no such filter; known: {', '.join(sorted(known))}", key=unknown[0]
        )
    for name, value in wanted.items():
        # Without it, an order would be one for more items than was meant.
        if not value.strip():
            raise InvalidQuery(f"{name}: no value", key=name)
    exact: dict[str, Any] = {name: wanted[name] for name in _EXACT if name in wanted}
    if "item_id" in wanted:
        exact["item_id"] = _number("item_id", wanted["item_id"])
    return TaskFilter(
        facets={
            name: tuple(read(value) for value in _named(name, wanted[name]))
            for name, read in _FACETS.items()
            if name in wanted
        },
        exact=exact,
        times={name: _time(name, wanted[name]) for name in _TIMES if name in wanted},
        error=wanted.get("error", ""),
    )


def _contains(text: str) -> sa.ColumnElement[bool]:
    """Return the condition that an item's error has ``text`` in it, upper or lower case.

    SQLite, and PostgreSQL with its collation "C", fold ASCII alone: of any other character both
    cases are looked for.
    """
    error = sa.func.lower(work_items.c.error)
    if text.isascii():
        return error.contains(text.lower(), autoescape=True)
    return error.regexp_match("".join(_either_case(one) for one in text.lower()))


def _either_case(character: str) -> str:
    """Return a regular expression, the same for both databases, for both cases of a character."""
    if character.isascii():
        return re.escape(character)
    # The upper case of some (as sharp s) is two characters: those have one case here.
    cases = {character, character.upper()} if len(character.upper()) == 1 else {character}
    return f"[{''.join(sorted(cases))}]"


def _named(key: str, value: str) -> list[str]:
    """Return what is named, several by comma; an AE title may have a comma in it."""
    named = [value.strip()] if key == "ae_title" else [one.strip() for one in value.split(",")]
    if not all(named):
        raise InvalidQuery(f"{key}: no value between the commas", key=key)
    return named


def _state(text: str) -> str:
    try:
        return State(text.upper()).value
    except ValueError:
        known = ", ".join(State)
        raise InvalidQuery(f"state: no state {text!r}; known: {known}", key="state") from None


_FACETS: dict[str, Callable[[str], Any]] = {
    "kind": lambda text: kind_of(text.upper()).name,
    "state": _state,
    "node": str,
    "ae_title": str,
    "priority": lambda text: int(priority_of(text)),
}


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise InvalidQuery(f"{name}: {text!r} is not a number", key=name)
    return int(text)


def _time(name: str, text: str) -> float:
    try:
        return moments.seconds_of(text)
    except ValueError as exc:
        raise InvalidQuery(f"{name}: {exc}", key=name) from None
