"""Questions about eviction."""

from __future__ import annotations

import sqlalchemy as sa


class EvictReader:
    """The eviction's part of the read side."""

    _engine: sa.Engine
