"""Resources of archives that are adopted: ordered, watched, and what was left out."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import StreamingResponse

from raypacs.errors import NotFound
from raypacs.storage.overlap import check_allowed
from raypacs.web.gateway import Gateway
from raypacs.web.models.adoptions import Adoption, OrderAdoption
from raypacs.web.models.work import MAX_ID
from raypacs.web.rest.answers import NO_INDEX, Responses, says, who_asks
from raypacs.web.services import Row

_PIECE_BYTES = 256 * 1024
_LINES = "application/x-ndjson"
ItemId = Annotated[int, Path(ge=1, le=MAX_ID, description="Number of the work item")]
_NO_ADOPTION: Responses = {404: says("No such adoption")}


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["adoptions"])
    services = gateway.services

    def found(item_id: int) -> Row:
        task = services.task(item_id)
        if task["kind"] != "ADOPT":
            raise NotFound(f"item {item_id} adopts nothing")
        return _told(task)

    @router.post(
        "/api/v1/adoptions",
        status_code=202,
        summary="Adopt an archive where it lies; nothing is copied, written or deleted there",
        response_model=Adoption,
        responses={
            422: says(
                "It cannot be adopted: it holds, or lies in, another tier, or not where it may"
            ),
            503: says("It, or the master, cannot be reached; ask again after Retry-After"),
        },
    )
    def adopt(body: OrderAdoption, request: Request) -> Row:
        check_allowed(body.url, services.adopt_roots)
        told = services.master(
            "order_adoption",
            body.url,
            tier_name=body.name,
            form=body.form,
            prepare=body.prepare,
            deleted=body.deleted,
            who=who_asks(gateway, request),
        )
        return found(int(told["item_id"]))

    @router.get(
        "/api/v1/adoptions/{item_id}",
        summary="How far an adoption is",
        response_model=Adoption,
        responses=_NO_ADOPTION | NO_INDEX,
    )
    def adoption(item_id: ItemId) -> Row:
        return found(item_id)

    @router.get(
        "/api/v1/adoptions/{item_id}/report",
        summary="What an adoption left out or found changed, a JSON object a line",
        description="Each has `what`, `path` and `why` (docs/adopt.md). Empty without lines.",
        response_class=StreamingResponse,
        responses={200: {"content": {_LINES: {}}}, **_NO_ADOPTION, **NO_INDEX},
    )
    def report(item_id: ItemId) -> StreamingResponse:
        place = found(item_id)["progress"].get("report") or {}
        if not place:
            raise NotFound(f"the adoption of item {item_id} has not ended")
        if not place["path"] and place["lines"]:
            raise NotFound("no web tier took the report")
        data = services.tier(place["tier"]).read(place["path"]) if place["path"] else b""
        return StreamingResponse(_lines(data), media_type=_LINES)

    return router


def _told(task: Row) -> Row:
    payload = task.get("payload") or {}
    return {
        "item_id": task["item_id"],
        "tier": payload.get("tier", ""),
        "state": task["state"],
        "error": task.get("error", ""),
        "prepare": bool(payload.get("prepare")),
        "deleted": bool(payload.get("deleted")),
        "progress": payload.get("progress") or {},
    }


def _lines(packed: bytes) -> Iterator[bytes]:
    """Inflate piece by piece: a report may have millions of lines."""
    if not packed:
        return
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            while piece := stream.read(_PIECE_BYTES):
                yield piece
    except (OSError, EOFError, zlib.error) as exc:
        raise NotFound(f"the report is damaged: {exc}") from exc
