"""Resources of archiving: how it stands, orders, and what lies in libraries."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from raypacs.web.gateway import Gateway
from raypacs.web.models.archive import ArchiveStatus, Chosen, OrderArchive, Ordered, OrderVerify
from raypacs.web.rest.answers import BAD_REQUEST, NO_INDEX, NO_MASTER, who_asks
from raypacs.web.services import Row

_A_PAGE = 1000


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["archive"])
    services = gateway.services

    @router.get(
        "/api/v1/archive",
        summary="The archive window, what waits, each library, and how long it will take",
        response_model=ArchiveStatus,
        responses=NO_INDEX,
    )
    def archive_status() -> Row:
        told: Row = services.ask("archive_status", time.time())
        return told

    @router.post(
        "/api/v1/archive/orders",
        status_code=202,
        summary="Archive studies now, whatever window, age and status say",
        response_model=Ordered,
        responses={400: BAD_REQUEST, **NO_MASTER},
    )
    def archive(body: OrderArchive, request: Request) -> Row:
        uids, after = _chosen(body, "unarchived_studies")
        who = who_asks(gateway, request)
        told = services.master("order_archive", uids, who, body.libraries)
        return {**told, "after": after}

    @router.post(
        "/api/v1/archive/verifications",
        status_code=202,
        summary="Read containers whole and compare every byte; damaged ones are archived again",
        response_model=Ordered,
        responses={400: BAD_REQUEST, **NO_MASTER},
    )
    def verify_archive(body: OrderVerify, request: Request) -> Row:
        if body.sample:
            uids, after = services.ask("sample_of_libraries", body.sample), ""
        else:
            uids, after = _chosen(body, "studies_in_libraries")
        told = services.master("order_verify", uids, who_asks(gateway, request))
        return {**told, "after": after}

    def _chosen(body: Chosen, question: str) -> tuple[list[str], str]:
        if not body.all:
            return body.study_uids, ""
        uids: list[str] = services.ask(question, body.after, _A_PAGE)
        return uids, uids[-1] if len(uids) == _A_PAGE else ""

    return router
