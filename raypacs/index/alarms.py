"""Alarms as they are kept: each is told once while it lasts, and its end once, over restarts too.

They lie in ``meta``, as ``alarm KEY``; ``number`` says how far each is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from raypacs.index.engine import Txn, insert
from raypacs.index.schema import meta

_ALARM = "alarm "
TO_TELL, TOLD, OVER = 0, 1, 2


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm that lasts, or whose end is to be told; ``tier`` '' concerns the whole cluster."""

    key: str
    tier: str
    text: str
    since_s: float
    state: int

    @property
    def is_over(self) -> bool:
        """Whether only its end is to be told."""
        return self.state == OVER


def read(conn: sa.Connection) -> list[AlarmRow]:
    """Return all alarms, oldest first."""
    rows = conn.execute(
        sa.select(meta)
        .where(meta.c.name.startswith(_ALARM, autoescape=True))
        .order_by(meta.c.at_s, meta.c.name)
    )
    return [
        AlarmRow(
            key=row.name.removeprefix(_ALARM),
            state=row.number,
            since_s=row.at_s,
            **json.loads(row.value),
        )
        for row in rows
    ]


def begin(txn: Txn, key: str, tier: str, text: str) -> None:
    """Note an alarm; one that is over and begins again is told again."""
    value = json.dumps({"tier": tier, "text": text})
    row = {"name": _ALARM + key, "number": TO_TELL, "value": value, "at_s": txn.now}
    statement = insert(txn.conn, meta).values(row)
    again = {"number": TO_TELL, "value": value, "at_s": txn.now}
    txn.conn.execute(
        statement.on_conflict_do_update(
            index_elements=["name"], set_=again, where=meta.c.number == OVER
        )
    )


def finish(txn: Txn, key: str) -> None:
    """Note that an alarm is over, which is to be told too, also where its beginning still is."""
    txn.conn.execute(sa.update(meta).where(meta.c.name == _ALARM + key).values(number=OVER))


def told(txn: Txn, key: str, state: int, since_s: float) -> None:
    """Note that the beginning, or the end, of the alarm that began at ``since_s`` was told."""
    ours = sa.and_(meta.c.name == _ALARM + key, meta.c.number == state, meta.c.at_s == since_s)
    if state == OVER:
        txn.conn.execute(sa.delete(meta).where(ours))
    else:
        txn.conn.execute(sa.update(meta).where(ours).values(number=TOLD))
