"""The master's events about status of studies, sources and rules."""

from __future__ import annotations

from raypacs.master.sealing import SealDuties


class JudgeEvents(SealDuties):
    """Status, sources, rules."""

    def _judge_due(self, now: float) -> None:
        """Apply rules to what arrived, and to what became due."""
