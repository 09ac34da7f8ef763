"""Resources of studies that come back from libraries: asked for, or ahead of time."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from raypacs.errors import ManifestCorrupt, NotFound
from raypacs.web.gateway import Gateway
from raypacs.web.models.restores import OrderPrefetch, OrderRestore, Prefetched, Restore
from raypacs.web.models.work import MAX_ID
from raypacs.web.rest.answers import NO_INDEX, NO_MASTER, NO_STUDY, Responses, says, who_asks
from raypacs.web.services import Row

ItemId = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the work item")]
_KINDS = ("RESTORE", "PREFETCH")
_NO_RESTORE: Responses = {404: says("No such restore")}
_SHOWN = ("item_id", "study_uid", "kind", "state", "error", "priority", "node")


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["restores"])
    services = gateway.services

    @router.post(
        "/api/v1/restores",
        status_code=202,
        summary="Bring a study back from a library; one restore for all who ask",
        response_model=Restore,
        responses=NO_STUDY | NO_MASTER,
    )
    def restore(body: OrderRestore, request: Request) -> Row:
        who = who_asks(gateway, request)
        told = _ordered(gateway, body, who)
        if told["item_id"]:
            return _told(services.task(int(told["item_id"])))
        return {**told, "study_uid": body.study_uid, "progress": {}}

    @router.get(
        "/api/v1/restores",
        summary="Studies that are brought back, or were, newest first",
        response_model=list[Restore],
        responses=NO_INDEX,
    )
    def restores(
        limit: Annotated[int, Query(ge=1, le=1000, description="Most rows")] = 100,
    ) -> list[Row]:
        return [_told(item) for item in services.ask("restores", limit)]

    @router.get(
        "/api/v1/restores/{item_id}",
        summary="How far a restore is",
        response_model=Restore,
        responses=_NO_RESTORE | NO_INDEX,
    )
    def one_restore(item_id: ItemId) -> Row:
        item = services.task(item_id)
        if item["kind"] not in _KINDS:
            raise NotFound(f"item {item_id} brings nothing back")
        return _told(item)

    @router.post(
        "/api/v1/prefetches",
        status_code=202,
        summary="Have a study in the caches before somebody asks, or a patient's relevant priors",
        description="For `patient_id` the prefetch rules choose, as if a study of it had arrived; "
        "without rules, the two newest of the same modality.",
        response_model=list[Prefetched],
        responses=NO_STUDY | NO_MASTER,
    )
    def prefetch(body: OrderPrefetch, request: Request) -> list[Row]:
        who = who_asks(gateway, request)
        if body.study_uid:
            told = services.master("order_prefetch", body.study_uid, body.priority, who)
            return [{**told, "study_uid": body.study_uid}]
        return list(
            services.master("announce", body.patient_id, body.modality, body.body_part, who)
        )

    return router


def _told(item: Row) -> Row:
    payload = item.get("payload") or {}
    times = {name: item.get(name) or 0.0 for name in ("created_s", "finished_s")}
    return {
        **{name: item[name] for name in _SHOWN if name in item},
        **times,
        "progress": payload.get("progress") or {},
    }


def _ordered(gateway: Gateway, body: OrderRestore, who: str) -> Row:
    """Order a restore, also of a study that is online and whose manifest is lost."""
    order = ("order_restore", body.study_uid, body.priority, who)
    told: Row = gateway.services.master(*order)
    if told["item_id"] or told["state"] != "online":
        return told
    try:
        gateway.services.instances(body.study_uid)
    except (ManifestCorrupt, NotFound):  # containers tell what it did
        told = gateway.services.master(*order, seen_away=True)
    return told
