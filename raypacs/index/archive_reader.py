"""Questions about libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.index import levels, settings
from raypacs.index.engine import in_lists
from raypacs.index.items import is_running, is_waiting
from raypacs.index.schema import (
    containers,
    copies,
    copy_totals,
    item_counts,
    studies,
    work_items,
)
from raypacs.policy import archiving, window
from raypacs.policy.archiving import ARCHIVE, Archivable
from raypacs.policy.holding import LIBRARY, UNARCHIVED
from raypacs.policy.kinds import PREPARE
from raypacs.policy.queue import State
from raypacs.records import ContainerRef

_DAY_S = 86_400.0
# What failed is tried again by itself the next night, not every minute.
FAILED_FOR_S = 12 * 3600.0
Cursor = tuple[float, str]


FIRST: Cursor = (-1.0, "")
"""Before every study."""


@dataclass
class ArchiveWalk:
    """Where the walks through what may be archived are: what no library has, and the rest.

    ``..._s``: when the next round begins. ``opened_by``: why is archived by itself just now.
    ``libraries``: those that could be written to when it was looked last.
    """

    unproven: Cursor = FIRST
    unproven_s: float = 0.0
    rest: Cursor = FIRST
    rest_s: float = 0.0
    opened_by: str = ""
    libraries: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Page:
    """Studies of a page of the order of archiving; ``after`` None: it was the last."""

    studies: tuple[Archivable, ...]
    after: Cursor | None


class ArchiveReader:
    """The libraries' part of the read side."""

    _engine: sa.Engine

    def containers(self, study_uid: str) -> list[ContainerRef]:
        """Return the containers of a study in all libraries, by series and tier."""
        query = (
            sa.select(*(containers.c[name] for name in ContainerRef.__slots__))
            .where(containers.c.study_uid == study_uid)
            .order_by(containers.c.series_uid, containers.c.tier, containers.c.path)
        )
        with self._engine.connect() as conn:
            return [ContainerRef(*row) for row in conn.execute(query)]

    def running_items(self, kind: str) -> int:
        """Return how many items of a kind run."""
        query = sa.select(sa.func.coalesce(sa.func.sum(item_counts.c["items"]), 0)).where(
            item_counts.c.kind == kind, item_counts.c.state == State.IN_PROCESS.value
        )
        with self._engine.connect() as conn:
            return int(conn.execute(query).scalar_one())

    def archive_items(self, now: float) -> tuple[int, int]:
        """Return how many ARCHIVE items run or are due, and how many wait for another try."""
        retry = work_items.c.state == State.SCHEDULED_FOR_RETRY.value
        later = sa.and_(is_waiting, sa.or_(retry, work_items.c.due_s > now))
        query = sa.select(
            sa.func.count(), sa.func.coalesce(sa.func.sum(sa.case((later, 1), else_=0)), 0)
        ).where(work_items.c.kind == ARCHIVE, sa.or_(is_waiting, is_running))
        with self._engine.connect() as conn:
            row = conn.execute(query).one()
        return int(row[0]) - int(row[1]), int(row[1])

    def may_be_sealed(self, study_uid: str) -> bool:
        """Whether no PREPARE of the study waits or runs, which needs its rows."""
        busy = sa.select(work_items.c.item_id).where(
            work_items.c.study_uid == study_uid,
            work_items.c.kind == PREPARE,
            sa.or_(is_waiting, is_running),
        )
        with self._engine.connect() as conn:
            return conn.execute(busy.limit(1)).first() is None

    def archiving_open(self, now: float) -> str:
        """Return why is archived by itself now: ``window`` or ``red``; '' where it is not."""
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
            return _opened_by(conn, current, now)

    def archivable(
        self, tiers: Sequence[str], holds: Sequence[str], after: Cursor, now: float, limit: int
    ) -> Page:
        """Return studies with copies on ``tiers`` that are held so, least recently accessed first.

        Those of which an ARCHIVE waits or runs, or failed lately, are left out.
        """
        later = sa.tuple_(copies.c.accessed_s, copies.c.study_uid) > sa.tuple_(
            sa.literal(after[0]), sa.literal(after[1])
        )
        ranges = [
            sa.select(
                sa.select(copies.c.accessed_s, copies.c.study_uid)
                .where(copies.c.tier == tier, copies.c.hold == hold, later)
                .order_by(copies.c.accessed_s, copies.c.study_uid)
                .limit(limit)
                .subquery()
            )
            for tier in tiers
            for hold in holds
        ]
        if not ranges:
            return Page((), None)
        with self._engine.connect() as conn:
            found = sorted({(row[0], row[1]) for row in conn.execute(sa.union_all(*ranges))})
            found = found[:limit]
            order = list(dict.fromkeys(uid for _, uid in found))
            busy = busy_or_failed(conn, order, now)
            known = _described(conn, [uid for uid in order if uid not in busy])
        last = found[-1] if len(found) >= limit else None
        return Page(tuple(known[uid] for uid in order if uid in known), last)

    def unarchived_studies(self, after: str = "", limit: int = 1000) -> list[str]:
        """Return studies with a copy that no library has proven, by UID."""
        query = (
            sa.select(copies.c.study_uid)
            .where(copies.c.hold == UNARCHIVED, copies.c.study_uid > after)
            .group_by(copies.c.study_uid)
            .order_by(copies.c.study_uid)
            .limit(limit)
        )
        with self._engine.connect() as conn:
            return list(conn.execute(query).scalars())

    def studies_in_libraries(self, after: str = "", limit: int = 1000) -> list[str]:
        """Return studies that have containers, by UID."""
        query = (
            sa.select(containers.c.study_uid)
            .where(containers.c.study_uid > after)
            .group_by(containers.c.study_uid)
            .order_by(containers.c.study_uid)
            .limit(limit)
        )
        with self._engine.connect() as conn:
            return list(conn.execute(query).scalars())

    def sample_of_libraries(self, count: int) -> list[str]:
        """Return studies that have containers, chosen by chance."""
        query = (
            sa.select(copies.c.study_uid)
            .where(copies.c.hold == LIBRARY)
            .group_by(copies.c.study_uid)
            .order_by(sa.func.random())
            .limit(count)
        )
        with self._engine.connect() as conn:
            return list(conn.execute(query).scalars())

    def archive_status(self, now: float) -> dict[str, Any]:
        """Return window, what waits, rate and each library, as the REST API tells them."""
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
            told = _window(conn, current, now)
            libraries = archiving.libraries_of(current.tiers, current.archive.libraries)
            every = [tier.name for tier in current.tiers if tier.role == "library"]
            told["libraries"] = [
                _library(conn, name, now) | {"used": name in {one.name for one in libraries}}
                for name in every
            ]
            told["waiting"] = _waiting(conn, current, now)
            told["items"] = {
                row.state: int(row[1])
                for row in conn.execute(
                    sa.select(item_counts.c.state, item_counts.c["items"]).where(
                        item_counts.c.kind == ARCHIVE, item_counts.c["items"] > 0
                    )
                )
            }
        rates = [one["rate_bytes_per_s"] for one in told["libraries"] if one["used"]]
        rate = min((one for one in rates if one), default=0.0)
        archive = current.archive
        night_s = window.length_s(now, archive.window_start, archive.window_end, archive.time_zone)
        told["rate_bytes_per_s"] = rate
        told["nights"] = told["waiting"]["size_bytes"] / (rate * night_s) if rate else None
        return told


def _opened_by(conn: sa.Connection, current: Settings, now: float) -> str:
    archive = current.archive
    if window.is_open(now, archive.window_start, archive.window_end, archive.time_zone):
        return "window"
    if archive.red_opens:
        image = {tier.name for tier in current.tiers if tier.role == "image"}
        if any(row.level == "red" for tier, row in levels.read(conn).items() if tier in image):
            return "red"
    return ""


def _window(conn: sa.Connection, current: Settings, now: float) -> dict[str, Any]:
    archive = current.archive
    times = (archive.window_start, archive.window_end, archive.time_zone)
    is_open = window.is_open(now, *times)
    closes_s = window.closes_at(now, *times) if is_open else 0.0
    return {
        "window": {
            "start": archive.window_start,
            "end": archive.window_end,
            "time_zone": archive.time_zone,
            "open_by": _opened_by(conn, current, now),
            "opens_s": window.next_open(now, *times),
            "closes_s": closes_s if closes_s != float("inf") else 0.0,
        }
    }


def busy_or_failed(conn: sa.Connection, study_uids: Sequence[str], now: float) -> set[str]:
    """Return studies of which an ARCHIVE or PREPARE waits or runs, or an ARCHIVE failed lately."""
    found: set[str] = set()
    failed = sa.and_(
        work_items.c.kind == ARCHIVE,
        work_items.c.state == State.FAILED.value,
        work_items.c.finished_s > now - FAILED_FOR_S,
    )
    for uids in in_lists(study_uids):
        query = sa.select(work_items.c.study_uid).where(
            work_items.c.study_uid.in_(uids),
            work_items.c.kind.in_([ARCHIVE, PREPARE]),
            sa.or_(is_waiting, is_running, failed),
        )
        found |= set(conn.execute(query).scalars())
    return found


def _described(conn: sa.Connection, study_uids: Sequence[str]) -> dict[str, Archivable]:
    found: dict[str, Archivable] = {}
    for uids in in_lists(study_uids):
        proven: dict[str, set[str]] = {}
        query = (
            sa.select(copies.c.study_uid, copies.c.tier)
            .join(studies, studies.c.study_uid == copies.c.study_uid)
            .where(
                copies.c.study_uid.in_(uids),
                copies.c.archive_proven,
                copies.c.generation == studies.c.generation,
            )
        )
        for uid, tier in conn.execute(query):
            proven.setdefault(uid, set()).add(tier)
        names = (
            *("study_uid", "archiving", "committed"),
            *("created_s", "status", "his_verified", "prepare_due_s"),
        )
        rows = conn.execute(
            sa.select(*(studies.c[name] for name in names)).where(studies.c.study_uid.in_(uids))
        )
        for row in rows:
            found[row.study_uid] = Archivable(
                study_uid=row.study_uid,
                # What others rely on (committed) is never given up without a copy in a library.
                archiving=bool(row.archiving or row.committed),
                created_s=row.created_s,
                status=row.status,
                his_verified=bool(row.his_verified),
                growing=row.prepare_due_s is not None,
                proven=frozenset(proven.get(row.study_uid, ())),
            )
    return found


def _library(conn: sa.Connection, tier: str, now: float) -> dict[str, Any]:
    held = conn.execute(
        sa.select(copy_totals.c.copies, copy_totals.c.size_bytes).where(
            copy_totals.c.tier == tier, copy_totals.c.hold == LIBRARY
        )
    ).one_or_none()
    ours = containers.c.tier == tier
    last_s = conn.execute(sa.select(sa.func.max(containers.c.created_s)).where(ours)).scalar()
    lately = conn.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(containers.c.size_bytes), 0),
            sa.func.min(containers.c.created_s),
        ).where(ours, containers.c.created_s > now - _DAY_S)
    ).one()
    seconds = max(1.0, min(now, (last_s or now) + 1.0) - (lately[1] or now))
    damaged = conn.execute(
        sa.select(sa.func.count()).where(ours, containers.c.damaged != "")
    ).scalar_one()
    return {
        "tier": tier,
        "studies": int(held.copies) if held else 0,
        "size_bytes": int(held.size_bytes) if held else 0,
        "last_s": float(last_s or 0.0),
        "day_bytes": int(lately[0]),
        "rate_bytes_per_s": int(lately[0]) / seconds if lately[0] else 0.0,
        "damaged": int(damaged),
    }


def _waiting(conn: sa.Connection, current: Settings, now: float) -> dict[str, Any]:
    """Return how much has no proven library copy, and since when the oldest was not accessed."""
    image = [tier.name for tier in current.tiers if tier.role == "image"]
    total = conn.execute(
        sa.select(
            sa.func.coalesce(sa.func.sum(copy_totals.c.copies), 0),
            sa.func.coalesce(sa.func.sum(copy_totals.c.size_bytes), 0),
        ).where(copy_totals.c.tier.in_(image), copy_totals.c.hold == UNARCHIVED)
    ).one()
    oldest = [
        conn.execute(
            sa.select(sa.func.min(copies.c.accessed_s)).where(
                copies.c.tier == tier, copies.c.hold == UNARCHIVED
            )
        ).scalar()
        for tier in image
    ]
    return {
        "studies": int(total[0]),
        "size_bytes": int(total[1]),
        "oldest_accessed_s": min((one for one in oldest if one is not None), default=0.0),
    }
