"""Which studies leave a cache, in which order, by which rule (FEATURES B4-B7, B10-B12). Pure.

The master and the simulation decide by these functions. Candidates come in the order of eviction,
the least recently accessed first. Rules of amber are tried on all of them, then need is evaluated
again; on red the rules of red follow, from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from raypacs.autopilot.staging import SeriesShare, StagingRule
from raypacs.policy import staging
from raypacs.policy.levels import Level


@dataclass(frozen=True, slots=True)
class Candidate:
    """A copy of a study in a cache that nothing holds.

    Times are effective ones: the later of a study's own and those it inherited (B7). ``proven``:
    libraries with a proven copy of its current generation. ``kept_bytes``: of series that a series
    share keeps (B12). ``busy``: why it must be left alone just now ('' it need not).
    """

    study_uid: str
    size_bytes: int
    accessed_s: float
    created_s: float
    status: str = "new"
    exported: bool = False
    his_verified: bool = False
    archiving: bool = True
    committed: bool = False
    proven: tuple[str, ...] = ()
    source: str = ""
    kept_bytes: int = 0
    busy: str = ""

    @property
    def may_go(self) -> bool:
        """Whether nothing is lost if it leaves an image cache (B6)."""
        return bool(self.proven) or not (self.archiving or self.committed)


@dataclass(frozen=True, slots=True)
class Choice:
    """A study that leaves, and why. ``size_bytes``: what is freed by it."""

    candidate: Candidate
    rule: str
    level: Level
    size_bytes: int
    keeps: bool = False
    """Some of its series stay (B12)."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Series shares of a cache: which modalities are kept, and room left for what is kept."""

    modalities: frozenset[str] = frozenset()
    room_bytes: int = 0


def shares(settings: Sequence[SeriesShare], capacity_bytes: int, kept_bytes: int) -> Shares:
    """Return what series shares keep of a cache where ``kept_bytes`` are kept already."""
    kept = frozenset(name for share in settings for name in share.modalities)
    room = capacity_bytes * min(100.0, sum(share.percent for share in settings)) / 100.0
    return Shares(kept, int(room) - kept_bytes)


def passes(level: Level) -> tuple[Level, ...]:
    """Return the levels whose rules are tried, in order; none on green."""
    return tuple(one for one in (Level.AMBER, Level.RED) if one.rank <= level.rank)


def choose_page(
    candidates: Iterable[Candidate],
    rules: Sequence[StagingRule],
    level: Level,
    need_bytes: int,
    now: float,
    *,
    room_bytes: int = 0,
    is_web: bool = False,
) -> list[Choice]:
    """Choose by the rules of exactly ``level`` until ``need_bytes`` would be freed.

    ``room_bytes``: room for series that are kept. Web caches have no rules: nothing is lost there.
    """
    ours = staging.BUILT_IN[:1] if is_web else staging.deleting(rules, level)
    found: list[Choice] = []
    for candidate in candidates:
        if need_bytes <= 0:
            break
        if candidate.busy or not (is_web or candidate.may_go):
            continue
        rule = staging.matching(ours, candidate, now)
        if rule is None:
            continue
        keeps = bool(
            0 < candidate.kept_bytes <= room_bytes
            and candidate.kept_bytes < candidate.size_bytes
            and candidate.proven
        )
        freed = candidate.size_bytes - (candidate.kept_bytes if keeps else 0)
        room_bytes -= candidate.kept_bytes if keeps else 0
        name = "web threshold" if is_web else rule.name
        found.append(Choice(candidate, name, level, freed, keeps))
        need_bytes -= freed
    return found


def choose(
    candidates: Sequence[Candidate],
    rules: Sequence[StagingRule],
    level: Level,
    need_bytes: int,
    now: float,
    *,
    red_need_bytes: int | None = None,
    room_bytes: int = 0,
    is_web: bool = False,
) -> list[Choice]:
    """Choose what leaves at ``level``: rules of amber first, then, if still needed, those of red.

    ``candidates`` are in the order of eviction. Nothing is chosen on green, nor without need.
    ``red_need_bytes``: what must go until the cache is not red any more; rules of red stop there
    (None: they free ``need_bytes`` too).
    """
    found: list[Choice] = []
    gone: set[str] = set()
    for one in passes(level)[: 1 if is_web else None]:
        need = need_bytes
        if one is Level.RED and red_need_bytes is not None:
            need = red_need_bytes
        left = need - sum(choice.size_bytes for choice in found)
        kept = sum(choice.candidate.kept_bytes for choice in found if choice.keeps)
        rest = (candidate for candidate in candidates if candidate.study_uid not in gone)
        page = choose_page(rest, rules, one, left, now, room_bytes=room_bytes - kept, is_web=is_web)
        gone |= {choice.candidate.study_uid for choice in page}
        found += page
    return found
