"""The master's duty to forecast hours left, to judge levels and to raise alarms."""

from __future__ import annotations

from raypacs.master.sealing import SealDuties


class ForecastDuties(SealDuties):
    """Forecasts and levels of caches."""

    def _forecast_due(self, now: float) -> None:
        """Sample, forecast and judge the level of each cache, about every minute."""
