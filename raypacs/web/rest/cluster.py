"""Resources of nodes and of the master."""

from __future__ import annotations

from fastapi import APIRouter, Request

from raypacs.errors import NotFound
from raypacs.web.gateway import Gateway
from raypacs.web.models.cluster import MasterMoved, MasterState, MoveMaster, NodeState
from raypacs.web.rest.answers import NO_INDEX, NO_MASTER, NO_NODE, says, who_asks
from raypacs.web.services import Row


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["cluster"])
    _add_nodes(router, gateway)
    _add_master(router, gateway)
    return router


def _add_nodes(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    def found(name: str) -> Row:
        for node in services.nodes():
            if node["name"] == name:
                return node
        raise NotFound(f"no node {name!r}")

    @router.get(
        "/api/v1/nodes",
        summary="The nodes: what each has, its state, and why it gets no work",
        response_model=list[NodeState],
        responses=NO_INDEX,
    )
    def nodes() -> list[Row]:
        return services.nodes()

    @router.get(
        "/api/v1/nodes/{name}",
        summary="One node",
        response_model=NodeState,
        responses=NO_NODE | NO_INDEX,
    )
    def node(name: str) -> Row:
        return found(name)

    @router.post(
        "/api/v1/nodes/{name}/drain",
        summary="Let a node finish what runs and give it nothing new; holds after its restart",
        response_model=NodeState,
        responses=NO_NODE | NO_MASTER,
    )
    def drain(name: str, request: Request) -> Row:
        services.master("drain", name, who_asks(gateway, request))
        return found(name)

    @router.post(
        "/api/v1/nodes/{name}/undrain",
        summary="Give a drained node work again",
        response_model=NodeState,
        responses=NO_NODE | NO_MASTER,
    )
    def undrain(name: str, request: Request) -> Row:
        services.master("undrain", name, who_asks(gateway, request))
        return found(name)


def _add_master(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/master",
        summary="The one master: node, process, epoch, since when, restarts",
        response_model=MasterState,
        responses=NO_INDEX,
    )
    def master() -> Row:
        told = services.status()
        known = {"epoch": told.get("epoch", 0), "since_s": told.get("since_s", 0.0)}
        return {**known, **(told.get("master") or {})}

    @router.post(
        "/api/v1/master/move",
        status_code=202,
        summary="Let another node take the master over",
        response_model=MasterMoved,
        responses={409: says("That node cannot take it; says why"), **NO_NODE, **NO_MASTER},
    )
    def move_master(request: Request, body: MoveMaster | None = None) -> Row:
        told: Row = services.master(
            "move_master", body.to if body else "", who_asks(gateway, request)
        )
        return told
