"""Questions about where studies lie."""

from __future__ import annotations

import sqlalchemy as sa


class PlacingReader:
    """The places' part of the read side."""

    _engine: sa.Engine
