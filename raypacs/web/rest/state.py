"""Resources about the state of the cluster and its settings, and the start page."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from raypacs import __version__
from raypacs.errors import ConfigError
from raypacs.web import page
from raypacs.web.gateway import Gateway
from raypacs.web.models.cluster import AppliedSettings, Health, SettingsVersion, Status
from raypacs.web.rest.answers import NO_INDEX, NO_MASTER, says, who_asks
from raypacs.web.services import Row


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_state(router, gateway)
    _add_settings(router, gateway)
    return router


def _add_state(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/health",
        summary="Is this process up and able to read the index",
        tags=["state"],
        response_model=Health,
        responses=NO_INDEX,
    )
    def health() -> Row:
        services.settings()
        name = services.node.get("name", "")
        return {"status": "ok", "node": name, "version": __version__, "pid": os.getpid()}

    @router.get(
        "/api/v1/status",
        summary="The cluster at a glance",
        tags=["state"],
        response_model=Status,
        responses=NO_INDEX,
    )
    def status() -> Row:
        return {"version": __version__, "node": services.node, **services.status()}

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    def start_page() -> str:
        return page.render(
            services.node,
            services.status(),
            page.Lists(
                studies=services.search_studies({"limit": ["50"]}),
                items=services.tasks({}, 20, 0, 0)["items"],
                nodes=services.nodes(),
                queue=services.queue_state(),
            ),
        )


def _add_settings(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/settings",
        summary="The settings and their version",
        tags=["settings"],
        response_model=SettingsVersion,
        responses=NO_INDEX,
    )
    def settings() -> Row:
        version, current = services.settings()
        return {"version": version, "settings": current.model_dump(mode="json")}

    @router.put(
        "/api/v1/settings",
        summary="Apply whole settings, or {version, settings} only if that version is current",
        tags=["settings"],
        response_model=AppliedSettings,
        responses={
            409: says("Another version is current"),
            422: says("A setting is wrong; says which"),
            **NO_MASTER,
        },
    )
    def apply_settings(body: dict[str, Any], request: Request) -> Row:
        version = None
        if "settings" in body:
            version, body = body.get("version"), body["settings"]
            if version is not None and type(version) is not int:
                raise ConfigError("version: must be a number", setting="version")
        return {"version": services.apply_settings(body, who_asks(gateway, request), version)}
