"""The REST API (docs/rest.md): what the command line, jobs and the page use."""

from __future__ import annotations

import os
from collections.abc import Sized
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from raypacs import __version__
from raypacs.errors import AlreadyExists, NotFound, RaypacsError
from raypacs.records import StoredInstance
from raypacs.web import page, problem, store
from raypacs.web.gateway import Gateway
from raypacs.web.problem import Problem
from raypacs.web.services import Row

_DESCRIPTION = """\
The REST API of a raypacs node; every node answers the same. DICOMweb (PS3.18) lies beside it under
`/dicom-web`. Times are seconds since the Unix epoch in UTC (`_s`), sizes are bytes (`_bytes`).
Errors are problem details (RFC 9457).
"""
_PROBLEM = {"content": {problem.MEDIA_TYPE: {"schema": {"type": "object"}}}}
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"description": "No such study", **_PROBLEM}}
_NO_MASTER: dict[int | str, dict[str, Any]] = {
    503: {"description": "The master is not reachable; ask again after Retry-After", **_PROBLEM}
}
_INGEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/dicom": {"schema": {"type": "string", "format": "binary"}},
            "multipart/related": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


class StudyUids(BaseModel):
    """Studies by Study Instance UID."""

    study_uids: list[str] = Field(description="Study Instance UIDs (0020,000D)", max_length=10_000)


def create_rest(gateway: Gateway) -> FastAPI:
    """Return the application of the REST API and the start page."""
    app = FastAPI(
        title="raypacs",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            Problem: problem.handle,
            RaypacsError: problem.handle,
            HTTPException: _http_problem,
            RequestValidationError: _invalid,
        },
    )
    _add_state(app, gateway)
    _add_studies(app, gateway)
    _add_study_actions(app, gateway)
    _add_settings(app, gateway)
    _add_ingest(app, gateway)
    return app


async def _http_problem(_request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 500))
    detail = str(getattr(error, "detail", ""))
    return Response(problem.body(status, detail), status, media_type=problem.MEDIA_TYPE)


async def _invalid(_request: Request, error: Exception) -> Response:
    """A parameter or body that is not what the operation takes: 400, not FastAPI's 422."""
    assert isinstance(error, RequestValidationError)
    said = "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()
    )
    return Response(problem.body(400, said), 400, media_type=problem.MEDIA_TYPE)


def _add_state(app: FastAPI, gateway: Gateway) -> None:
    services = gateway.services

    @app.get(
        "/api/v1/health", summary="Is this process up and able to read the index", tags=["state"]
    )
    def health() -> Row:
        services.settings()
        name = services.node.get("name", "")
        return {"status": "ok", "node": name, "version": __version__, "pid": os.getpid()}

    @app.get("/api/v1/status", summary="The cluster at a glance", tags=["state"])
    def status() -> Row:
        return {"version": __version__, "node": services.node, **services.status()}

    @app.get("/api/v1/queue", summary="Work items, newest first", tags=["state"])
    def queue(
        limit: Annotated[int, Query(ge=1, le=10_000, description="Most items returned")] = 100,
        state: Annotated[str, Query(description="Only items in this state")] = "",
        kind: Annotated[str, Query(description="Only items of this kind")] = "",
        study_uid: Annotated[str, Query(description="Only items of this study")] = "",
    ) -> list[Row]:
        filters = {"state": state, "kind": kind, "study_uid": study_uid}
        return services.queue(limit, {key: value for key, value in filters.items() if value})

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def start_page() -> str:
        studies = services.search_studies({"limit": ["50"]})
        return page.render(services.node, services.status(), studies, services.queue(20, {}))


def _add_studies(app: FastAPI, gateway: Gateway) -> None:
    services = gateway.services

    @app.get(
        "/api/v1/studies", summary="Search studies, with the keys of QIDO-RS", tags=["studies"]
    )
    def studies(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100_000, description="Most rows")] = 1000,
        offset: Annotated[int, Query(ge=0, description="Rows to skip")] = 0,
    ) -> list[Row]:
        params: dict[str, list[str]] = {}
        for key, value in request.query_params.multi_items():
            params.setdefault(key, []).append(value)
        return services.search_studies(params | {"limit": [str(limit)], "offset": [str(offset)]})

    @app.get(
        "/api/v1/studies/{uid}",
        summary="One study with its series, objects, forms, packs and conflicts",
        tags=["studies"],
        responses=_NOT_FOUND,
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


def _add_study_actions(app: FastAPI, gateway: Gateway) -> None:
    services = gateway.services

    @app.delete(
        "/api/v1/studies/{uid}",
        summary="Delete a study from every cache",
        tags=["studies"],
        responses=_NOT_FOUND | _NO_MASTER,
    )
    async def delete(uid: str) -> Row:
        deleted = await run_in_threadpool(services.delete_study, uid)
        gateway.views.forget(uid)
        number = len(deleted) if isinstance(deleted, Sized) else int(deleted or 0)
        return {"study_uid": uid, "deleted_objects": number}

    @app.post(
        "/api/v1/studies/{uid}/complete",
        status_code=202,
        summary="Nothing more will come for this study: prepare it now",
        tags=["studies"],
        responses=_NOT_FOUND | _NO_MASTER,
    )
    def complete_one(uid: str) -> StudyUids:
        if services.study(uid) is None:
            raise NotFound(f"no study {uid}")
        services.hint_complete([uid])
        return StudyUids(study_uids=[uid])

    @app.post(
        "/api/v1/complete",
        status_code=202,
        summary="Nothing more will come for these studies: prepare them now",
        tags=["studies"],
        responses=_NO_MASTER,
    )
    def complete(body: StudyUids) -> StudyUids:
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
    record = one.record
    fields = (
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
    return {name: getattr(record, name) for name in fields} | {
        "form": one.form,
        "reason": one.reason,
    }


def _add_settings(app: FastAPI, gateway: Gateway) -> None:
    services = gateway.services

    @app.get("/api/v1/settings", summary="The settings and their version", tags=["settings"])
    def settings() -> Row:
        version, current = services.settings()
        return {"version": version, "settings": current.model_dump(mode="json")}

    @app.put(
        "/api/v1/settings",
        summary="Apply whole settings, or {version, settings} only if that version is current",
        tags=["settings"],
        responses={
            409: {"description": "Another version is current", **_PROBLEM},
            422: {"description": "A setting is wrong; says which", **_PROBLEM},
            **_NO_MASTER,
        },
    )
    def apply(body: dict[str, Any], request: Request) -> Row:
        if "settings" in body:
            current = services.settings()[0]
            if body.get("version", current) != current:
                raise AlreadyExists(f"version {current} of the settings is current")
            body = body["settings"]
        client = request.client.host if request.client else ""
        who = gateway.source(request.headers.get("x-raypacs-source"), f"REST {client}")
        return {"version": services.apply_settings(body, who)}


def _add_ingest(app: FastAPI, gateway: Gateway) -> None:
    @app.post(
        "/api/v1/instances",
        summary="Store one Part 10 file, or many as multipart/related",
        tags=["ingest"],
        openapi_extra=_INGEST_BODY,
        responses={415: {"description": "Not DICOM", **_PROBLEM}},
    )
    async def ingest(request: Request) -> Row:
        objects = await store.ingest(
            gateway.services.intake,
            request.headers.get("content-type", ""),
            request.stream(),
            source=gateway.source(request.headers.get("x-raypacs-source"), "REST"),
            limit_bytes=await run_in_threadpool(gateway.max_instance_bytes),
        )
        return store.rest_answer(objects)
