"""Questions about libraries."""

from __future__ import annotations

import sqlalchemy as sa

from raypacs.index.schema import containers
from raypacs.records import ContainerRef


class ArchiveReader:
    """The libraries' part of the read side."""

    _engine: sa.Engine

    def containers(self, study_uid: str) -> list[ContainerRef]:
        """Return the containers of a study in all libraries, by series and tier."""
        query = (
            sa.select(*(containers.c[name] for name in ContainerRef.__slots__))
            .where(containers.c.study_uid == study_uid)
            .order_by(containers.c.series_uid, containers.c.tier, containers.c.path)
        )
        with self._engine.connect() as conn:
            return [ContainerRef(*row) for row in conn.execute(query)]
