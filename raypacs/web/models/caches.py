"""Models of caches: their levels, forecasts and history."""

from __future__ import annotations
