"""One bounded step of freeing a cache: a page of candidates, the chosen ones, their intents.

All in one transaction, so what a choice rests on holds when it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from raypacs.config import Settings
from raypacs.errors import IllegalTransition, NotFound
from raypacs.index import candidates, evicting, forgetting, ledger, web_evicting
from raypacs.index import settings as current_settings
from raypacs.index.candidates import AWAY, START, UNPROVEN, Cursor, Facts
from raypacs.index.engine import Txn
from raypacs.index.evicting import Leaving, Places, Reason
from raypacs.policy.eviction import Candidate, Choice, Shares, choose_page, shares
from raypacs.policy.holding import FREE, KEPT
from raypacs.policy.levels import Level


@dataclass(frozen=True, slots=True)
class Ask:
    """What a step is to free: ``need_bytes`` of a tier, by the rules of ``level``."""

    tier: str
    level: Level
    need_bytes: int
    after: Cursor = START
    limit: int = 32
    hold: str = FREE
    hours: float | None = None
    who: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did: bytes on their way out of the tier, and where the walk goes on.

    ``after`` None: that was the last page. ``spread``: choices for which manifests must be read.
    ``skipped``: why others stay, and how many.
    """

    freed_bytes: int
    after: Cursor | None
    choices: tuple[Choice, ...] = ()
    spread: tuple[Choice, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def take(txn: Txn, ask: Ask) -> Step:
    """Choose from the next page, and let the chosen leave."""
    settings = current_settings.read(txn.conn)[1]
    step, leaving = plan(txn.conn, ask, settings, txn.now)
    freed = carry_out(txn, ask, leaving, settings)
    return Step(freed, step.after, step.choices, step.spread, step.skipped)


def plan(
    conn: sa.Connection, ask: Ask, settings: Settings, now: float
) -> tuple[Step, list[Leaving]]:
    """Choose from the next page; nothing is changed."""
    is_web = _role(settings, ask.tier) == "web"
    rows = candidates.page(conn, ask.tier, ask.after, ask.limit, hold=ask.hold)
    found = candidates.facts(conn, [uid for uid, _, _ in rows], settings, now)
    share = Shares() if is_web or ask.hold == KEPT else shares_of(conn, ask.tier, settings)
    asked = []
    for uid, _, size_bytes in rows:
        if (fact := found.get(uid)) is not None:
            fact.busy = fact.busy or _unfit(fact, is_web=is_web)
            asked.append(fact.as_candidate(size_bytes, share.modalities))
    choices = choose_page(
        asked,
        settings.staging,
        ask.level,
        ask.need_bytes,
        now,
        room_bytes=share.room_bytes,
        is_web=is_web,
    )
    spread = [] if is_web else [one for one in choices if _needs_manifests(found, one)]
    chosen = [one for one in choices if one not in spread]
    leaving = [
        Leaving(one, found[one.candidate.study_uid], kept=share.modalities) for one in chosen
    ]
    more = len(rows) == ask.limit
    freed = sum(one.size_bytes for one in chosen)
    # What was not looked at because the need was met is looked at next time.
    met = freed + sum(one.size_bytes for one in spread) >= ask.need_bytes
    last = _last_seen(rows, choices) if met and choices else (rows[-1] if rows else None)
    after = None if last is None or not (more or met) else (last[1], last[0])
    skipped = _skipped(asked, choices, settings, ask.level, is_web=is_web, met=met)
    return Step(freed, after, tuple(chosen), tuple(spread), skipped), leaving


def carry_out(txn: Txn, ask: Ask, leaving: Sequence[Leaving], settings: Settings) -> int:
    """Write what was chosen; return the bytes that will be free on the tier."""
    reason = Reason(ask.tier, ask.hours, ask.need_bytes, ask.who)
    grace_s = settings.eviction.grace_s
    freed: Counter[str] = Counter()
    if _role(settings, ask.tier) == "web":
        freed.update(web_evicting.evict(txn, leaving, reason, grace_s=grace_s))
    else:
        proven = [one for one in leaving if one.choice.candidate.proven]
        others = [one for one in leaving if not one.choice.candidate.proven]
        if proven:
            freed.update(evicting.evict(txn, proven, reason, grace_s=grace_s))
        if others:
            freed.update(forgetting.forget(txn, others, reason, grace_s=grace_s))
    return freed[ask.tier]


def one_study(txn: Txn, ask: Ask, study_uid: str, rule: str, places: Places | None) -> int:
    """Let one study leave the tier; with ``places`` one that is spread. Returns the bytes freed.

    Raises:
        NotFound: no such study, or it is not on that tier.
        IllegalTransition: it may not leave just now; says why. ``fields['spread']`` is True where
            only ``places`` is missing.
    """
    settings = current_settings.read(txn.conn)[1]
    fact = candidates.facts(txn.conn, [study_uid], settings, txn.now).get(study_uid)
    is_web = _role(settings, ask.tier) == "web"
    there = {} if fact is None else fact.webs if is_web else fact.images
    if fact is None or ask.tier not in there:
        raise NotFound(f"study {study_uid} is not on tier {ask.tier}", study_uid=study_uid)
    candidate = fact.as_candidate(there[ask.tier][1])
    why = fact.busy or _unfit(fact, is_web=is_web)
    # What is ordered is no rule's doing: it never deletes the only copy.
    may_go = candidate.may_go if ask.level is not Level.GREEN else bool(candidate.proven)
    if not why and not is_web and not may_go:
        why = fact.unproven
    if not why and fact.pinned:
        why = "it is pinned"
    if why:
        raise IllegalTransition(f"study {study_uid} may not leave {ask.tier}: {why}", why=why)
    choice = Choice(candidate, rule, ask.level, candidate.size_bytes)
    if not is_web and places is None and _needs_manifests({study_uid: fact}, choice):
        raise IllegalTransition(f"study {study_uid} lies on several tiers", spread=True)
    if places is not None and not _agree(fact, places):
        raise IllegalTransition(f"study {study_uid} was changed meanwhile", why="changed")
    return carry_out(txn, ask, [Leaving(choice, fact, places)], settings)


def shares_of(conn: sa.Connection, tier: str, settings: Settings) -> Shares:
    """Return what series shares keep of a tier."""
    if not settings.series_shares:
        return Shares()
    row = ledger.read(conn).get(tier)
    kept = candidates.held(conn, tier).get(KEPT, (0, 0))[1]
    return shares(settings.series_shares, row.capacity_bytes if row else 0, kept)


def _agree(fact: Facts, places: Places) -> bool:
    """Whether what manifests say is what the index has counted."""
    sums: dict[str, list[int]] = {}
    for one in fact.series:
        for tier, objects, size_bytes in () if one.is_gone else places.get(one.series_uid, ()):
            ours = sums.setdefault(tier, [0, 0])
            ours[0] += objects
            ours[1] += size_bytes
    return {tier: (one[0], one[1]) for tier, one in sums.items()} == fact.images


def _role(settings: Settings, name: str) -> str:
    return next((tier.role for tier in settings.tiers if tier.name == name), "")


def _unfit(fact: Facts, *, is_web: bool) -> str:
    """Say why a study cannot leave as it is, besides work and pins; '' if it can."""
    if is_web:
        return ""
    if fact.libraries:
        return "" if fact.sealed_s else "it is not sealed yet"
    if fact.away:
        return AWAY
    if fact.offline_s:
        return "it is away already, and no library has a proven copy"
    if fact.adopted:
        return "part of it lies on an adopted tier"
    return ""


def _needs_manifests(found: Mapping[str, Facts], choice: Choice) -> bool:
    fact = found[choice.candidate.study_uid]
    return bool(fact.sealed_s) and fact.is_spread


def _last_seen(
    rows: Sequence[tuple[str, float, int]], choices: Sequence[Choice]
) -> tuple[str, float, int] | None:
    last = choices[-1].candidate.study_uid if choices else ""
    return next((row for row in rows if row[0] == last), None)


def _skipped(
    asked: Iterable[Candidate],
    choices: Sequence[Choice],
    settings: Settings,
    level: Level,
    *,
    is_web: bool,
    met: bool,
) -> dict[str, int]:
    """Count why candidates were not chosen."""
    chosen = {one.candidate.study_uid for one in choices}
    counts: Counter[str] = Counter()
    for one in asked:
        if one.study_uid in chosen:
            continue
        if one.busy:
            counts[one.busy] += 1
        elif not (is_web or one.may_go):
            counts[UNPROVEN] += 1
        elif not met:
            counts[f"no rule of {level} matches"] += 1
    return dict(counts)
