"""Which staging rule a study matches (FEATURES B11). Pure: ``now`` is an argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raypacs.autopilot.staging import COPY, DELETE, StagingRule
from raypacs.policy.levels import Level

BUILT_IN = (
    StagingRule(name="built-in, amber", action=DELETE, level="amber"),
    StagingRule(name="built-in, red", action=DELETE, level="red"),
)
"""What holds where no rule deletes: on amber and red what may go leaves."""


class Staged(Protocol):
    """What a staging rule asks of a study; times are effective ones (B7)."""

    @property
    def status(self) -> str:
        """new, dictated, reported or approved."""

    @property
    def exported(self) -> bool:
        """Whether it was sent elsewhere."""

    @property
    def his_verified(self) -> bool:
        """Whether the information system verified it."""

    @property
    def accessed_s(self) -> float:
        """When it was accessed, seconds since the epoch."""

    @property
    def created_s(self) -> float:
        """When it was created, seconds since the epoch."""


def deleting(rules: Sequence[StagingRule], level: Level) -> tuple[StagingRule, ...]:
    """Return the rules of exactly this level that delete; built-in ones where none deletes."""
    ours = [rule for rule in rules if rule.action == DELETE] or BUILT_IN
    return tuple(rule for rule in ours if rule.level == level)


def copying(rules: Sequence[StagingRule], level: Level) -> tuple[StagingRule, ...]:
    """Return the rules that copy to a library at this level: its own and those of lower levels."""
    return tuple(
        rule for rule in rules if rule.action == COPY and Level(rule.level).rank <= level.rank
    )


def matching(rules: Sequence[StagingRule], study: Staged, now: float) -> StagingRule | None:
    """Return the first rule that a study matches."""
    return next((rule for rule in rules if matches(rule, study, now)), None)


def matches(rule: StagingRule, study: Staged, now: float) -> bool:
    """Whether a study has what a rule asks for."""
    if now - study.created_s < rule.hours * 3600.0:
        return False
    for wanted, flag in ((rule.exported, study.exported), (rule.his_verified, study.his_verified)):
        if wanted != "any" and (wanted == "must be") != flag:
            return False
    if rule.status in ("any", study.status):
        return True
    return now - study.accessed_s >= rule.idle_days * 86400.0
