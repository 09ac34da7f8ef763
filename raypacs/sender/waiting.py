"""Wait until studies are prepared: asks the node again and again, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from raypacs.client import Client
from raypacs.errors import MasterUnavailable, RaypacsError

POLL_S = 0.5
FAILED = "failed"


@dataclass(frozen=True)
class Prepared:
    """How far preparation is; ``failed`` names studies that were given up."""

    objects: int
    prepared: int
    failed: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether every object is prepared."""
        return self.prepared >= self.objects

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "objects": self.objects,
            "prepared": self.prepared,
            "failed": list(self.failed),
            "reasons": list(self.reasons),
        }


def look(client: Client, study_uids: Collection[str] | None = None) -> Prepared:
    """Return how far the given studies are; without any, everything in the index.

    Raises:
        NotFound: one of the studies is not there.
    """
    if study_uids is None:
        told = client.status()
        counts = told["instances"]
        names = _failed_items(client) if told["studies"].get(FAILED) else {}
        return Prepared(counts["received"], counts["prepared"], tuple(names), _reasons(names))
    rows = [client.study(uid)["study"] for uid in study_uids]
    names = {}
    for uid, row in zip(study_uids, rows, strict=True):
        if row.get("state") == FAILED:
            names |= _failed_items(client, study_uid=uid) or {uid: ""}
    return Prepared(
        sum(int(row["instance_count"]) for row in rows),
        sum(int(row["prepared_count"]) for row in rows),
        tuple(names),
        _reasons(names),
    )


def until_prepared(
    client: Client,
    study_uids: Collection[str] | None = None,
    *,
    timeout_s: float,
    shown: Callable[[Prepared], None],
) -> Prepared:
    """Return when every object is prepared, or what is left belongs to studies that failed.

    Raises:
        RaypacsError: not done after ``timeout_s``.
        NotFound: one of the studies is not there.
    """
    deadline = time.monotonic() + timeout_s
    last, quiet_since = -1, time.monotonic()
    while True:
        try:
            state = look(client, study_uids)
        except MasterUnavailable:
            state = None
        now = time.monotonic()
        if state is not None:
            shown(state)
            if state.prepared != last:
                last, quiet_since = state.prepared, now
            # A failed study leaves objects behind for good; wait for the others to settle.
            if state.done or (state.failed and now - quiet_since > 10 * POLL_S):
                return state
        if now > deadline:
            left = f"{state.prepared} of {state.objects}" if state else "not all"
            raise RaypacsError(f"not prepared after {timeout_s:.0f} s ({left} objects are)")
        time.sleep(POLL_S)


def _failed_items(client: Client, **filters: str) -> dict[str, str]:
    items = client.queue(state="FAILED", **filters)
    return {item["study_uid"]: item.get("error", "") for item in reversed(items)}


def _reasons(names: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted({reason for reason in names.values() if reason}))
