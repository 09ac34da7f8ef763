"""Resources of planning: simulations and sizes. Nothing is changed by them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from raypacs.autopilot.planning import SimulationOrder, SizeOrder
from raypacs.web.gateway import Gateway
from raypacs.web.models.planning import Simulated, Sized
from raypacs.web.rest.answers import NO_INDEX, Responses, says
from raypacs.web.services import Row

_REFUSED: Responses = {
    409: says("Another simulation runs on this node"),
    422: says("It cannot be; says why"),
}


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["caches"])
    services = gateway.services

    @router.post(
        "/api/v1/caches/simulate",
        summary="Run the policies over a recorded or synthetic load, on a virtual clock",
        description="A year of a hospital takes about half a minute, in a process of its own with "
        "low priority; one at a time on a node, 240 s at most. Settings are those in force, but "
        "for what the order says.",
        response_model=Simulated,
        responses=_REFUSED | NO_INDEX,
    )
    def simulate(body: SimulationOrder) -> Row:
        return services.plan("simulate", body.model_dump(mode="json"))

    @router.get(
        "/api/v1/caches/size",
        summary="Capacities for an expected load, with every factor",
        response_model=Sized,
        responses=_REFUSED | NO_INDEX,
    )
    def size(order: Annotated[SizeOrder, Query()]) -> Row:
        return services.plan("size", order.model_dump(mode="json"))

    return router
