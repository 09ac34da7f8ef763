"""RESTORE and PREFETCH: what left the image tiers comes back from the libraries (FEATURES C6, B7).

First each series is looked through: what lies where its manifest says stays. What is missing is
read from containers, the first library that has it sound, compared with the SHA-256 that was taken
when it was received, and written to an image tier that has room. Then each series gets another
manifest, and the report switches them all at once. Every object is planned before it is written:
an attempt that ends without its report leaves nothing behind.

Of a study that is open, as it grew while it was away, rows get their new places.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from raypacs import layout
from raypacs.errors import RaypacsError
from raypacs.policy.placement import TierRoom, ranked
from raypacs.records import (
    CheckedContainer,
    ContainerRef,
    InstanceRecord,
    Lease,
    MovedSeries,
    StudyPlaces,
    WorkResult,
)
from raypacs.work.restore_tasks import (
    Copied,
    Looked,
    RestoreContext,
    copy_share,
    look_through,
    write_manifest,
)
from raypacs.work.run import Moves, Site, TaskFailure, Tasks

_log = logging.getLogger(__name__)

# Read by one task: bounds what is lost when it is cancelled, and spreads a series over the cores.
_TASK_BYTES = 64 * 1024 * 1024
_MANIFEST_BYTES = 2048  # of room for each instance in its series' new manifest, more than it takes
_TELL_EVERY_S = 1.0
_NAMED = 10

Share = tuple[str, tuple[InstanceRecord, ...]]
"""Series UID, and instances of it."""
Missing = Sequence[tuple[str, Sequence[InstanceRecord]]]


class _Stop(Exception):
    """Ends the attempt with a result."""

    def __init__(self, result: WorkResult) -> None:
        super().__init__(result.error)
        self.result = result


class RestoreRun:
    """One leased RESTORE or PREFETCH of a study."""

    def __init__(self, lease: Lease, site: Site) -> None:
        if site.moves is None:
            raise RaypacsError("a restore needs to ask and tell of places")
        self._lease, self._site = lease, site
        self._moves: Moves = site.moves
        self._room: dict[str, int] = {}
        self._asked: list[str] = []
        self._full: set[str] = set()
        self._told_s = 0.0
        self._done = [0, 0]
        self._total = [0, 0]
        self._checked: dict[tuple[str, str], CheckedContainer] = {}
        self._lost: dict[str, str] = {}
        self._written: dict[str, InstanceRecord] = {}

    def run(self, tasks: Tasks) -> WorkResult:
        """Bring back what is missing."""
        uid = self._lease.study_uid
        places = self._moves.places(uid)
        context = RestoreContext(
            study_uid=uid,
            token=self._lease.token,
            site_id=self._site.site_id(),
            tiers=self._site.settings.tiers,
            containers=_in_order(self._moves.containers(uid), self._library_order()),
            generation=self._of_study("generation"),
        )
        try:
            looked = self._look(tasks, places, context)
            self._check(looked)
            missing: Missing = [(one.series_uid, one.missing) for one in looked]
            if not places.manifests:
                if self._site.manifests(uid):  # nothing is known of a study until it is read whole
                    return WorkResult(error="the study was sealed meanwhile")
                missing = _of_rows(self._site, uid)
            self._copy(tasks, missing, context)
            return self._result(tasks, looked, context, sealed=bool(places.manifests))
        except _Stop as stop:
            tasks.cancel()
            return replace(stop.result, checked=tuple(self._checked.values()))

    def clean_up(self, *, reported: bool) -> None:
        """Nothing is to be removed: what was planned and is not in the report goes by intents."""

    # Looking

    def _look(self, tasks: Tasks, places: StudyPlaces, context: RestoreContext) -> list[Looked]:
        for series_uid, tier, path, size_bytes in places.manifests:
            gone = path in places.gone
            tasks.submit(
                ("look", series_uid),
                look_through,
                (series_uid, tier, path, size_bytes),
                frozenset() if gone else places.tiers,
                context,
            )
        return [self._value(value) for _, value in tasks.finished()]

    def _check(self, looked: Sequence[Looked]) -> None:
        """Raise _Stop where containers that tell rows do not tell all of the study."""
        lost = [one.manifest_path for one in looked if one.is_lost]
        told, wanted = sum(one.instance_count for one in looked), self._of_study("instance_count")
        if lost and told != wanted:
            why = f"{told} of {wanted} instances are told instead of {', '.join(lost[:_NAMED])}"
            raise _Stop(WorkResult(error=why, retryable=False))

    def _of_study(self, name: str) -> int:
        return int((self._moves.study(self._lease.study_uid) or {}).get(name, -1))

    @staticmethod
    def _value(value: Any) -> Any:
        if isinstance(value, TaskFailure):
            raise _Stop(value.as_result())
        return value

    def _library_order(self) -> dict[str, int]:
        return {
            tier.name: tier.order for tier in self._site.settings.tiers if tier.role == "library"
        }

    # Copying

    def _copy(
        self,
        tasks: Tasks,
        missing: Missing,
        context: RestoreContext,
    ) -> None:
        shares = [
            share for series_uid, records in missing for share in _shares(series_uid, records)
        ]
        self._total = [
            sum(len(records) for _, records in shares),
            sum(one.size_bytes for _, records in shares for one in records),
        ]
        if not shares:
            return
        self._tell(now=True)
        left_bytes = self._total[1] + self._total[0] * _MANIFEST_BYTES
        for number, share in enumerate(shares):
            self._submit(tasks, number, share, left_bytes, context)
            left_bytes -= sum(one.size_bytes for one in share[1])
        number = len(shares)
        for _, value in tasks.finished():
            copied: Copied = self._value(value)
            rest = self._take(copied)
            if rest:
                share = (copied.series_uid, rest)
                self._submit(tasks, number, share, _bytes(rest), context)
                number += 1
        self._tell(now=True)

    def _take(self, copied: Copied) -> tuple[InstanceRecord, ...]:
        """Note what a task did; return what found no room."""
        for record in copied.written:
            self._written[record.sop_instance_uid] = record
        self._checked |= {(one.tier, one.path): one for one in copied.damaged}
        self._lost |= dict(copied.lost)
        self._done[0] += len(copied.written)
        self._done[1] += sum(one.size_bytes for one in copied.written)
        self._tell()
        if copied.left:
            self._full.add(copied.tier)
            self._site.refused(copied.tier)
        return copied.left

    def _submit(
        self, tasks: Tasks, number: int, share: Share, want_bytes: int, context: RestoreContext
    ) -> None:
        series_uid, records = share
        tier = self._tier_for(_bytes(records), want_bytes)
        self._room[tier] -= _bytes(records)
        uid, token = self._lease.study_uid, self._lease.token
        paths = [layout.instance(uid, series_uid, one.sop_instance_uid, token) for one in records]
        self._moves.plan(self._lease, [(tier, path) for path in paths])
        tasks.submit(("copy", number), copy_share, series_uid, records, tier, context)

    def _tier_for(self, need_bytes: int, want_bytes: int) -> str:
        """Return a tier on which so much room is ours. Raises _Stop: there is none."""
        for name, room in self._room.items():
            if room >= need_bytes and name not in self._full:
                return name
        for name in self._targets():
            if name in self._asked:
                continue
            self._asked.append(name)
            self._room[name] = self._moves.reserve(self._lease, name, max(want_bytes, need_bytes))
            if self._room[name] >= need_bytes:
                return name
        waits = f"waits for room: no image tier takes {need_bytes} bytes"
        raise _Stop(WorkResult(error=waits, waits=True))

    def _targets(self) -> list[str]:
        """Return the image tiers that may be written to, in the order in which they fill."""
        room = self._site.available_bytes()
        tiers = [
            TierRoom(
                tier.name,
                tier.role,
                tier.order,
                room.get(tier.name, 0),
                read_only=tier.read_only,
                reachable=tier.name in room,
                draining=tier.draining,
            )
            for tier in self._site.settings.tiers
        ]
        order = ranked(tiers, role="image")
        return [name for name in order if room.get(name, 0) > 0 and name not in self._full]

    def _tell(self, *, now: bool = False) -> None:
        """Tell how far it is, at most every second."""
        at_s = time.monotonic()
        if not now and at_s - self._told_s < _TELL_EVERY_S:
            return
        self._told_s = at_s
        progress = {
            "instances": self._total[0],
            "size_bytes": self._total[1],
            "done_instances": self._done[0],
            "done_bytes": self._done[1],
            "percent": round(100 * self._done[1] / max(1, self._total[1]), 1),
        }
        self._moves.progress(self._lease, progress)

    # Switching

    def _result(
        self, tasks: Tasks, looked: Sequence[Looked], context: RestoreContext, *, sealed: bool
    ) -> WorkResult:
        checked = tuple(self._checked.values())
        error = _error(self._lost)
        damaged = [f"{one.path} on {one.tier} ({one.why})" for one in checked]
        warning = "read from another library: " + "; ".join(damaged[:_NAMED]) if damaged else ""
        result = WorkResult(
            error=error, retryable=not error, warning="" if error else warning, checked=checked
        )
        if not sealed:
            return replace(result, restored=tuple(self._written.values()))
        return replace(result, moved=self._manifests(tasks, looked, context))

    def _manifests(
        self, tasks: Tasks, looked: Sequence[Looked], context: RestoreContext
    ) -> tuple[MovedSeries, ...]:
        moved: list[MovedSeries] = []
        for one in looked:
            changed = {
                record.sop_instance_uid: self._written[record.sop_instance_uid]
                for record in one.missing
                if record.sop_instance_uid in self._written
            }
            if not changed and not one.is_lost:
                moved.append(one.unchanged(self._lease.study_uid))
                continue
            need_bytes = one.instance_count * _MANIFEST_BYTES
            tier = (
                next(iter(changed.values())).tier
                if changed
                else self._tier_for(need_bytes, need_bytes)
            )
            path = layout.manifest(self._lease.study_uid, one.series_uid, self._lease.token)
            self._moves.plan(self._lease, [(tier, path)])
            tasks.submit(("manifest", one.series_uid), write_manifest, one, changed, tier, context)
        for _, value in tasks.finished():
            moved.append(self._value(value))
        return tuple(moved)


def _of_rows(site: Site, study_uid: str) -> Missing:
    """Return what lies nowhere but in libraries of an open study, by series."""
    found: dict[str, list[InstanceRecord]] = {}
    for stored in site.instances(study_uid):
        if not stored.record.tier:
            slim = replace(stored.record, attributes={})
            found.setdefault(slim.series_uid, []).append(slim)
    return list(found.items())


def _in_order(refs: Iterable[ContainerRef], order: dict[str, int]) -> tuple[ContainerRef, ...]:
    """Return the containers, those of the first library first, of one library the newest first.

    Damaged ones come last: each instance is compared, and most of theirs may be sound.
    """
    known = [ref for ref in refs if ref.tier in order]
    return tuple(
        sorted(known, key=lambda r: (bool(r.damaged), order[r.tier], -r.generation, r.path))
    )


def _bytes(records: Iterable[InstanceRecord]) -> int:
    return sum(one.size_bytes for one in records)


def _shares(series_uid: str, records: Iterable[InstanceRecord]) -> Iterator[Share]:
    """Divide instances of a series into shares of at most ``_TASK_BYTES``, or one larger object."""
    share: list[InstanceRecord] = []
    room = _TASK_BYTES
    for record in records:
        if share and record.size_bytes > room:
            yield series_uid, tuple(share)
            share, room = [], _TASK_BYTES
        share.append(record)
        room -= record.size_bytes
    if share:
        yield series_uid, tuple(share)


def _error(lost: dict[str, str]) -> str:
    if not lost:
        return ""
    named = "; ".join(f"{uid}: {why}" for uid, why in sorted(lost.items())[:_NAMED])
    more = f"; and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return f"{len(lost)} instances are sound in no library: {named}{more}"
