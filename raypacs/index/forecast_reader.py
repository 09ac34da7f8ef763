"""Questions about forecasts and levels."""

from __future__ import annotations

import sqlalchemy as sa


class ForecastReader:
    """The forecasts' part of the read side."""

    _engine: sa.Engine
