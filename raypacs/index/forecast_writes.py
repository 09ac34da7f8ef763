"""Writes about forecasts and levels."""

from __future__ import annotations

from raypacs.index.writing import Writing


class ForecastWrites(Writing):
    """The forecasts' part of the writer."""
