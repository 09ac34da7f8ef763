"""The kinds of columns that the tables of the index are made of."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

# In order of bytes on both databases, whatever PostgreSQL's locale: LIKE with a prefix and ORDER
# BY then use the same indexes and give the same answers.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# SQLite numbers rows by itself only for the type INTEGER (which holds 64 bits there).
_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def id_(name: str) -> sa.Column[int]:
    """A number that the database gives each row, as primary key."""
    return sa.Column(name, _ROW_ID, primary_key=True, autoincrement=True)


def text_(name: str, **options: Any) -> sa.Column[str]:
    """Text, '' where it is unknown."""
    return sa.Column(name, TEXT, nullable=False, server_default="", **options)


def count_(name: str) -> sa.Column[int]:
    """A number of things or bytes."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def time_(name: str) -> sa.Column[float]:
    """Seconds since the Unix epoch in UTC, 0 where there is none."""
    return sa.Column(name, sa.Double, nullable=False, server_default="0")


def flag_(name: str) -> sa.Column[bool]:
    """Yes or no, no by default."""
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())
