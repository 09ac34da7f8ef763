"""Questions about eviction: what would go and why, what is held, what is about to leave."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raypacs.autopilot.staging import StagingRule
from raypacs.index import (
    candidates,
    deletion,
    evict_step,
    evicting,
    ledger,
    levels,
    settings,
    web_evicting,
)
from raypacs.index.archive_reader import busy_or_failed
from raypacs.index.candidates import START, Cursor
from raypacs.index.deletion import ListedIntent
from raypacs.index.evict_step import Ask
from raypacs.index.schema import studies
from raypacs.policy.eviction import passes
from raypacs.policy.holding import FREE, KEPT, UNARCHIVED
from raypacs.policy.levels import Level
from raypacs.policy.staging import matching

_PAGE = 100
_MOST_PAGES = 50


@dataclass(frozen=True, slots=True)
class Need:
    """What a cache needs now: its level, and by pass of rules the bytes still to be freed."""

    tier: str
    role: str
    level: Level
    judged_s: float
    hours: float | None
    by_level: dict[Level, int]
    leaving_bytes: int


class EvictReader:
    """The eviction's part of the read side."""

    _engine: sa.Engine

    def listed_due(self, tier: str, now: float, limit: int) -> list[ListedIntent]:
        """Return intents of what manifests list on a tier whose grace period is over."""
        with self._engine.connect() as conn:
            return deletion.listed_due(conn, tier, now, limit)

    def leaving(self, study_uid: str) -> set[tuple[str, str]]:
        """Return (tier, manifest path) of what is about to leave, or leaves: count it as gone."""
        with self._engine.connect() as conn:
            return evicting.pending(conn, study_uid)

    def gone_manifests(self, study_uid: str) -> set[str]:
        """Return the paths of manifests in force whose instances left the image tiers."""
        with self._engine.connect() as conn:
            return evicting.gone_paths(conn, study_uid)

    def needs(self) -> list[Need]:
        """Return what caches on amber and red need, less what is on its way out already."""
        with self._engine.connect() as conn:
            return _needs(conn)

    def kept_excess(self, tier: str) -> int:
        """Return the bytes by which series shares are exceeded on a tier (B12)."""
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
            kept = candidates.held(conn, tier).get(KEPT, (0, 0))[1]
            if not kept or not current.series_shares:
                return kept
            return max(0, -evict_step.shares_of(conn, tier, current).room_bytes)

    def web_wanted(self, limit: int, after: str = "") -> list[tuple[str, bool, bool]]:
        """Return (study UID, offline, sealed) of studies that are to be prepared again, by UID."""
        with self._engine.connect() as conn:
            return web_evicting.wanted(conn, limit, after)

    def pins(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Return studies that are pinned, and until when; those that end first come first."""
        query = (
            sa.select(studies.c.study_uid, studies.c.pinned_until_s.label("until_s"))
            .where(sa.text("pinned_until_s > 0"))
            .order_by(studies.c.pinned_until_s, studies.c.study_uid)
            .limit(limit)
        )
        with self._engine.connect() as conn:
            return [dict(row) for row in conn.execute(query).mappings()]

    def to_copy(
        self, tier: str, rules: Sequence[StagingRule], after: Cursor, limit: int, now: float
    ) -> tuple[list[tuple[str, str]], Cursor | None]:
        """Return (study UID, rule) of unarchived studies on a tier that rules copy to a library.

        A page of candidates; with where the walk goes on, None at its end. Those of which an
        ARCHIVE failed lately are left out: they are tried again later, not at every round.
        """
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
            rows = candidates.page(conn, tier, after, limit, hold=UNARCHIVED)
            uids = [row[0] for row in rows]
            facts = candidates.facts(conn, uids, current, now)
            failed = busy_or_failed(conn, uids, now)
        found = []
        for uid, _, size_bytes in rows:
            fact = facts.get(uid)
            told = fact.candidate if fact is not None else {}
            if (
                fact is None
                or fact.busy
                or uid in failed
                or not (told["archiving"] or told["committed"])
            ):
                continue
            rule = matching(rules, fact.as_candidate(size_bytes), now)
            if rule is not None:
                found.append((uid, rule.name))
        more = len(rows) == limit
        return found, (rows[-1][1], rows[-1][0]) if more else None

    def evict_plan(
        self, tier: str = "", limit: int = 100, now: float | None = None
    ) -> dict[str, Any]:
        """Say what would leave which cache now and why, and what stays and why.

        ``caches``: of each cache level, need, what is held by what, and what was looked at and
        stays (``enough`` None: not all was, so what is told of may not be all that may go);
        ``evictions``: at most ``limit`` studies of each, in their order. Nothing is changed.
        """
        now = time.time() if now is None else now
        told: dict[str, Any] = {"caches": [], "evictions": []}
        with self._engine.connect() as conn:
            current = settings.read(conn)[1]
            needs = {need.tier: need for need in _needs(conn)}
            known = levels.read(conn)
            for one in current.tiers:
                if one.role == "library" or one.adopted or tier not in ("", one.name):
                    continue
                held = candidates.held(conn, one.name)
                cache: dict[str, Any] = {
                    "tier": one.name,
                    "level": str(known[one.name].level) if one.name in known else "",
                    "need_bytes": 0,
                    "leaving_bytes": evicting.leaving_bytes(conn, one.name),
                    "free_copies": held.get(FREE, (0, 0))[0],
                    "free_bytes": held.get(FREE, (0, 0))[1],
                    "held": {
                        name: {"copies": count, "size_bytes": size}
                        for name, (count, size) in held.items()
                        if name
                    },
                    "skipped": {},
                    "enough": True,
                }
                if (need := needs.get(one.name)) is not None:
                    told["evictions"] += _would_go(conn, need, cache, limit, now)
                told["caches"].append(cache)
        return told


def _needs(conn: sa.Connection) -> list[Need]:
    current = settings.read(conn)[1]
    roles = {one.name: one.role for one in current.tiers if not one.adopted}
    account = ledger.read(conn)
    found = []
    for name, row in levels.read(conn).items():
        role = roles.get(name, "library")
        if role == "library" or row.level is Level.GREEN:
            continue
        leaving = evicting.leaving_bytes(conn, name)
        # Since the level was judged bytes came, and some that were on their way out went.
        then = row.detail.get("available_bytes")
        # As in the level's detail, what is promised to writers is free to a cache.
        ours = account.get(name)
        there = max(0, ours.capacity_bytes - ours.used_bytes) if ours else 0
        came = 0 if then is None else int(then) - there
        by_level: dict[Level, int] = {}
        for level in passes(row.level)[: 1 if role == "web" else None]:
            need = row.detail.get(f"need_bytes_{level}", row.detail.get("need_bytes")) or 0
            if role == "web":
                need = row.detail.get("need_bytes") or need
            by_level[level] = max(0, int(need) + came - leaving)
        hours = row.detail.get("hours_p50")
        found.append(Need(name, role, row.level, row.at_s, hours, by_level, leaving))
    return found


def _would_go(
    conn: sa.Connection, need: Need, cache: dict[str, Any], limit: int, now: float
) -> list[dict[str, Any]]:
    """Walk as the master does, without changing anything."""
    current = settings.read(conn)[1]
    told: list[dict[str, Any]] = []
    gone: set[str] = set()
    cache["need_bytes"] = max(need.by_level.values(), default=0)
    freed = 0
    is_cut_off = False
    skipped: dict[str, int] = {}
    for level, bytes_needed in need.by_level.items():
        after, left = START, bytes_needed - freed
        skipped = {}
        for _ in range(_MOST_PAGES):
            if left <= 0 or len(told) >= limit:
                break
            ask = Ask(need.tier, level, left, after, _PAGE, hours=need.hours)
            step, _ = evict_step.plan(conn, ask, current, now)
            for choice in (*step.choices, *step.spread):
                if choice.candidate.study_uid in gone or len(told) >= limit:
                    continue
                gone.add(choice.candidate.study_uid)
                left -= choice.size_bytes
                freed += choice.size_bytes
                told.append(
                    {
                        "study_uid": choice.candidate.study_uid,
                        "tier": need.tier,
                        "size_bytes": choice.size_bytes,
                        "accessed_s": choice.candidate.accessed_s,
                        "rule": choice.rule,
                        "level": str(choice.level),
                        "relies_on": list(choice.candidate.proven),
                        "without_archive": need.role != "web" and not choice.candidate.proven,
                        "keeps_series": choice.keeps,
                    }
                )
            for why, count in step.skipped.items():
                skipped[why] = skipped.get(why, 0) + count
            if step.after is None:
                break
            after = step.after
        else:
            is_cut_off = True
    cache["skipped"] = skipped
    cache["enough"] = _is_enough(cache, freed, is_cut_off=is_cut_off or len(told) >= limit)
    return told


def _is_enough(cache: dict[str, Any], freed: int, *, is_cut_off: bool) -> bool | None:
    """Whether as much may go as is needed; None where not all was looked at, so who knows."""
    if freed >= cache["need_bytes"]:
        return True
    return None if is_cut_off and cache["free_bytes"] >= cache["need_bytes"] else False
