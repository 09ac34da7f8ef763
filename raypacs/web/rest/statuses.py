"""Status and flags of studies, senders, and what rules say: asked for and set."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request

from raypacs.web.gateway import Gateway
from raypacs.web.models.statuses import (
    ExplainedStudy,
    ExplainStudy,
    ListedStatus,
    SeenSource,
    SetStatus,
    Status,
    StudyStatus,
)
from raypacs.web.rest.answers import NO_INDEX, NO_MASTER, NO_STUDY, says, who_asks
from raypacs.web.services import Row


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_status(router, gateway)
    _add_list(router, gateway)
    _add_rules(router, gateway)
    return router


def _add_status(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/studies/{uid}/status",
        summary="Status and flags of a study, and what sources and rules decided",
        tags=["statuses"],
        response_model=StudyStatus,
        responses=NO_STUDY | NO_INDEX,
    )
    def study_status(uid: str) -> Row:
        return dict(services.ask("study_status", uid))

    @router.post(
        "/api/v1/studies/{uid}/status",
        summary="Set status or flags of a study; what is left out stays",
        tags=["statuses"],
        response_model=StudyStatus,
        responses=NO_STUDY | NO_MASTER,
    )
    def set_status(uid: str, body: SetStatus, request: Request) -> Row:
        changes = body.model_dump(exclude_none=True)
        return dict(services.master("set_study", uid, changes, who_asks(gateway, request)))


def _add_list(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/statuses",
        summary="Studies by status and flags, in the order of the list of studies",
        tags=["statuses"],
        response_model=list[ListedStatus],
        responses=NO_INDEX,
    )
    def statuses(
        status: Annotated[Status | None, Query(description="With this status")] = None,
        exported: Annotated[bool | None, Query(description="Sent where it had to go")] = None,
        his_verified: Annotated[bool | None, Query(description="Demographics checked")] = None,
        committed: Annotated[bool | None, Query(description="Under storage commitment")] = None,
        archiving: Annotated[bool | None, Query(description="To be archived")] = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most rows")] = 100,
        before: Annotated[int, Query(ge=0, description="`list_no` of the page's last row")] = 0,
    ) -> list[Row]:
        wanted = {
            "status": status,
            "exported": exported,
            "his_verified": his_verified,
            "committed": committed,
            "archiving": archiving,
        }
        asked = {name: value for name, value in wanted.items() if value is not None}
        return list(services.ask("study_statuses", asked, limit=limit, before=before))

    @router.get(
        "/api/v1/sources",
        summary="Who sent objects, and the sources of the settings that it may be",
        tags=["statuses"],
        response_model=list[SeenSource],
        responses=NO_INDEX,
    )
    def sources() -> list[Row]:
        return list(services.ask("sources_seen"))


def _add_rules(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/studies/{uid}/arrival",
        summary="What sources and rules say of a stored study, rule by rule",
        tags=["statuses"],
        response_model=ExplainedStudy,
        responses=NO_STUDY | NO_INDEX,
    )
    def study_arrival(uid: str) -> Row:
        return dict(services.ask("explain_study", uid, time.time()))

    @router.post(
        "/api/v1/rules/arrival",
        summary="Try sources and rules on a study that need not be stored; nothing is changed",
        tags=["statuses"],
        response_model=ExplainedStudy,
        responses={422: says("A rule or source is wrong; says which"), **NO_INDEX},
    )
    def try_arrival(body: ExplainStudy) -> Row:
        return dict(services.ask("explain_described", body.model_dump(), time.time()))
