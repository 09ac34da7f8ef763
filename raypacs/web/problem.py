"""Errors as problem details (RFC 9457): one table from raypacs errors to HTTP status."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from raypacs.errors import (
    AlreadyExists,
    ConfigError,
    IllegalTransition,
    InstanceAway,
    InvalidQuery,
    MalformedInstance,
    MasterUnavailable,
    NotFound,
    PackCorrupt,
    RaypacsError,
    RestoreUnderWay,
    TierFull,
    TierUnavailable,
    UnsupportedPixels,
)

MEDIA_TYPE = "application/problem+json"

_RESTORE = ("study_uid", "item_id", "percent", "url")

_STATUS: tuple[tuple[type[RaypacsError], int], ...] = (
    (NotFound, 404),
    (InstanceAway, 404),
    (RestoreUnderWay, 503),
    (InvalidQuery, 400),
    (MalformedInstance, 400),
    (ConfigError, 422),
    (UnsupportedPixels, 406),
    (AlreadyExists, 409),
    (IllegalTransition, 409),
    (TierFull, 507),
    (TierUnavailable, 503),
    (MasterUnavailable, 503),
    (PackCorrupt, 500),
)


class Problem(Exception):
    """A request that cannot be answered: status, what is wrong, and headers to send with it."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        # Keyword arguments name headers with underscores.
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def status_of(error: RaypacsError) -> int:
    """Return the HTTP status for a raypacs error (500 when none fits)."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return 500


def body(
    status: int,
    detail: str,
    *,
    hint: str = "",
    kind: str = "",
    more: Mapping[str, object] | None = None,
) -> bytes:
    """Return the JSON of a problem; ``more``: extension members (RFC 9457 section 3.2)."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if hint:
        problem["hint"] = hint
    if kind:
        problem["kind"] = kind
    problem |= more or {}
    return json.dumps(problem).encode()


def response(error: Problem | RaypacsError) -> Response:
    """Return the response that tells of ``error``."""
    if isinstance(error, Problem):
        return Response(
            body(error.status, error.detail),
            error.status,
            headers=error.headers,
            media_type=MEDIA_TYPE,
        )
    status = status_of(error)
    headers = {"Retry-After": "2"} if status == 503 else {}
    more: dict[str, object] = {}
    if isinstance(error, RestoreUnderWay):
        more = {"restore": {name: error.fields[name] for name in _RESTORE if name in error.fields}}
        headers = {"Retry-After": str(error.fields.get("retry_after_s", 5))}
    content = body(status, str(error), hint=error.hint, kind=type(error).__name__, more=more)
    return Response(content, status, headers=headers, media_type=MEDIA_TYPE)


async def unforeseen(_request: Request, _error: Exception) -> Response:
    """Answer an error that nobody thought of; what it was is for the log, not for the asker."""
    content = body(500, "an error in raypacs; its log says more")
    # The error goes on to the server, which logs it and ends the connection.
    return Response(content, 500, headers={"Connection": "close"}, media_type=MEDIA_TYPE)


async def handle(_request: Request, error: Exception) -> Response:
    """Exception handler for the application: problems and raypacs errors."""
    if isinstance(error, Problem | RaypacsError):
        return response(error)
    raise error
