"""Resources about studies, their objects and their story; ingest."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from raypacs.errors import NotFound
from raypacs.records import StoredInstance
from raypacs.web import archive, store
from raypacs.web.gateway import Gateway
from raypacs.web.models.studies import DeletedStudy, Ingested, Story, StudyDetail, StudyUids
from raypacs.web.places import Place
from raypacs.web.rest.answers import NO_INDEX, NO_MASTER, NO_STUDY, says, who_asks
from raypacs.web.services import Row

_INGEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
            "multipart/related": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_OBJECT_FIELDS = (
    "sop_instance_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "instance_number",
    "frames",
    "tier",
    "path",
    "size_bytes",
    "sha256",
    "source",
    "received_at_s",
)


def create(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter()
    _add_studies(router, gateway)
    _add_archive(router, gateway)
    _add_actions(router, gateway)
    _add_ingest(router, gateway)
    return router


def _add_studies(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.get(
        "/api/v1/studies",
        summary="Search studies, with the keys of QIDO-RS",
        description="Any keyword or tag of QIDO-RS (PS3.18 section 10.6) is a query parameter.",
        tags=["studies"],
        response_model=list[dict[str, Any]],
        responses=NO_INDEX,
    )
    def search_studies(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100_000, description="Most rows")] = 1000,
        offset: Annotated[int, Query(ge=0, description="Rows to skip")] = 0,
    ) -> list[Row]:
        params: dict[str, list[str]] = {}
        for key, value in request.query_params.multi_items():
            params.setdefault(key, []).append(value)
        return services.search_studies(params | {"limit": [str(limit)], "offset": [str(offset)]})

    @router.get(
        "/api/v1/studies/{uid}",
        summary="One study with its series, objects, forms, packs and conflicts",
        tags=["studies"],
        response_model=StudyDetail,
        responses=NO_STUDY | NO_INDEX,
    )
    def study(uid: str) -> Row:
        found = services.study(uid)
        if found is None:
            raise NotFound(f"no study {uid}")
        row = {key: value for key, value in found.items() if key not in ("series", "aside")}
        instances = services.instances(uid)
        uids = dict.fromkeys(one.record.series_uid for one in instances)
        series = [_series(gateway, series_uid, instances) for series_uid in uids]
        return {"study": row, "series": series, "conflicts": found.get("aside", [])}

    @router.get(
        "/api/v1/studies/{uid}/why",
        summary="The whole story of a study, with rule, node and numbers behind each step",
        description="In order, also of a study that was deleted.",
        tags=["studies"],
        response_model=Story,
        responses=NO_STUDY | NO_INDEX,
    )
    def why(uid: str) -> Row:
        return {"study_uid": uid, "events": services.why(uid)}


def _add_archive(router: APIRouter, gateway: Gateway) -> None:
    @router.get(
        "/api/v1/studies/{uid}/archive",
        summary="The whole study as a zip of Part 10 files, as received",
        description="`{Series}/{SOP Instance UID}.dcm`, stored without compression.",
        tags=["studies"],
        response_class=StreamingResponse,
        responses={200: {"content": {archive.MEDIA_TYPE: {}}}, **NO_STUDY, **NO_INDEX},
    )
    async def study_archive(uid: str) -> StreamingResponse:
        async def packed() -> StreamingResponse:
            await gateway.restores.whole(uid)
            return await whole(uid)

        return await gateway.restores.reading(uid, packed)

    async def whole(uid: str) -> StreamingResponse:
        stored = await run_in_threadpool(gateway.services.instances, uid)
        if not stored:
            raise NotFound(f"no study {uid}")
        places: list[Place] = []
        for series_uid in dict.fromkeys(one.record.series_uid for one in stored):
            view = await gateway.views.view(uid, series_uid)
            places += view.places.values()
        return StreamingResponse(
            archive.stream(gateway.instances, places),
            media_type=archive.MEDIA_TYPE,
            headers={"Content-Disposition": f'attachment; filename="{uid}.zip"'},
        )


def _add_actions(router: APIRouter, gateway: Gateway) -> None:
    services = gateway.services

    @router.delete(
        "/api/v1/studies/{uid}",
        summary="Delete a study from every cache",
        tags=["studies"],
        response_model=DeletedStudy,
        responses=NO_STUDY | NO_MASTER,
    )
    async def delete_study(uid: str, request: Request) -> Row:
        who = who_asks(gateway, request)
        deleted = await run_in_threadpool(services.delete_study, uid, who)
        gateway.views.forget(uid)
        number = len(deleted) if isinstance(deleted, Sized) else int(deleted or 0)
        return {"study_uid": uid, "deleted_objects": number}

    @router.post(
        "/api/v1/studies/{uid}/complete",
        status_code=202,
        summary="Nothing more will come for this study: prepare it now",
        tags=["studies"],
        responses=NO_STUDY | NO_MASTER,
    )
    def complete_study(uid: str) -> StudyUids:
        if services.study(uid) is None:
            raise NotFound(f"no study {uid}")
        services.hint_complete([uid])
        return StudyUids(study_uids=[uid])

    @router.post(
        "/api/v1/complete",
        status_code=202,
        summary="Nothing more will come for these studies: prepare them now",
        tags=["studies"],
        responses=NO_MASTER,
    )
    def complete_studies(body: StudyUids) -> StudyUids:
        if body.study_uids:
            services.hint_complete(body.study_uids)
        return body


def _series(gateway: Gateway, series_uid: str, instances: list[StoredInstance]) -> Row:
    ours = [one for one in instances if one.record.series_uid == series_uid]
    forms: dict[str, int] = {}
    for one in ours:
        forms[one.form] = forms.get(one.form, 0) + 1
    return {
        "series_uid": series_uid,
        "modality": ours[0].record.modality,
        "instances": len(ours),
        "frames": sum(one.record.frames for one in ours),
        "forms": forms,
        "packs": [
            {
                "tier": ref.tier,
                "pack_path": ref.pack_path,
                "header_path": ref.header_path,
                "token": ref.token,
            }
            for ref in gateway.services.locate(series_uid)
        ],
        "objects": [_object(one) for one in ours],
    }


def _object(one: StoredInstance) -> Row:
    told = {name: getattr(one.record, name) for name in _OBJECT_FIELDS}
    return told | {"form": one.form, "reason": one.reason}


def _add_ingest(router: APIRouter, gateway: Gateway) -> None:
    @router.post(
        "/api/v1/instances",
        summary="Store one Part 10 file, or many as multipart/related",
        tags=["ingest"],
        response_model=Ingested,
        openapi_extra=_INGEST_BODY,
        responses={415: says("Not DICOM"), **NO_INDEX},
    )
    async def ingest(request: Request) -> Row:
        objects = await store.ingest(
            gateway.services.intake,
            request.headers.get("content-type", ""),
            request.stream(),
            source=gateway.source(request.headers.get("x-raypacs-source"), "REST"),
            limit_bytes=await run_in_threadpool(gateway.max_instance_bytes),
            peer=request.client.host if request.client else "",
        )
        return store.rest_answer(objects)
