"""Wait until studies are prepared: asks the node again and again, decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from raypacs.client import Client
from raypacs.errors import MasterUnavailable, NotFound, RaypacsError

POLL_S = 0.5
FAILED = "failed"
_SETTLED_POLLS = 10
_MOST_ITEMS = 10_000


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
    if study_uids is not None:
        return _sum([_study(client, uid) for uid in study_uids])
    told = client.status()
    counts = told["instances"]
    failed = _failed_studies(client, int(told["studies"].get(FAILED) or 0))
    return Prepared(counts["received"], counts["prepared"], tuple(failed), _reasons(failed))


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
    watch = _Watch(client, study_uids)
    last, quiet_since = -1, time.monotonic()
    state = None
    while True:
        try:
            state = watch.look()
        except MasterUnavailable:
            pass  # it restarts by itself; the deadline holds
        now = time.monotonic()
        if state is not None:
            shown(state)
            if state.prepared != last:
                last, quiet_since = state.prepared, now
            # A failed study leaves objects behind for good; wait for the others to settle.
            if state.done or (state.failed and now - quiet_since > _SETTLED_POLLS * POLL_S):
                return state
        if now > deadline:
            left = f"{state.prepared} of {state.objects}" if state else "not all"
            raise RaypacsError(f"not prepared after {timeout_s:.0f} s ({left} objects are)")
        time.sleep(POLL_S)


class _Watch:
    """Looks again and again, but not again at studies that were done."""

    def __init__(self, client: Client, study_uids: Collection[str] | None) -> None:
        self._client = client
        self._open = None if study_uids is None else sorted(study_uids)
        self._done: list[Prepared] = []

    def look(self) -> Prepared:
        if self._open is None:
            return look(self._client)
        states = {uid: _study(self._client, uid) for uid in self._open}
        self._open = [uid for uid, state in states.items() if not state.done]
        self._done += [state for state in states.values() if state.done]
        return _sum([*self._done, *(states[uid] for uid in self._open)])


def _study(client: Client, study_uid: str) -> Prepared:
    row = client.study(study_uid)["study"]
    failed: dict[str, str] = {}
    if row.get("state") == FAILED:
        failed = _failed_items(client, study_uid=study_uid) or {study_uid: ""}
    objects, prepared = int(row["instance_count"]), int(row["prepared_count"])
    return Prepared(objects, prepared, tuple(failed), _reasons(failed))


def _sum(states: list[Prepared]) -> Prepared:
    return Prepared(
        sum(state.objects for state in states),
        sum(state.prepared for state in states),
        tuple(uid for state in states for uid in state.failed),
        tuple(sorted({reason for state in states for reason in state.reasons})),
    )


def _failed_studies(client: Client, count: int) -> dict[str, str]:
    """Return the ``count`` studies that are failed now, and why.

    A failed item alone says nothing: its study may be deleted, or prepared by a later one.
    """
    found: dict[str, str] = {}
    if not count:
        return found
    for study_uid, why in _failed_items(client).items():
        try:
            row = client.study(study_uid)["study"]
        except NotFound:
            continue
        if row.get("state") == FAILED:
            found[study_uid] = why
            if len(found) == count:
                break
    return found


def _failed_items(client: Client, **filters: str) -> dict[str, str]:
    items = client.queue(_MOST_ITEMS, state="FAILED", **filters)
    return {item["study_uid"]: item.get("error", "") for item in reversed(items)}


def _reasons(names: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted({reason for reason in names.values() if reason}))
