"""Questions about forecasts and levels."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index import levels


class ForecastReader:
    """The forecasts' part of the read side."""

    _engine: sa.Engine

    def levels(self) -> dict[str, levels.LevelRow]:
        """Return the level of every cache that was judged, by tier."""
        with self._engine.connect() as conn:
            return levels.read(conn)
