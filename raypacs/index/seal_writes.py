"""Writes that seal studies: their instances become manifests, and rows again when they grow."""

from __future__ import annotations

from raypacs.index.writing import Writing


class SealWrites(Writing):
    """The sealing's part of the writer."""
