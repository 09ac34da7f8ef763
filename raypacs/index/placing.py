"""Series whose instances lie elsewhere now: MIGRATE and RESTORE switch manifests."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from raypacs.index.engine import Txn
from raypacs.records import Lease, MovedSeries


def take_over(txn: Txn, lease: Lease, moved: Sequence[MovedSeries]) -> None:
    """Let new manifests take the place of those they are based on; the study moves as one."""


def taken_over(conn: sa.Connection, lease: Lease, moved: Sequence[MovedSeries]) -> bool:
    """Whether manifests of this attempt are in force already."""
    return False
