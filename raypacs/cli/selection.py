"""Which work items an order is for: numbers, or filters as KEY=VALUE, or all in so many words."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass, field

from raypacs import moments
from raypacs.errors import ConfigError

FILTERS = (
    "kind",
    "state",
    "node",
    "wanted_node",
    "study_uid",
    "patient_id",
    "ae_title",
    "priority",
    "created_after",
    "created_before",
    "updated_after",
    "updated_before",
    "error",
)
_SHORT = {"study": "study_uid", "patient": "patient_id", "ae": "ae_title"}
_LATER = re.compile(r"\+(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Selection:
    """Items by number, or the filters that they match; no filters: all of them."""

    item_ids: tuple[int, ...] = ()
    filters: dict[str, str] = field(default_factory=dict)


def parse(words: list[str] | None, *, everything: bool = False) -> Selection:
    """Return what numbers or KEY=VALUE words choose; nothing at all needs ``everything``.

    Raises:
        ConfigError: a word is neither, both kinds are mixed, or nothing is said.
    """
    numbers = [word for word in words or () if "=" not in word]
    filters = filters_of([word for word in words or () if "=" in word])
    for number in numbers:
        if not (number.isascii() and number.isdigit()):
            raise ConfigError(f"{number!r} is neither the number of an item nor KEY=VALUE")
    if numbers and (filters or everything):
        raise ConfigError("say numbers, or filters, or --all: not several of them")
    if not numbers and not filters and not everything:
        raise ConfigError(
            "say which items", hint="numbers, filters as state=FAILED, or --all for every item"
        )
    return Selection(tuple(int(number) for number in numbers), filters)


def filters_of(words: list[str] | None) -> dict[str, str]:
    """Return KEY=VALUE words as filters; times without a zone are local.

    Raises:
        ConfigError: a word without ``=`` or value, a key that is there twice or unknown (names the
            nearest), a wrong time.
    """
    found: dict[str, str] = {}
    for word in words or ():
        key, assigned, value = word.partition("=")
        key = _SHORT.get(key, key)
        if not assigned:
            raise ConfigError(f"{word!r} is not KEY=VALUE, as in state=FAILED")
        if key not in FILTERS:
            near = difflib.get_close_matches(key, [*FILTERS, *_SHORT], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FILTERS)}"
            raise ConfigError(f"no filter {key!r}", hint=hint)
        # An order without the filter that was meant would be one for every item.
        if not value.strip():
            raise ConfigError(f"{word!r}: no value", hint="leave the filter out, or say which")
        if key in found:
            raise ConfigError(
                f"{word!r}: {key} is there twice", hint="several: state=FAILED,CANCELED"
            )
        is_time = key.endswith(("_after", "_before"))
        found[key] = repr(due_s(value)) if is_time else value
    return found


def due_s(value: str, now: float | None = None) -> float:
    """Return a time as seconds since the Unix epoch.

    ``value``: ISO 8601 (local without a zone), ``+90m`` from now (s, m, h, d), or seconds.

    Raises:
        ConfigError: none of them, or before 1970 or after year 9999.
    """
    later = _LATER.fullmatch(value.strip())
    try:
        if later:
            start = time.time() if now is None else now
            return moments.checked(start + float(later[1]) * _UNIT_S[later[2]])
        return moments.seconds_of(value, zone=None)
    except ValueError:
        raise ConfigError(
            f"{value!r} is not a time", hint="as 2026-03-01T22:00 (local time), or +2h"
        ) from None
