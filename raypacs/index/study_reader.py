"""Questions about the status of studies, sources and rules."""

from __future__ import annotations

import sqlalchemy as sa


class StudyReader:
    """The studies' part of the read side."""

    _engine: sa.Engine
