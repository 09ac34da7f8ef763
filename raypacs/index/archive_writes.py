"""Writes about libraries."""

from __future__ import annotations

from raypacs.index.writing import Writing


class ArchiveWrites(Writing):
    """The libraries' part of the writer."""
