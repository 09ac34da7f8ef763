"""Resources of erasures: shown, ordered, watched, proven."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from raypacs.errors import InvalidQuery
from raypacs.web.gateway import Gateway
from raypacs.web.models.erasures import Erasure, ErasureInFull, ErasurePlan, OrderErasure
from raypacs.web.models.work import MAX_ID
from raypacs.web.rest.answers import NO_INDEX, Responses, says, who_asks
from raypacs.web.services import Row

ErasureId = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the erasure")]
_UNKNOWN: Responses = {404: says("Nothing is known of such a study or patient")}
_NO_ERASURE: Responses = {404: says("No such erasure")}
_HIDDEN = ("subject",)


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["erasures"])
    services = gateway.services

    @router.post(
        "/api/v1/erasures",
        status_code=202,
        summary="Erase a study or patient: every copy and trace; without `confirm` only shown",
        response_model=ErasurePlan,
        responses={
            **_UNKNOWN,
            503: says("The master or the index is not reachable; ask again after Retry-After"),
        },
    )
    def erase(body: OrderErasure, request: Request) -> Row:
        told = dict(services.ask("erasure_preview", body.what, body.subject))
        if not body.confirm:
            return told
        if body.confirm != body.subject:
            raise InvalidQuery("confirm: it is not the subject", key="confirm")
        who = who_asks(gateway, request)
        number = services.master("order_erasure", body.what, body.subject, who)
        for study in told["studies"]:
            gateway.views.forget(study["study_uid"])
        return {**told, "erasure_id": int(number)}

    @router.get(
        "/api/v1/erasures",
        summary="Erasures, the newest first",
        response_model=list[Erasure],
        responses=NO_INDEX,
    )
    def erasures(
        limit: Annotated[int, Query(ge=1, le=1000, description="Most rows")] = 100,
        before_id: Annotated[int, Query(ge=0, le=MAX_ID, description="Only older ones")] = 0,
    ) -> list[Row]:
        return [_told(row) for row in services.ask("erasures", limit=limit, before_id=before_id)]

    @router.get(
        "/api/v1/erasures/{erasure_id}",
        summary="How far an erasure is, and its report",
        response_model=ErasureInFull,
        responses=_NO_ERASURE | NO_INDEX,
    )
    def erasure(erasure_id: ErasureId) -> Row:
        return _told(services.ask("erasure", erasure_id))

    return router


def _told(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _HIDDEN}
