"""Containers of libraries, and when a library copy counts as proven."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from raypacs.index.engine import Txn
from raypacs.records import ArchivedSeries, Lease, WorkResult


def take_over(txn: Txn, lease: Lease, result: WorkResult) -> None:
    """Register containers that an attempt wrote and read back; note what VERIFY found of others.

    Planned objects (``planned``) of them stay; a library copy that has every instance of the
    study's current generation becomes ``archive_proven``.
    """


def taken_over(conn: sa.Connection, lease: Lease, archived: Sequence[ArchivedSeries]) -> bool:
    """Whether containers of this attempt are registered already."""
    return False
