"""The application: resources put together, errors as problem details, OpenAPI text that is true."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match

from raypacs import __version__
from raypacs.errors import RaypacsError
from raypacs.web import problem
from raypacs.web.gateway import Gateway
from raypacs.web.problem import Problem
from raypacs.web.rest import (
    adoptions,
    archive,
    caches,
    cluster,
    erasures,
    evictions,
    planning,
    queue,
    restores,
    rules,
    state,
    statuses,
    studies,
    tiers,
)
from raypacs.web.rest.answers import BAD_REQUEST

_DESCRIPTION = """\
The REST API of a raypacs node; every node answers the same, whichever node the work is on. DICOMweb
(PS3.18), with pictures of frames and thumbnails up to studies, lies beside it under `/dicom-web`.
Times are seconds since the Unix epoch in UTC (`_s`),
sizes are bytes (`_bytes`). Errors are problem details (RFC 9457).
"""
_METHODS = ("GET", "POST", "PUT", "DELETE")
_TAGS = [
    {"name": "state", "description": "The cluster at a glance"},
    {"name": "studies", "description": "Studies and their stories"},
    {"name": "statuses", "description": "Status and flags of studies, senders, rules"},
    {"name": "erasures", "description": "Studies and patients erased for good, with a proof"},
    {"name": "queue", "description": "The one work queue of the cluster"},
    {"name": "cluster", "description": "Nodes and the master"},
    {"name": "adoptions", "description": "Archives of others, served from where they lie"},
    {"name": "evictions", "description": "What leaves the caches and why; pins"},
    {"name": "caches", "description": "Levels, forecasts and history of the caches"},
    {"name": "tiers", "description": "Places for bytes, and what moves between them"},
    {"name": "archive", "description": "Copies in libraries: when, what, and orders"},
    {"name": "restores", "description": "Studies back from libraries, asked for or ahead"},
    {"name": "settings", "description": "One configuration for the cluster"},
    {"name": "ingest", "description": "Objects in"},
]


def create_rest(gateway: Gateway) -> FastAPI:
    """Return the application of the REST API and the start page."""
    app = FastAPI(
        title="raypacs",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url="/api/v1/openapi.json",
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        exception_handlers={
            Problem: problem.handle,
            RaypacsError: problem.handle,
            HTTPException: _http_problem,
            RequestValidationError: _invalid,
            Exception: problem.unforeseen,
        },
    )
    for routes in (
        state,
        studies,
        statuses,
        rules,
        queue,
        adoptions,
        planning,
        caches,
        evictions,
        erasures,
        tiers,
        restores,
        archive,
        cluster,
    ):
        app.include_router(routes.create(gateway))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI text; wrong parameters are 400 problems here, not FastAPI's 422."""
    if app.openapi_schema is None:
        told = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        operations = [one for path in told["paths"].values() for one in path.values()]
        for operation in operations:
            answers = operation["responses"]
            own = answers.get("422", {}).get("description")
            if own == "Validation Error":
                del answers["422"]
            if own is not None:
                answers["400"] = BAD_REQUEST
        schemas = told.get("components", {}).get("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = told
    return app.openapi_schema


def _allowed(request: Request) -> str:
    """Return the methods of the resource; the framework names those of its first route alone."""
    routes = request.app.router.routes
    scope = dict(request.scope)
    found = []
    for method in _METHODS:
        asked = {**scope, "method": method}
        if any(route.matches(asked)[0] is Match.FULL for route in routes):
            found.append(method)
    return ", ".join(found)


async def _http_problem(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 500))
    detail = str(getattr(error, "detail", ""))
    headers = dict(getattr(error, "headers", None) or {})
    if status == 405:
        headers["Allow"] = _allowed(request)
    content = problem.body(status, detail)
    return Response(content, status, headers=headers, media_type=problem.MEDIA_TYPE)


async def _invalid(_request: Request, error: Exception) -> Response:
    """A parameter or body that is not what the operation takes: 400 that names the key."""
    assert isinstance(error, RequestValidationError)
    said = "; ".join(_named(one) for one in error.errors())
    content = problem.body(400, said, kind="InvalidQuery")
    return Response(content, 400, media_type=problem.MEDIA_TYPE)


def _named(error: dict[str, Any]) -> str:
    """Return one error as ``key: what is wrong``; the key as the sender wrote it."""
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error.get('ctx', {}).get('error', 'malformed')}"
    key = ".".join(str(part) for part in error["loc"][1:])
    why = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        why = "there is no such key"
    return f"{key}: {why}" if key else why
