"""Writes about studies: status, flags, rules."""

from __future__ import annotations

from raypacs.index.writing import Writing


class StudyWrites(Writing):
    """The studies' part of the writer."""
