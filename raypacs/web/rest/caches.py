"""Resources of caches: their levels, forecasts and history."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Path, Query

from raypacs.web.gateway import Gateway
from raypacs.web.models.caches import CacheForecast, CacheHistory, CacheList
from raypacs.web.rest.answers import NO_INDEX, Responses, says
from raypacs.web.services import Row

TierName = Annotated[str, Path(max_length=64, description="Name of the cache's tier")]
_NO_CACHE: Responses = {404: says("No such cache")}


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["caches"])
    services = gateway.services

    @router.get(
        "/api/v1/caches",
        summary="The caches with their levels, thresholds, forecasts and fill rates",
        response_model=CacheList,
        responses=NO_INDEX,
    )
    def caches() -> Row:
        return {"caches": services.ask("caches", time.time())}

    @router.get(
        "/api/v1/caches/{tier}/forecast",
        summary="Hours left of a cache, and how wrong earlier forecasts were",
        response_model=CacheForecast,
        responses=_NO_CACHE | NO_INDEX,
    )
    def cache_forecast(
        tier: TierName,
        hours: Annotated[int, Query(ge=1, le=2000, description="Forecasts, one an hour")] = 168,
    ) -> Row:
        found: Row = services.ask("cache", tier, time.time(), hours)
        return found

    @router.get(
        "/api/v1/caches/{tier}/history",
        summary="What a cache took in by hour, and its forecasts",
        response_model=CacheHistory,
        responses=_NO_CACHE | NO_INDEX,
    )
    def cache_history(
        tier: TierName,
        hours: Annotated[int, Query(ge=1, le=9000, description="Hours back")] = 168,
    ) -> Row:
        found: Row = services.ask("cache_history", tier, time.time(), hours)
        return found

    return router
