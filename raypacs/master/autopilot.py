"""The autopilot: what the master does by itself about caches, a bounded step a tick."""

from __future__ import annotations

from raypacs.master.archiving import ArchiveDuties
from raypacs.master.erasing import EraseEvents
from raypacs.master.evicting import EvictDuties
from raypacs.master.forecasting import ForecastDuties
from raypacs.master.judging import JudgeEvents
from raypacs.master.placing import PlaceEvents
from raypacs.master.tiering import TierEvents


class Autopilot(
    ForecastDuties,
    EvictDuties,
    ArchiveDuties,
    PlaceEvents,
    JudgeEvents,
    EraseEvents,
    TierEvents,
):
    """Forecast, judge, archive, migrate, evict."""

    def _mind_caches(self, now: float) -> None:
        """Do what is due, each duty by its own clock."""
        self._judge_due(now)
        self._erase_due(now)
        self._forecast_due(now)
        self._archive_due(now)
        self._place_due(now)
        self._tier_due(now)
        self._evict_due(now)
