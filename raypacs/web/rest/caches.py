"""Resources of caches: their levels, forecasts and history."""

from __future__ import annotations

from fastapi import APIRouter

from raypacs.web.gateway import Gateway


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    return APIRouter(tags=["caches"])
