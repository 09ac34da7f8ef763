"""ARCHIVE: the series of a sealed study into libraries, a container each, read back and compared.

A library that is full or away does not hold up the others: what is missing there is tried again. A
series that is archived already is not written again, however often the work is interrupted: each is
told as soon as it is proven. When the archive window closes, what is under way is finished, and the
rest waits for the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raypacs import layout
from raypacs.config import TierSettings
from raypacs.errors import (
    ContainerCorrupt,
    ManifestCorrupt,
    NotFound,
    TierUnavailable,
)
from raypacs.policy.archiving import ARCHIVE, libraries_of
from raypacs.records import (
    ArchivedSeries,
    CheckedContainer,
    ContainerRef,
    InstanceRecord,
    Lease,
    WorkResult,
)
from raypacs.storage.container import Container
from raypacs.work.archive_series import (
    CheckedSeries,
    NotArchived,
    Rescued,
    SeriesOrder,
    archive_series,
    check_series,
    mounted,
)
from raypacs.work.run import Libraries, Moves, Site, TaskFailure, Tasks
from raypacs.work.source import find_tier

CLOSED = "waits for the archive window"
_NAMED = 20
# What a container has beside its instances: headers, directory, manifest.
_PER_INSTANCE_BYTES, _PER_SERIES_BYTES = 2048, 16 * 1024


_Job = SeriesOrder | tuple[ContainerRef, ArchivedSeries]
"""A series to write, or a container that was found and is to be read whole first."""


@dataclass
class _Found:
    """What came of an attempt so far."""

    archived: list[ArchivedSeries] = field(default_factory=list)
    checked: list[CheckedContainer] = field(default_factory=list)
    failed: list[NotArchived] = field(default_factory=list)
    closed: bool = False
    done: int = 0
    of: int = 0
    size_bytes: int = 0
    by_library: Counter[str] = field(default_factory=Counter)

    def as_result(self) -> WorkResult:
        """Return what to report: damage first, then what another try may mend, then what waits."""
        archived = tuple(self.archived)
        order = sorted(self.failed, key=lambda one: (one.waits, one.retryable))
        if order:
            text = "; ".join(dict.fromkeys(one.why for one in order[:_NAMED]))
            if len(order) > _NAMED:
                text += f"; and {len(order) - _NAMED} more"
            first = order[0]
            text = f"waits for a library or a tier: {text}" if first.waits else text
            told = WorkResult(error=text, retryable=first.retryable, waits=first.waits)
        elif self.closed:
            told = WorkResult(error=CLOSED, waits=True)
        else:
            told = WorkResult()
        return replace(told, archived=archived, checked=tuple(dict.fromkeys(self.checked)))


class ArchiveRun:
    """One leased ARCHIVE of a study."""

    def __init__(self, lease: Lease, site: Site) -> None:
        assert site.moves is not None
        assert site.libraries is not None
        self._lease, self._site = lease, site
        self._moves: Moves = site.moves
        self._libraries: Libraries = site.libraries

    def run(self, tasks: Tasks) -> WorkResult:
        """Archive what is not in every library yet."""
        uid = self._lease.study_uid
        if self._moves.study(uid) is None:
            return WorkResult(error=f"no study {uid}", retryable=False)
        if not self._libraries.may_go_on(self._lease):
            return WorkResult(error=CLOSED, waits=True)
        if not self._libraries.seal(uid):
            return WorkResult(error="waits until the study can be sealed", waits=True)
        settings = self._site.settings
        chosen = tuple(self._lease.payload.get("libraries") or settings.archive.libraries)
        targets = libraries_of(settings.tiers, chosen)
        if not targets:
            return WorkResult(error="waits for a library that takes new objects", waits=True)
        try:
            orders, found = self._orders(targets)
        except ManifestCorrupt as exc:
            return WorkResult(error=str(exc), retryable=False)
        except KeyError:  # what was read first and what was read then are two studies
            return WorkResult(error="waits: the study grew meanwhile", waits=True)
        return self._archive(orders, found, tasks)

    def clean_up(self, *, reported: bool) -> None:
        """Nothing: what was planned and does not count is deleted by the master."""

    def _orders(self, targets: Sequence[TierSettings]) -> tuple[list[_Job], _Found]:
        """Return what is to be written, and what is there or cannot be written now."""
        uid, token = self._lease.study_uid, self._lease.token
        by_series: dict[str, list[InstanceRecord]] = {}
        for stored in self._site.instances(uid):
            by_series.setdefault(stored.record.series_uid, []).append(stored.record)
        refs = self._moves.containers(uid)
        good = tuple(ref for ref in refs if not ref.damaged)
        manifests = {path.split("/")[2]: (tier, path) for tier, path in self._site.manifests(uid)}
        found = _Found(of=len(manifests) * len(targets))
        orders: list[_Job] = []
        checks: list[_Job] = []
        for library in targets:
            wanted: list[SeriesOrder] = []
            need = 0
            try:
                tier = mounted(find_tier(self._site.settings.tiers, library.name), self._site_id)
                for series_uid, records in by_series.items():
                    there = self._there(tier, good, series_uid, records, manifests[series_uid][1])
                    if there is not None:
                        ref, archived = there
                        if ref.verified_s:
                            found.archived.append(archived)
                        else:
                            checks.append((ref, archived))
                        continue
                    wanted.append(
                        SeriesOrder(
                            study_uid=uid,
                            series_uid=series_uid,
                            token=token,
                            library=library.name,
                            path=layout.container(uid, series_uid, token),
                            manifest=manifests[series_uid],
                            form=self._site.settings.archive.form,
                            others=tuple(ref for ref in good if ref.series_uid == series_uid),
                            site_id=self._site_id,
                        )
                    )
                    need += _room(records)
            except TierUnavailable as exc:
                found.failed.append(_not(library.name, str(exc)))
                continue
            if wanted and self._moves.reserve(self._lease, library.name, need) < need:
                found.failed.append(_not(library.name, f"no room for {need} bytes"))
                continue
            orders += wanted
        found.done = len(found.archived)
        places = [(one.library, one.path) for one in orders if isinstance(one, SeriesOrder)]
        if places:
            self._moves.plan(self._lease, places)
        return checks + orders, found

    @property
    def _site_id(self) -> str:
        return self._site.site_id()

    def _there(
        self,
        tier: Any,
        refs: Sequence[ContainerRef],
        series_uid: str,
        records: Sequence[InstanceRecord],
        based_on: str,
    ) -> tuple[ContainerRef, ArchivedSeries] | None:
        """Return the library's container of a series if it has exactly these instances."""
        for ref in refs:
            if ref.tier != tier.name or ref.series_uid != series_uid:
                continue
            if ref.instance_count != len(records) or not _same(tier, ref, records):
                continue
            return ref, ArchivedSeries(
                study_uid=ref.study_uid,
                series_uid=ref.series_uid,
                tier=ref.tier,
                path=ref.path,
                token=layout.token_of(ref.path),
                form=ref.form,
                sha256=ref.sha256,
                size_bytes=ref.size_bytes,
                instance_count=ref.instance_count,
                based_on=based_on,
            )
        return None

    def _archive(self, orders: Sequence[_Job], found: _Found, tasks: Tasks) -> WorkResult:
        waiting = iter(orders)
        self._tell(found)
        limited = self._site.settings.archive.bandwidth_bytes_per_s > 0
        for _ in range(1 if limited else max(1, self._site.cores)):
            self._submit_next(waiting, found, tasks)
        for _, value in tasks.finished():
            if isinstance(value, TaskFailure):
                tasks.cancel()
                return value.as_result()
            if isinstance(value, Rescued | NotArchived):
                found.checked += value.checked
            if isinstance(value, Rescued):
                value = value.archived
            if isinstance(value, ArchivedSeries):
                found.archived.append(value)
                found.size_bytes += value.size_bytes
                found.by_library[value.tier] += 1
                self._libraries.archived(self._lease, [value])
            elif isinstance(value, CheckedSeries):
                found.checked += value.checked
                if value.sound:
                    found.archived.append(value.archived)
                else:
                    why = "; ".join(f"{one.path} on {one.tier}: {one.why}" for one in value.checked)
                    found.failed.append(NotArchived("", value.archived.tier, why))
            else:
                found.failed.append(value)
            found.done += 1
            self._tell(found)
            self._submit_next(waiting, found, tasks)
        return found.as_result()

    def _submit_next(self, waiting: Iterator[_Job], found: _Found, tasks: Tasks) -> None:
        lost = {one.library for one in found.failed if one.waits and one.library}
        order = next((one for one in waiting if _library_of(one) not in lost), None)
        if order is None or found.closed:
            return
        if not self._libraries.may_go_on(self._lease):
            found.closed = True
            return
        if not isinstance(order, SeriesOrder):
            args = (*order, self._site.settings.tiers, self._site_id)
            tasks.submit((order[0].tier, order[0].path), check_series, *args)
            return
        limit = self._site.settings.archive.bandwidth_bytes_per_s
        if limit:
            share = limit / max(1, self._libraries.running(ARCHIVE))
            order = replace(order, bytes_per_s=share)
        key = (order.library, order.series_uid)
        tasks.submit(key, archive_series, order, self._site.settings.tiers)

    def _tell(self, found: _Found) -> None:
        self._moves.progress(
            self._lease,
            {
                "series": found.done,
                "of": found.of,
                "size_bytes": found.size_bytes,
                "libraries": dict(found.by_library),
            },
        )


def _library_of(job: _Job) -> str:
    return job.library if isinstance(job, SeriesOrder) else job[0].tier


def _not(library: str, why: str) -> NotArchived:
    return NotArchived("", library, f"library {library}: {why}", waits=True)


def _room(records: Sequence[InstanceRecord]) -> int:
    held = sum(record.size_bytes for record in records)
    return held + _PER_INSTANCE_BYTES * len(records) + _PER_SERIES_BYTES


def _same(tier: Any, ref: ContainerRef, records: Sequence[InstanceRecord]) -> bool:
    """Whether a container has exactly these instances. Raises TierUnavailable."""
    try:
        members = Container(tier, ref.path).members
    except (NotFound, ContainerCorrupt):
        return False
    told = {uid: member.sha256 for uid, member in members.items()}
    return told.keys() == {one.sop_instance_uid for one in records} and all(
        not one.sha256 or told[one.sop_instance_uid] == one.sha256 for one in records
    )
