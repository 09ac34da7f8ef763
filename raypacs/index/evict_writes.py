"""Writes about eviction: intents with proofs, pins, holds."""

from __future__ import annotations

from raypacs.index.writing import Writing


class EvictWrites(Writing):
    """The eviction's part of the writer."""
