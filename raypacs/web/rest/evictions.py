"""Resources of eviction: what would go and why, orders, pins, and library copies let go."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from raypacs.web.gateway import Gateway
from raypacs.web.models.evictions import (
    Evicted,
    EvictionPlan,
    EvictStudy,
    OrderEviction,
    Pin,
    Pins,
    PinStudy,
)
from raypacs.web.rest.answers import (
    BAD_REQUEST,
    NO_INDEX,
    NO_MASTER,
    NO_STUDY,
    Responses,
    says,
    who_asks,
)
from raypacs.web.services import Row

TierName = Annotated[str, Query(max_length=64, description="Only this cache; '' all")]
Most = Annotated[int, Query(ge=1, le=1000, description="At most so many studies")]
_NOT_NOW: Responses = {409: says("It may not leave; says why")}


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["evictions"])
    _plans(router, gateway)
    _studies(router, gateway)
    _pins(router, gateway)
    return router


def _plans(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/evictions",
        summary="What would leave which cache now and why, and what stays and why",
        response_model=EvictionPlan,
        responses=NO_INDEX,
    )
    def plan(tier: TierName = "", limit: Most = 100) -> Row:
        told: Row = services.ask("evict_plan", tier, limit)
        return told

    @router.post(
        "/api/v1/evictions",
        status_code=202,
        summary="Look at once for what may leave, without the rest after a vain look",
        description="Answers what would leave just now. On green nothing leaves.",
        response_model=EvictionPlan,
        responses=NO_MASTER,
    )
    def evict(body: OrderEviction, request: Request) -> Row:
        told: Row = services.ask("evict_plan", body.tier, body.limit)
        services.master("order_eviction", who=who_asks(gateway, request))
        return told


def _studies(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.post(
        "/api/v1/studies/{uid}/evict",
        summary="Let a study leave the image tiers or a web tier, whatever the level",
        description="Never one of which no library has a proven copy.",
        response_model=Evicted,
        responses=NO_STUDY | _NOT_NOW | NO_MASTER,
    )
    def evict_study(uid: str, body: EvictStudy, request: Request) -> Row:
        who = who_asks(gateway, request)
        size_bytes = services.master("evict_study", uid, who, body.tier)
        return {"study_uid": uid, "size_bytes": size_bytes}

    @router.delete(
        "/api/v1/studies/{uid}/libraries/{library}",
        summary="Take a study out of a library, unless that copy is relied on",
        response_model=Evicted,
        responses={404: says("No such study, or it has no copy there")} | _NOT_NOW | NO_MASTER,
    )
    def purge(uid: str, library: str, request: Request) -> Row:
        who = who_asks(gateway, request)
        size_bytes = services.master("purge_copy", uid, library, who)
        return {"study_uid": uid, "size_bytes": size_bytes}


def _pins(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/pins",
        summary="Studies that are kept from eviction",
        response_model=Pins,
        responses=NO_INDEX,
    )
    def pins(limit: Most = 100) -> Row:
        return {"pins": services.ask("pins", limit)}

    @router.put(
        "/api/v1/studies/{uid}/pin",
        summary="Keep a study from eviction until a time, or for ever",
        response_model=Pin,
        responses={400: BAD_REQUEST} | NO_STUDY | NO_MASTER,
    )
    def pin(uid: str, body: PinStudy, request: Request) -> Row:
        who = who_asks(gateway, request)
        until_s = services.master("pin", uid, body.until or 0.0, who)
        return {"study_uid": uid, "until_s": until_s}

    @router.delete(
        "/api/v1/studies/{uid}/pin",
        summary="Take a study's pin away",
        response_model=Pin,
        responses=NO_STUDY | NO_MASTER,
    )
    def unpin(uid: str, request: Request) -> Row:
        services.master("unpin", uid, who_asks(gateway, request))
        return {"study_uid": uid, "until_s": 0.0}
